"""The routes that change something, and who may use them: cancel, rebuild, approve, note, append.

With `api_token_file` they take one of its tokens as a Bearer token. Without it they are open to
callers on this machine alone: the gateway has to listen on loopback, to be called by a loopback
name, and not by a proxy that adds a header. (common.web.limited_listener refuses what a browser
sends for a foreign page.) A proxy on this machine that adds no header looks like a person here. So
nobody changes anything without a token if `public_url` names anything but this machine.

With `login:` a person with the role may, by the forms of the pages (client.dashboard.change_forms).
Tokens stay as they are; this machine alone gives nobody a right any more.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from ci.operations import NoteText
from client.api.routes import (
    GLANCE_TIMEOUT_SECONDS,
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
from client.login.people import People, current_person
from client.login.roles import Role
from client.network.signed_changes import SignedChange
from client.storage.audit import Actor
from common.configuration.config import ClientConfig
from common.configuration.secret_file import read_bearer_tokens
from common.web.http_tokens import bearer_token, is_one_of
from common.web.limited_listener import is_asked_on_this_machine, is_loopback_host, origin_of

BODY_BYTES_MAX = 16 * 1024
# Anybody's loop of rebuilds must not be worth trying tokens.
TOKEN_CHARACTERS_MAX = 1024

Change = Callable[[web.Request], Awaitable[web.Response]]
# Who asks for the change, once that was decided.
ACTOR = web.RequestKey("actor", Actor)
THIS_MACHINE = Actor("somebody on this machine", "the connection")


class WaitingNote(msgspec.Struct, frozen=True):
    """A note that this gateway accepted and that is not ordered yet."""

    person: str | None
    text: str


class NotesView(msgspec.Struct, frozen=True):
    """Who changed a build, and what they have to say about it."""

    changes: tuple[SignedChange, ...]
    waiting: tuple[WaitingNote, ...]


class _NoteBody(msgspec.Struct, frozen=True):
    text: NoteText


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
    """Decides who may change something: a program by its token, a person by their role."""

    def __init__(self, config: ClientConfig, people: People | None = None) -> None:
        """Raises ConfigError where the token file cannot be used. people: with `login:`."""
        file = config.api_token_file
        self.tokens: Sequence[bytes] = () if file is None else read_bearer_tokens(file, "API token")
        # With login, whoever has neither session nor token is nobody, on this machine too.
        self._is_for_others = is_for_others(config) or people is not None
        self.people = people

    def guard(self, change: Change) -> Handler:
        """The handler, for those who may."""

        @functools.wraps(change)
        async def guarded(request: web.Request) -> web.StreamResponse:
            request[ACTOR] = self.check(request)
            return await change(request)

        return guarded

    @property
    def needs_token(self) -> bool:
        """Whether it takes a token to change something."""
        return bool(self.tokens)

    def is_open_to(self, request: web.Request) -> bool:
        """Whether anybody at all may change something by the way that this request came.

        A person may if they have some role; `may` says which.
        """
        person = current_person()
        if self.people is not None and person is not None:
            return self.people.roles.has_any(person)
        is_open_here = not self._is_for_others and is_asked_on_this_machine(request)
        return self.needs_token or is_open_here

    def may(self, role: Role, repository: str) -> bool:
        """Whether a person who is logged in has that role. True for others: `check_form` asks them
        for a token."""
        person = current_person()
        return person is None or self.people is None or self.people.may(person, role, repository)

    def check(self, request: web.Request) -> Actor:
        """Who asks over the API. Raises ApiError (401, 403) for whoever may not.

        A session counts for nothing here: a browser sends its cookie whoever made the request.
        """
        return self._check_token(
            request,
            bearer_token(request),
            "this takes one of the API's tokens: Authorization: Bearer TOKEN",
        )

    def check_form(
        self, request: web.Request, token: str, wanted: tuple[Role, str] | None = None
    ) -> Actor:
        """The same for a form of ours, with the token that was typed into it. Raises ApiError.

        wanted: the role that a person needs, and for which repository; None: no person may.
        """
        person = current_person()
        if self.people is not None and person is not None:
            if wanted is None:
                raise ApiError(403, "people cannot do this: log out, and use an API token")
            role, repository = wanted
            if not self.people.may(person, role, repository):
                raise ApiError(
                    403,
                    f"{person.name} does not have the role {role} for {repository}: it is given by"
                    " `login: roles:` in the gateway's configuration",
                )
            return self.people.actor(person)
        if self.people is not None and not self.needs_token:
            raise ApiError(401, "nobody is logged in: log in, load the page again, and send it")
        return self._check_token(
            request,
            token.strip()[:TOKEN_CHARACTERS_MAX].encode(),
            "that is none of the API's tokens, so nothing was changed. Go back and type one; they "
            "are in the file that `api_token_file:` names in the gateway's configuration",
        )

    def _check_token(self, request: web.Request, given: bytes, refusal: str) -> Actor:
        is_open_here = not self._is_for_others and is_asked_on_this_machine(request)
        if not (self.needs_token or is_open_here):
            raise ApiError(
                403,
                "changes need `api_token_file:` in the gateway's configuration where it has a "
                "`login:` or a `public_url`, listens beyond loopback, or is asked by another "
                "machine or a proxy: put a token into a file (openssl rand -hex 32), chmod 600, "
                "name the file there, and show the token as Authorization: Bearer TOKEN, as the "
                "command line does",
            )
        if not self.tokens:
            return THIS_MACHINE
        if not is_one_of(given, self.tokens):
            raise ApiError(401, refusal)
        return Actor(f"API token {self.tokens.index(given) + 1}", "api_token_file")


class ChangeApi:
    """Serves the changes."""

    def __init__(self, site: Site, authorizer: Authorizer) -> None:
        self._site = site
        self._authorizer = authorizer

    def add_routes(self, application: web.Application) -> None:
        """Add them."""
        changes = (
            ("cancel", self._cancel),
            ("rebuild", self._rebuild),
            ("approve", self._approve),
            ("notes", self._note),
        )
        for name, change in changes:
            path = f"/api/v1/builds/{{build}}/{name}"
            application.router.add_post(path, self._authorizer.guard(change))
        application.router.add_get("/api/v1/builds/{build}/notes", self._show_notes)
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
        await cancel(self._site, record.build, reason, actor=request[ACTOR])
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
        build = await rebuild(self._site, record.build, actor=request[ACTOR], is_cold=is_cold)
        url = f"{self._site.public_url}/builds/{build.hex()}"
        return json_response(Accepted(build.hex(), url), 202, {"Location": url})

    async def _approve(self, request: web.Request) -> web.Response:
        """POST .../approve: 200 with the build; the gateway has to be an operator's."""
        record = self._site.record(request)
        await approve(self._site, record.build, request[ACTOR])
        return self._show(record.build)

    async def _show_notes(self, request: web.Request) -> web.Response:
        """GET .../notes: notes on a build and changes of it, as the checked ledger has them."""
        record = self._site.record(request)
        await self._site.network.look(GLANCE_TIMEOUT_SECONDS)
        changes = self._site.network.ledger.changes.of(record.build.hex())
        waiting = tuple(
            WaitingNote(details.person, details.text)
            for details in self._site.gateway.waiting_notes(record.build)
        )
        return json_response(NotesView(changes, waiting))

    async def _note(self, request: web.Request) -> web.Response:
        """POST .../notes {"text": ...}: 202, on disk; it is shown once the network ordered it."""
        record = self._site.record(request)
        body = await self._site.read_body(request, BODY_BYTES_MAX)
        try:
            text = msgspec.json.decode(body, type=_NoteBody).text
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f'the body: {error}; send {{"text": "..."}}') from error
        await note(self._site, record.build, text, actor=request[ACTOR])
        return json_response({"detail": "accepted; it is shown once the network ordered it"}, 202)

    def _show(self, build: bytes) -> web.Response:
        record = self._site.archive.get(build)
        assert record is not None, "nothing that changes is removed"
        return json_response(self._site.view(record))


async def cancel(site: Site, build: bytes, reason: str, *, actor: Actor) -> None:
    """As Gateway.cancel. Raises ApiError (409)."""
    try:
        await site.gateway.cancel(build, reason, actor)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error


async def rebuild(site: Site, build: bytes, *, actor: Actor, is_cold: bool = False) -> bytes:
    """As Gateway.rebuild. Raises ApiError (409, 429)."""
    try:
        return await site.gateway.rebuild(build, is_cold=is_cold, actor=actor)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error
    except QueueFull as error:
        raise queue_full(error) from error


async def approve(site: Site, build: bytes, actor: Actor) -> None:
    """As Gateway.approve. Raises ApiError (409)."""
    try:
        await site.gateway.approve(build, actor)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error


async def note(site: Site, build: bytes, text: str, *, actor: Actor) -> None:
    """As Gateway.note. Raises ApiError (409, 429)."""
    try:
        await site.gateway.note(build, text, actor)
    except CannotChange as error:
        raise ApiError(409, str(error)) from error
    except QueueFull as error:
        raise queue_full(error) from error
