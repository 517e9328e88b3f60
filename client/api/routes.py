"""The gateway over HTTP: webhooks in, builds out as JSON, logs, envelopes, health.

Every refusal is `{"error": text}`; the text says what was wrong, where, and what to do. Reading a
request is bounded in size and time, so that a half-sent one does not stay.
"""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web

from ci.statement import envelope, keyid_for
from client.api.refusal_log import RefusalLog
from client.gateway.build_changes import CannotChange
from client.gateway.collector import Collector
from client.gateway.gateway import Gateway
from client.gateway.resolve import NoSuchBranch, Unreachable
from client.gateway.webhook_router import (
    Answered,
    Ordered,
    Reception,
    Source,
    Withdrawn,
    body_bytes_max,
    receive,
)
from client.gateway.write_queue import QueueFull
from client.network.network_watch import NetworkWatch
from client.network.nodes import STATUS_TIMEOUT_SECONDS
from client.storage.archive import Archive, BuildRecord
from client.storage.build_filter import InvalidFilter, read_filter
from client.storage.database import StorageFailed
from client.views.build_view import BuildView, build_view
from client.views.commit_view import About
from common.configuration.config import ClientConfig
from common.configuration.secret_file import read_secrets
from common.english import counted
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Refusal
from common.forges.web_pages import WebPages, web_pages
from common.web.request_body import Bodies, BodyRefused

APPEND_TIMEOUT_SECONDS = 30.0
# A glance at the nodes must not make a page wait for one that is down.
GLANCE_TIMEOUT_SECONDS = 1.0
NETWORK_TIMEOUT_SECONDS = STATUS_TIMEOUT_SECONDS + 0.5
PAGE_BUILDS = 25
PAGE_BUILDS_MAX = 100
RETRY_AFTER_SECONDS = 10
# What all who are sending something may have in memory together: some webhooks of full size.
BODIES_BYTES_MAX = 400 * 1024 * 1024
APPEND_BODY_BYTES_MAX = 256 * 1024
# ci.operations.Append takes no more.
APPEND_CHARACTERS_MAX = 16 * 1024

# Forges sign what they send, and health says nothing of builds. All else takes a read token where
# there are some, changes too: their answers show builds.
OPEN_ROUTES = frozenset({"/webHook", "/webhook", "/healthz", "/readyz"})

BUILD_ID = re.compile(r"[0-9a-f]{64}")
# The beginning of one, as people copy it.
SHORT_ID = re.compile(r"[0-9a-f]{6,63}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is not 200: the status, what to do about it, and when to come back."""

    def __init__(self, status: int, text: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after_seconds = retry_after_seconds


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of the 202; of the 200 to what is here already, or skipped."""

    build: str
    url: str
    detail: str = ""


class BuildPage(msgspec.Struct, frozen=True):
    """Some builds, newest first; `next`: the `after` of the following page."""

    builds: list[BuildView]
    next: str | None


class Site:
    """What the handlers of the API and the pages share."""

    def __init__(
        self,
        *,
        config: ClientConfig,
        version: str,
        gateway: Gateway,
        archive: Archive,
        collector: Collector,
        network: NetworkWatch,
    ) -> None:
        """Raises ConfigError if a webhook's secret cannot be read."""
        self.config = config
        self.version = version
        self.gateway = gateway
        self.archive = archive
        self.collector = collector
        self.network = network
        self.cluster = network.cluster
        self.nodes = network.nodes
        self.connected = network.connected
        self.public_url = (config.public_url or config.listen.url).rstrip("/")
        self.sources = sources_of(config)
        self._pages = _pages_of(self.sources)
        self.refusals = RefusalLog()
        self._bodies = Bodies(BODIES_BYTES_MAX)

    def use_repositories(self, config: ClientConfig, sources: tuple[Source, ...]) -> None:
        """Serve the repositories of this configuration. sources: theirs (`sources_of`)."""
        self.config = config
        self.sources = sources
        self._pages = _pages_of(sources)

    def record(self, request: web.Request) -> BuildRecord:
        """The build that the path names. Raises ApiError."""
        text = request.match_info["build"].lower()
        if SHORT_ID.fullmatch(text):
            found = self.archive.ids_beginning(text, 2)
            if len(found) > 1:
                raise ApiError(404, f"several builds have ids that begin with {text}: give more")
            text = found[0].hex() if found else text
        record = self.archive.get(bytes.fromhex(text)) if BUILD_ID.fullmatch(text) else None
        if record is None:
            raise ApiError(404, "no such build here; GET /api/v1/builds lists those there are")
        return record

    def replica(self, request: web.Request) -> str:
        """The replica that the path names. Raises ApiError."""
        replica = request.match_info["replica"]
        if self.cluster.replica_index(replica) is None:
            names = ", ".join(self.cluster.replica_names)
            raise ApiError(404, f"no replica of that name; there are {names}")
        return replica

    def view(self, record: BuildRecord) -> BuildView:
        """The build as it is shown."""
        build = record.build
        return build_view(
            record,
            self.archive.ballots(build),
            self.archive.replies(build),
            states=self.collector.states(build),
            rebuilds=self.archive.rebuilds(build),
            about=self.about(record),
        )

    def about(self, record: BuildRecord) -> About:
        """What is known of a build's commit, and where its forge shows it."""
        commits = self.archive.commits
        return About(
            commit=None if record.commit is None else commits.get(record.commit),
            words=commits.words(record.build),
            pages=self._pages.get(record.repository),
        )

    async def fresh_view(self, record: BuildRecord) -> BuildView:
        """The same, with the ballots that an open build has so far."""
        if record.opened_at is not None and record.statement is None:
            await self.collector.glance(record.build, GLANCE_TIMEOUT_SECONDS)
            record = self.archive.get(record.build) or record
        return self.view(record)

    async def read_body(self, request: web.Request, bytes_max: int) -> bytes:
        """A request's whole body, as common.web.request_body.Bodies reads it. Raises ApiError."""
        try:
            return await self._bodies.read(request, bytes_max)
        except BodyRefused as error:
            raise ApiError(error.status, error.text, error.retry_after_seconds) from error

    def page(self, request: web.Request, *, is_part: bool = False) -> BuildPage:
        """The builds that an address asks for. Raises ApiError.

        `?repository=` and so on (client.storage.build_filter), `?after=<build>&limit=<n>`.
        """
        try:
            only = read_filter(request.query, is_part=is_part)
        except InvalidFilter as error:
            raise ApiError(400, str(error)) from error
        limit_text = request.query.get("limit", str(PAGE_BUILDS))
        if not (limit_text.isascii() and limit_text.isdigit() and int(limit_text[:9]) >= 1):
            raise ApiError(400, f"`limit` is a number from 1 to {PAGE_BUILDS_MAX}")
        limit = min(int(limit_text[:9]), PAGE_BUILDS_MAX)
        before = None
        after = request.query.get("after")
        if after is not None:
            last = self.archive.get(bytes.fromhex(after)) if BUILD_ID.fullmatch(after) else None
            if last is None:
                raise ApiError(404, "`after` must be the id of a build; take it from `next`")
            before = last.number
        records = self.archive.page(before, limit + 1, only)
        builds = [self.view(record) for record in records[:limit]]
        return BuildPage(builds, builds[-1].id if len(records) > limit else None)


def sources_of(config: ClientConfig) -> tuple[Source, ...]:
    """Who may ask for builds, with the secrets as they are now. Raises ConfigError."""
    return tuple(
        Source(
            entry,
            ()
            if entry.webhook_secret_file is None
            else read_secrets(entry.webhook_secret_file, "webhook secret"),
        )
        for entry in config.repositories
    )


def _pages_of(sources: tuple[Source, ...]) -> dict[str, WebPages]:
    """Where forges show the repositories, by their URLs."""
    found = {
        source.entry.url: web_pages(source.entry.forge, (source.entry.url, *source.entry.aliases))
        for source in sources
    }
    return {url: pages for url, pages in found.items() if pages is not None}


def add_routes(application: web.Application, site: Site) -> None:
    """Add the API's routes."""

    def bound(handler: Callable[[Site, web.Request], Awaitable[web.StreamResponse]]) -> Handler:
        return functools.partial(handler, site)

    router = application.router
    router.add_post("/webHook", bound(on_webhook))
    router.add_post("/webhook", bound(on_webhook))
    router.add_get("/healthz", bound(show_health))
    router.add_get("/api/v1/builds", bound(show_builds))
    router.add_get("/api/v1/builds/{build}", bound(show_build))
    router.add_get("/api/v1/builds/{build}/log/{replica}", bound(show_log))
    router.add_get("/api/v1/builds/{build}/attestation", bound(show_attestation))
    router.add_get("/api/v1/network", bound(show_network))


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as `{"error": text}`; our own faults are logged, not shown."""
    try:
        response = await handler(request)
    except ApiError as error:
        headers = {}
        if error.retry_after_seconds is not None:
            headers["Retry-After"] = str(error.retry_after_seconds)
        response = json_response({"error": error.text}, error.status, headers)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        text = f"{request.method} {request.path}: {error.reason}"
        response = json_response({"error": text}, error.status, headers)
    except StorageFailed as error:
        _log.error("%s", error)
        response = json_response(
            {"error": "the gateway cannot store anything now; try again later"},
            503,
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


def json_response(
    value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A value as JSON with a line end, for people with curl."""
    return web.Response(
        body=msgspec.json.encode(value) + b"\n",
        status=status,
        content_type="application/json",
        headers=headers,
    )


async def on_webhook(site: Site, request: web.Request) -> web.Response:
    """POST /webHook: 202 with the build's id once the outbox is on disk.

    200: nothing new is built (a ping, a deletion, a redelivery ...), and why.
    """
    received = await _receive(site, request)
    if isinstance(received, Refusal):
        site.refusals.note(received)
        raise ApiError(received.status, received.text)
    if isinstance(received, Answered):
        return json_response({"detail": received.detail})
    if isinstance(received, Withdrawn):
        return json_response({"detail": await _withdraw(site, received)})
    # side by side, so that they share one question to the git server and one commit to the disk
    answers = await asyncio.gather(
        *(_order(site, ordered) for ordered in (received, *received.others))
    )
    # of several refs that one push moved the answer names one, a new one if there is one
    status, accepted = next((a for a in answers if a[0] == 202), answers[0])
    if isinstance(accepted, str):
        return json_response({"detail": accepted})
    if len(answers) > 1:
        detail = f"{counted(len(answers), 'ref')} of one push; this is one of their builds"
        accepted = msgspec.structs.replace(accepted, detail=detail)
    return json_response(accepted, status, {"Location": accepted.url})


async def _order(site: Site, ordered: Ordered) -> tuple[int, Accepted | str]:
    """Have one build ordered; the status that answers it, and the body, or why there is no build.

    Raises ApiError.
    """
    request = ordered.build
    if ordered.commit_prefix is not None:
        found = await site.gateway.find_commit(request)
        if isinstance(found, Unreachable):
            raise ApiError(
                503,
                f"the forge tells only the beginning of the commit, and its git server does not"
                f" answer: {found.reason}; deliver it again",
                RETRY_AFTER_SECONDS,
            )
        if isinstance(found, NoSuchBranch) or not found.commit.startswith(ordered.commit_prefix):
            return 200, "ignored: its ref has moved on by now, which another delivery tells"
        request = msgspec.structs.replace(request, commit=found.commit)
    try:
        submitted = await site.gateway.order(request, ordered.skip_reason)
    except QueueFull as error:
        raise queue_full(error) from error
    url = f"{site.public_url}/builds/{submitted.build.hex()}"
    detail = f"skipped: {ordered.skip_reason}" if ordered.skip_reason else ""
    if not submitted.is_new:
        detail = "this delivery was received before; it is this build"
    return 200 if detail else 202, Accepted(submitted.build.hex(), url, detail)


async def _withdraw(site: Site, withdrawn: Withdrawn) -> str:
    """Withdraw the request of an earlier delivery; what came of it."""
    try:
        await site.gateway.withdraw(withdrawn.build, withdrawn.reason)
    except CannotChange as error:
        return f"ignored: {withdrawn.reason}; {error}"
    return f"cancelled: {withdrawn.reason}"


async def _receive(site: Site, request: web.Request) -> Reception:
    """What the webhook comes to; its body, which may be large, is not kept beyond that."""
    headers = Delivery.of(request.headers.items(), b"")
    body = await site.read_body(request, body_bytes_max(headers))
    return receive(
        Delivery(headers.headers, body),
        site.sources,
        now=time.time(),
        config_file=site.config.file.name,
    )


async def show_builds(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/builds?repository=&branch=&commit=&author=&event=&outcome=&after=&limit=."""
    return json_response(site.page(request))


async def show_build(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/builds/<id>."""
    return json_response(await site.fresh_view(site.record(request)))


async def show_log(site: Site, request: web.Request) -> web.StreamResponse:
    """GET /api/v1/builds/<id>/log/<replica>: the archived log, as that replica's ballot names it.

    A build's output is a stranger's text: it is never shown as anything but plain text.
    """
    record = site.record(request)
    replica = site.replica(request)
    ballots = site.archive.ballots(record.build)
    if not any(ballot.replica == replica and ballot.log_archived for ballot in ballots):
        raise ApiError(404, f"no log of {replica} is archived (yet): it has to match its ballot")
    return web.FileResponse(
        site.archive.log_file(record.build, replica),
        headers={
            "Content-Type": "text/plain; charset=utf-8",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )


async def show_attestation(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/builds/<id>/attestation: the DSSE envelope, once f+1 replicas signed it."""
    record = site.record(request)
    status = site.view(record).status
    if record.statement is None:
        raise ApiError(404, f"the build is {status}; there is an attestation once it is decided")
    signatures = []
    for reply in site.archive.replies(record.build):
        public_key = site.cluster.public_key(reply.replica)
        if reply.attestation is not None and public_key is not None:
            signatures.append((keyid_for(public_key), reply.attestation))
    needed = site.cluster.quorums.weak
    if len(signatures) < needed:
        raise ApiError(
            404, f"signatures here: {len(signatures)} of {needed}; the rest is asked for"
        )
    return json_response(
        envelope(record.statement, signatures),
        headers={"Content-Disposition": f'inline; filename="{record.build.hex()}.intoto.json"'},
    )


async def show_health(site: Site, request: web.Request) -> web.Response:
    """GET /healthz: 200 while the gateway accepts webhooks."""
    return json_response(
        {
            "status": "ok",
            "version": site.version,
            "cluster": site.cluster.id.hex(),
            "connected": sorted(site.connected()),
            "waiting": site.gateway.unfinished,
        }
    )


async def show_network(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/network: the replicas (`status` is null: no answer in time), and the ledger."""
    return json_response(await site.network.look(NETWORK_TIMEOUT_SECONDS))


async def on_append(site: Site, request: web.Request) -> web.Response:
    """POST /api/v1/append {"text": ...}: 200 with the journal's digest and length.

    202 where the network takes longer: the text is on disk and will be appended; posting it
    again would append it twice.
    """
    body = await site.read_body(request, APPEND_BODY_BYTES_MAX)
    try:
        text = msgspec.json.decode(body, type=_AppendBody).text
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f'the body: {error}; send {{"text": "..."}}') from error
    try:
        future = await site.gateway.append(text)
    except QueueFull as error:
        raise queue_full(error) from error
    try:
        async with asyncio.timeout(APPEND_TIMEOUT_SECONDS):
            result = await asyncio.shield(future)
    except TimeoutError:
        detail = "accepted and not ordered yet; do not send it again"
        return json_response({"detail": detail}, 202)
    if result.refused is not None:
        raise ApiError(409, f"the network refused: {result.refused}")
    return json_response({"digest": result.digest, "length": result.length})


class _AppendBody(msgspec.Struct, frozen=True):
    text: Annotated[str, msgspec.Meta(max_length=APPEND_CHARACTERS_MAX)]


def queue_full(error: QueueFull) -> ApiError:
    """429, and when to come back."""
    return ApiError(429, f"{error}; try again later", RETRY_AFTER_SECONDS)
