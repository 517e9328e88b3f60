"""The routes that change something, and who may use them: cancel, rebuild, approve, append.

With `api_token_file` they take one of its tokens as a Bearer token. Without it they are open to
callers on this machine alone: the gateway has to listen on loopback, to be called by a loopback
name, and not by a proxy that adds a header. (common.web.limited_listener refuses what a browser
sends for a foreign page.) A proxy on this machine that adds no header looks like a person here. So
nobody changes anything without a token if `public_url` names anything but this machine.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from client.api.routes import (
    Accepted,
    ApiError,
    Handler,
    Site,
    json_response,
    on_append,
    queue_full,
)
from client.gateway.build_changes import CANCELLED, REASON_CHARACTERS_MAX, CannotChange
from client.gateway.write_queue import QueueFull
from common.configuration.config import ClientConfig
from common.configuration.secret_file import read_bearer_tokens
from common.web.http_tokens import bearer_token, is_one_of
from common.web.limited_listener import is_asked_on_this_machine, is_loopback_host, origin_of

BODY_BYTES_MAX = 16 * 1024
# Anybody's loop of rebuilds must not be worth trying tokens.
TOKEN_CHARACTERS_MAX = 1024

Change = Callable[[web.Request], Awaitable[web.Response]]


class _Rebuild(msgspec.Struct, frozen=True):
    cold: bool = False


class _Reason(msgspec.Struct, frozen=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=REASON_CHARACTERS_MAX)] = CANCELLED


def is_for_others(config: ClientConfig) -> bool:
    """Whether the gateway's own operator says that more than this machine reaches it."""
    if not config.listen.is_loopback or config.public_url is None:
        return not config.listen.is_loopback
    public = origin_of(config.public_url)
    return public is None or not is_loopback_host(public.host)


class Authorizer:
    """Decides who may change something."""

    def __init__(self, config: ClientConfig) -> None:
        """Raises ConfigError where the token file cannot be used."""
        file = config.api_token_file
        self.tokens: Sequence[bytes] = () if file is None else read_bearer_tokens(file, "API token")
        self._is_for_others = is_for_others(config)

    def guard(self, change: Change) -> Handler:
        """The handler, for those who may."""

        @functools.wraps(change)
        async def guarded(request: web.Request) -> web.StreamResponse:
            self.check(request)
            return await change(request)

        return guarded

    @property
    def needs_token(self) -> bool:
        """Whether it takes a token to change something."""
        return bool(self.tokens)

    def is_open_to(self, request: web.Request) -> bool:
        """Whether anybody at all may change something by the way that this request came."""
        is_open_here = not self._is_for_others and is_asked_on_this_machine(request)
        return self.needs_token or is_open_here

    def check(self, request: web.Request) -> None:
        """Raises ApiError (401, 403) for whoever may not."""
        self._check_token(
            request,
            bearer_token(request),
            "this takes one of the API's tokens: Authorization: Bearer TOKEN",
        )

    def check_form(self, request: web.Request, token: str) -> None:
        """The same for a form of ours, with the token that was typed into it. Raises ApiError."""
        self._check_token(
            request,
            token.strip()[:TOKEN_CHARACTERS_MAX].encode(),
            "that is none of the API's tokens, so nothing was changed. Go back and type one; they "
            "are in the file that `api_token_file:` names in the gateway's configuration",
        )

    def _check_token(self, request: web.Request, given: bytes, refusal: str) -> None:
        if not self.is_open_to(request):
            raise ApiError(
                403,
                "changes need `api_token_file:` in the gateway's configuration where it listens "
                "beyond loopback, has a `public_url`, or is asked by another machine or a proxy: "
                "put a token into a file (openssl rand -hex 32), chmod 600, name the file there, "
                "and show the token as Authorization: Bearer TOKEN, as the command line does",
            )
        if self.tokens and not is_one_of(given, self.tokens):
            raise ApiError(401, refusal)


class ChangeApi:
    """Serves the changes."""

    def __init__(self, site: Site, authorizer: Authorizer) -> None:
        self._site = site
        self._authorizer = authorizer

    def add_routes(self, application: web.Application) -> None:
        """Add them."""
        changes = (("cancel", self._cancel), ("rebuild", self._rebuild), ("approve", self._approve))
        for name, change in changes:
            path = f"/api/v1/builds/{{build}}/{name}"
            application.router.add_post(path, self._authorizer.guard(change))
        append = functools.partial(on_append, self._site)
        application.router.add_post("/api/v1/append", self._authorizer.guard(append))

    async def _cancel(self, request: web.Request) -> web.Response:
        """POST .../cancel {"reason": ...}: 200 with the build; it may take the network a moment."""
        record = self._site.record(request)
        body = await self._site.read_body(request, BODY_BYTES_MAX)
        try:
            reason = msgspec.json.decode(body, type=_Reason).reason if body.strip() else CANCELLED
        except (ValueError, RecursionError) as error:
            raise ApiError(
                400, f'the body: {error}; send nothing, or {{"reason": "..."}}'
            ) from error
        await cancel(self._site, record.build, reason)
        return self._show(record.build)

    async def _rebuild(self, request: web.Request) -> web.Response:
        """POST .../rebuild {"cold": ...}: 202 with the id of a new build of the same commit, ref
        and event."""
        record = self._site.record(request)
        body = await self._site.read_body(request, BODY_BYTES_MAX)
        try:
            is_cold = bool(body.strip()) and msgspec.json.decode(body, type=_Rebuild).cold
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f'the body: {error}; send nothing, or {{"cold": true}}') from error
        build = await rebuild(self._site, record.build, is_cold=is_cold)
        url = f"{self._site.public_url}/builds/{build.hex()}"
        return json_response(Accepted(build.hex(), url), 202, {"Location": url})

    async def _approve(self, request: web.Request) -> web.Response:
        """POST .../approve: 200 with the build; the gateway has to be an operator's."""
        record = self._site.record(request)
        await approve(self._site, record.build)
        return self._show(record.build)

    def _show(self, build: bytes) -> web.Response:
        record = self._site.archive.get(build)
        assert record is not None, "nothing that changes is removed"
        return json_response(self._site.view(record))


async def cancel(site: Site, build: bytes, reason: str) -> None:
    """As Gateway.cancel. Raises ApiError (409)."""
    try:
        await site.gateway.cancel(build, reason)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error


async def rebuild(site: Site, build: bytes, *, is_cold: bool = False) -> bytes:
    """As Gateway.rebuild. Raises ApiError (409, 429)."""
    try:
        return await site.gateway.rebuild(build, is_cold=is_cold)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error
    except QueueFull as error:
        raise queue_full(error) from error


async def approve(site: Site, build: bytes) -> None:
    """As Gateway.approve. Raises ApiError (409)."""
    try:
        await site.gateway.approve(build)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error
