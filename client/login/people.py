"""Who asks: a person by their session, or by what a proxy says, and what they may do.

A proxy's header counts from the addresses that the configuration lists, and from nowhere else. A
session's cookie is read in its one form for this gateway's address: with https it begins with
`__Host-`, so no other host of the domain can have set it (RFC 6265bis, 4.1.3.2).
"""

import contextlib
import ipaddress
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from client.login.attempts import Attempts
from client.login.person import NoPerson, Person, make_person
from client.login.providers import CALLBACK_PATH, make_provider
from client.login.roles import Role, Roles
from client.storage.audit import Actor, Audit
from client.storage.database import Database
from client.storage.sessions import Sessions
from common.configuration.config import ClientConfig
from common.configuration.login_config import LoginConfig

COOKIE = "pbft_ci_session"
SESSION_BYTES = 32
# A proxy's list of groups; a header of aiohttp has at most 8 KiB.
GROUPS_SEPARATOR = ","
# Of failures so many are kept a minute; how many more there were is said by the next that is.
FAILURES_A_MINUTE_MAX = 10
NOBODY = Actor("-", "nobody")
LOGIN_PATH = "/login"
# What somebody must reach who has no session, or no role.
LOGIN_ROUTES = frozenset({LOGIN_PATH, CALLBACK_PATH, "/account", "/logout", "/static/{file}"})

_SESSION = re.compile(r"[0-9a-f]{64}")
_decoder = msgspec.msgpack.Decoder(Person)
# Of the request that is being answered: each is answered in one task, one after the other.
_current: ContextVar["Asked | None"] = ContextVar("asked", default=None)


class Asked(NamedTuple):
    """Who asks, and for which page (its path with the query)."""

    person: Person | None
    path: str


class LoginLine(NamedTuple):
    """Who is logged in, and where one logs in; None: nobody, and nowhere."""

    name: str | None
    url: str | None


class People:
    """The people of one gateway with `login:`."""

    def __init__(
        self,
        config: ClientConfig,
        database: Database,
        *,
        draw: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """draw: gives that many random bytes; clock: seconds since 1970.

        Raises ConfigError where a file of the provider cannot be used.
        """
        assert config.login is not None, "only a gateway with login: has people"
        self.login: LoginConfig = config.login
        self.roles = Roles(config.login)
        self.audit = Audit(database)
        self._is_https = (config.public_url or config.listen.url).startswith("https://")
        self._networks = config.login.networks
        self._database = database
        self._sessions = Sessions(database)
        self.draw = draw
        self.clock = clock
        self.provider = None if config.login.is_proxy else make_provider(config)
        self.attempts = Attempts(draw(32))
        self._minute = 0
        self._failures = self._left_out = 0

    @property
    def vouched(self) -> str:
        """By whose word people are who they are, in words."""
        return "the proxy" if self.login.is_proxy else self.login.provider

    def actor(self, person: Person) -> Actor:
        """That person, as who asks for a change."""
        return Actor(person.name, self.vouched, person.name)

    def may(self, person: Person | None, role: Role, repository: str) -> bool:
        """Whether that person has the role for the repository. Nobody has any."""
        return person is not None and self.roles.may(person, role, repository)

    def may_read(self, request: web.Request) -> bool:
        """Whether whoever asks may read where reading takes a token: people with some role may."""
        person = current_person()
        return person is not None and self.roles.has_any(person)

    def line(self) -> LoginLine:
        """What stands at the head of the page that is being made."""
        person = current_person()
        wanted = urlencode({"next": current_path()})
        return LoginLine(
            None if person is None else person.name,
            None if self.provider is None else f"{LOGIN_PATH}?{wanted}",
        )

    @web.middleware
    async def identify(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A middleware: says who asks, for as long as the request is answered."""
        with answering(Asked(self._find(request), request.path_qs)):
            return await handler(request)

    @web.middleware
    async def send_to_login(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A middleware where reading takes a token: a person's browser is sent to the login."""
        is_page = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
        route = request.match_info.route.resource
        is_open = route is None or route.canonical in LOGIN_ROUTES
        has_token = "Authorization" in request.headers
        is_nobody = current_person() is None and not has_token
        if is_page and is_nobody and not is_open and self.provider is not None:
            wanted = urlencode({"next": request.path_qs})
            raise web.HTTPSeeOther(f"{LOGIN_PATH}?{wanted}")
        return await handler(request)

    # --- sessions -------------------------------------------------------------------------------

    def begin(self, person: Person, response: web.StreamResponse) -> None:
        """Begin a session, always a new one. Raises StorageFailed."""
        session = self.draw(SESSION_BYTES)
        seconds = self.login.session_hours * 3600
        now = self.clock()
        with self._database.transaction():
            encoded = msgspec.msgpack.encode(person)
            self._sessions.add(session, person.subject, encoded, now=now, seconds=seconds)
            self.audit.note("login", self.actor(person), at=now)
        self.set_cookie(response, COOKIE, session.hex(), seconds=int(seconds))

    def end(self, request: web.Request, response: web.StreamResponse, *, is_all: bool) -> None:
        """End the session of this request, or all of its person. Raises StorageFailed."""
        session = self._session(request)
        person = current_person()
        with self._database.transaction():
            if session is not None:
                self._sessions.end(session)
            if person is not None:
                if is_all:
                    self._sessions.end_all(person.subject)
                text = "everywhere" if is_all else ""
                self.audit.note("logout", self.actor(person), at=self.clock(), text=text)
        self.delete_cookie(response, COOKIE)

    def note_failure(self, reason: str) -> None:
        """Nobody logged in, and why. Anybody may try again and again. Raises StorageFailed."""
        minute = int(self.clock() // 60)
        if minute != self._minute:
            self._minute, self._failures = minute, 0
        if self._failures >= FAILURES_A_MINUTE_MAX:
            self._left_out += 1
            return
        self._failures += 1
        more = f" ({self._left_out} more before it are not listed)" if self._left_out else ""
        self._left_out = 0
        with self._database.transaction():
            self.audit.note("login failed", NOBODY, at=self.clock(), text=reason[:300] + more)

    # --- cookies --------------------------------------------------------------------------------

    def cookie_name(self, name: str) -> str:
        """The name of a cookie here: with https no other host can set it."""
        return f"__Host-{name}" if self._is_https else name

    def set_cookie(
        self, response: web.StreamResponse, name: str, value: str, *, seconds: int
    ) -> None:
        """Give the browser a cookie that neither scripts read nor other sites' forms send."""
        response.set_cookie(
            self.cookie_name(name),
            value,
            max_age=seconds,
            path="/",
            secure=self._is_https,
            httponly=True,
            samesite="Lax",
        )

    def delete_cookie(self, response: web.StreamResponse, name: str) -> None:
        """Take it from the browser."""
        self.set_cookie(response, name, "", seconds=0)

    # --- who asks -------------------------------------------------------------------------------

    def _find(self, request: web.Request) -> Person | None:
        if self.login.is_proxy:
            return self._named_by_proxy(request)
        session = self._session(request)
        found = None if session is None else self._sessions.person(session, self.clock())
        return None if found is None else _decoder.decode(found)

    def _session(self, request: web.Request) -> bytes | None:
        value = request.cookies.get(self.cookie_name(COOKIE), "")
        return bytes.fromhex(value) if _SESSION.fullmatch(value) else None

    def _named_by_proxy(self, request: web.Request) -> Person | None:
        """Whom the header names, if a proxy of the list asks. Twice the header is nobody's: a
        proxy that adds its own to what a browser sent does not vouch for either."""
        assert self.login.user_header is not None, "check_login lets no proxy pass without"
        if not self._is_proxy(request.remote or ""):
            return None
        names = request.headers.getall(self.login.user_header, [])
        if len(names) != 1 or not names[0].strip():
            return None
        header = self.login.groups_header
        listed = request.headers.getall(header, []) if header is not None else []
        groups = [group.strip() for text in listed for group in text.split(GROUPS_SEPARATOR)]
        name = names[0].strip()
        with contextlib.suppress(NoPerson):
            return make_person(name, name, groups=groups)
        return None

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def current_person() -> Person | None:
    """Who asked for what is being answered; None: nobody who is known by name."""
    asked = _current.get()
    return None if asked is None else asked.person


def current_path() -> str:
    """The page that was asked for, with its query; the first page if nobody is asked."""
    asked = _current.get()
    return "/" if asked is None else asked.path


@contextlib.contextmanager
def answering(asked: Asked) -> Iterator[None]:
    """Answer a request as that person's."""
    token = _current.set(asked)
    try:
        yield
    finally:
        _current.reset(token)
