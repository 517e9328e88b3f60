"""The gateway's pages for people: all builds, one build with what each replica found, its logs.

Rendered here; only a log that grows needs JavaScript, some lines of our own. All text from outside
is escaped by the template engine, and a strict Content-Security-Policy stands behind that.
"""

import functools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from aiohttp import web

from ci.operations import Outcome
from client.api import ApiError, Handler, Site
from client.view import BallotView, BuildStatus, BuildView, ReplicaView

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_SUPERSEDED = re.compile(r"superseded by ([0-9a-f]{64})")
OPEN_REFRESH_SECONDS = 2
TABLE_REFRESH_SECONDS = 5


class ReplicaRow(msgspec.Struct, frozen=True):
    """One replica's line on a build's page; `stance`: agrees, dissents, abstains or none yet."""

    replica: str
    ballot: BallotView | None
    stance: str
    has_log: bool
    is_signed: bool
    state: ReplicaView | None


def add_pages(application: web.Application, site: Site) -> "Pages":
    """Add the pages' routes; gives what renders more of them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = Pages(site, environment)
    bound = functools.partial(bound_page, pages)
    application.router.add_get("/", bound(pages.show_builds))
    application.router.add_get("/builds/{build}", bound(pages.show_build))
    application.router.add_get("/builds/{build}/log/{replica}", bound(pages.show_log))
    application.router.add_get("/static/{file:style.css|log.js}", pages.show_static)
    return pages


def bound_page(
    pages: "Pages", handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> Handler:
    """The handler, with its ApiErrors as pages."""
    return functools.partial(_errors_as_page, pages, handler)


class Pages:
    """Renders the templates, and serves the pages that are about builds and their logs."""

    def __init__(self, site: Site, environment: jinja2.Environment) -> None:
        self._site = site
        self._environment = environment
        self._static = {
            "style.css": ("text/css", (STATIC / "style.css").read_bytes()),
            "log.js": ("text/javascript", (STATIC / "log.js").read_bytes()),
        }

    async def show_builds(self, request: web.Request) -> web.Response:
        """GET /?after=<build>."""
        page = self._site.page(request)
        is_first = "after" not in request.query
        return self.render(
            "builds.html",
            page=page,
            refresh_seconds=TABLE_REFRESH_SECONDS if is_first else None,
            webhook_url=f"{self._site.public_url}/webHook",
            connected=len(self._site.connected()),
        )

    async def show_build(self, request: web.Request) -> web.Response:
        """GET /builds/<id>."""
        record = self._site.record(request)
        build = await self._site.fresh_view(record)
        is_open = build.status in (BuildStatus.QUEUED, BuildStatus.BUILDING)
        rows = replica_rows(build, self._site.cluster.replica_names)
        # Late ballots and logs still come in after the verdict, until they are given up.
        later = None if record.collected else TABLE_REFRESH_SECONDS
        refresh = OPEN_REFRESH_SECONDS if is_open else later
        return self.render(
            "build.html",
            build=build,
            rows=rows,
            refresh_seconds=refresh,
            verify_command=verify_command(self._site, build),
            superseded_by=superseded_by(build),
        )

    async def show_log(self, request: web.Request) -> web.Response:
        """GET /builds/<id>/log/<replica>: the log, followed while it grows."""
        record = self._site.record(request)
        replica = self._site.replica(request)
        build = self._site.view(record)
        return self.render("log.html", build=build, replica=replica, refresh_seconds=None)

    async def show_static(self, request: web.Request) -> web.Response:
        """GET /static/<file>."""
        content_type, data = self._static[request.match_info["file"]]
        headers = {"X-Content-Type-Options": "nosniff"}
        return web.Response(body=data, content_type=content_type, charset="utf-8", headers=headers)

    def render(self, template: str, status: int = 200, **values: Any) -> web.Response:
        """A page of these values, with the headers that all pages have."""
        text = self._environment.get_template(template).render(
            replicas=self._site.cluster.quorums.replicas,
            version=self._site.version,
            **values,
        )
        return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)


async def _errors_as_page(
    pages: Pages,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    request: web.Request,
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return pages.render("error.html", error.status, text=error.text, refresh_seconds=None)


def replica_rows(build: BuildView, replicas: tuple[str, ...]) -> list[ReplicaRow]:
    """One row for each replica of the cluster, whether it has said something or not. Pure."""
    ballots = {ballot.replica: ballot for ballot in build.ballots}
    states = {row.replica: row for row in build.replicas}
    signed = {reply.replica for reply in build.replies if reply.agrees and reply.signed}
    rows = []
    for replica in replicas:
        ballot = ballots.get(replica)
        rows.append(
            ReplicaRow(
                replica=replica,
                ballot=ballot,
                stance=_stance(build, replica, ballot),
                has_log=replica in build.logs,
                is_signed=replica in signed,
                state=states.get(replica),
            )
        )
    return rows


def verify_command(site: Site, build: BuildView) -> str:
    """What to type to check the verdict without trusting the gateway."""
    url = f"{site.public_url}/api/v1/builds/{build.id}/attestation"
    return (
        f"curl -s {url} > verdict.intoto.json\n"
        "python -m client verify verdict.intoto.json --cluster cluster.yml"
    )


def _stance(build: BuildView, replica: str, ballot: BallotView | None) -> str:
    if ballot is not None and ballot.abstains is not None:
        return "abstains"
    if build.verdict is not None and replica in build.verdict.agreeing:
        return "agrees"
    if build.verdict is not None and replica in build.verdict.dissenting:
        return "dissents"
    if ballot is not None:
        return "found"
    is_cancelled = build.verdict is not None and build.verdict.outcome == Outcome.CANCELLED
    return "none" if is_cancelled else "none yet"


def superseded_by(build: BuildView) -> str | None:
    """The id of the build that took this one's place, if that is why it was cancelled. Pure."""
    found = _SUPERSEDED.fullmatch(build.withdrawn or "")
    return None if found is None else found[1]
