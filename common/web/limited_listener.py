"""An HTTP server with limits: how many connections, from where, and under which name.

aiohttp bounds sizes, and (by `keepalive_timeout`) how long a connection may take to send a whole
header. Added here: how many connections there may be in all and from one address, and that a
browser on this machine cannot be made to speak to a loopback server on behalf of a foreign page.

The rule when all places are taken: a new connection is accepted, and the one is closed that has
kept the server waiting longest, for a whole request or for its answer to be read. A whole request
is never cut off for a new connection. Proved links of members are not counted and never closed.

With TLS only members of the cluster get a connection, and it lasts no longer than the certificates
of both ends. A handshake under way is no connection yet; `TlsAcceptor` limits those. Members of
earlier epochs get a connection to an application of their own, so no route is theirs by mistake.
"""

import asyncio
import ipaddress
import logging
import resource
import socket
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.address import Address
from common.tls.acceptor import HANDSHAKE_SECONDS, TlsAcceptor
from common.tls.certificates import NotAMember
from common.tls.member_tls import Channel, MemberTls
from common.tls.refusals import why_refused
from common.web.request_body import refuse_unwanted_bodies

# A connection that has not sent a whole header by then is closed; so is an idle one.
HEADER_TIMEOUT_SECONDS = 20.0
CONNECTIONS_MAX = 1000
# Of one address that is not this machine: behind a proxy on this machine all come from it.
CONNECTIONS_PER_PEER_MAX = 100
# Of answers that are not read; each may be a page of the ledger (8 MiB).
UNREAD_BYTES_MAX = 256 * 1024 * 1024
BACKLOG = 128
# What a process has open beside connections to it: databases, pipes of builds, its own connections.
OTHER_FILES_MAX = 1000
SHUTDOWN_SECONDS = 5.0
LINGERING_SECONDS = 1.0
# Of connections that TLS refuses one in so long is logged: anybody can have one refused.
TOLD_SECONDS = 1.0

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    b'{"error":"too many connections; try again later"}\n'
)

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}
# What proxies add of those whom they speak for; somebody on this machine sends none of them.
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


_log = logging.getLogger(__name__)


class Origin(NamedTuple):
    """Who a page belongs to (RFC 6454): all three count. The host is in lower case."""

    scheme: str
    host: str
    port: int


class Limits(msgspec.Struct, frozen=True):
    """How many connections are open at once, in all and from one foreign address, and how many
    bytes of answers may wait in memory for those who do not read them."""

    connections_max: int = CONNECTIONS_MAX
    per_peer_max: int = CONNECTIONS_PER_PEER_MAX
    unread_bytes_max: int = UNREAD_BYTES_MAX


class LimitedListener:
    """Serves an application over HTTP, and limits the connections to it.

    No server of ours is made otherwise, so what it refuses is refused everywhere.
    """

    def __init__(
        self,
        application: web.Application,
        limits: Limits | None = None,
        header_seconds: float = HEADER_TIMEOUT_SECONDS,
        *,
        tls: MemberTls | None = None,
        for_earlier: web.Application | None = None,
    ) -> None:
        """header_seconds: a connection that has not sent a whole header by then is closed.

        tls: None listens without TLS. for_earlier: what members of earlier epochs are served
        (`MemberTls.serve_earlier`); None: nothing.
        """
        self._runner = self._runner_of(application, header_seconds)
        self._earlier_runner = (
            None if for_earlier is None else self._runner_of(for_earlier, header_seconds)
        )
        self._limits = limits or Limits()
        self.tls = tls
        self._servers: list[asyncio.Server] = []
        self._acceptor: TlsAcceptor | None = None
        self._sockets: tuple[socket.socket, ...] = ()
        self._told_at = -TOLD_SECONDS
        # By aiohttp's end of it: all that are open, but for members' links.
        self._connections: dict[web.RequestHandler, _Connection] = {}
        self._by_peer: Counter[str] = Counter()
        # Those that keep us waiting, who has longest first: for a whole request, and for somebody
        # to read an answer.
        self._unfinished: OrderedDict[_Connection, None] = OrderedDict()
        self._unread: OrderedDict[_Connection, None] = OrderedDict()
        self.admitted = 0
        self.refused = 0
        self.sent_away = 0

    async def open(self, listen: Address, held: Sequence[socket.socket] = ()) -> None:
        """Start the application, and listen at that address. Raises OSError.

        held: sockets that listen there already (`listening_sockets`), without TLS. They stay open
        when this listener ends: whoever connects before the next one waits in their backlog.
        """
        _allow_open_files(self._limits.connections_max + OTHER_FILES_MAX)
        for runner in self._runners:
            await runner.setup()
        if self.tls is not None:
            self._sockets = await listening_sockets(listen)
            self._acceptor = TlsAcceptor(
                self.tls.listening,
                lambda: _Connection(self),
                lambda peer, error: self.tell_refused(peer, why_refused(error, HANDSHAKE_SECONDS)),
            )
            self._acceptor.start(self._sockets)
            return
        loop = asyncio.get_running_loop()
        if held:
            self._servers = [
                await loop.create_server(
                    lambda: _Connection(self), sock=each.dup(), backlog=BACKLOG
                )
                for each in held
            ]
        else:
            self._servers = [
                await loop.create_server(
                    lambda: _Connection(self),
                    listen.host,
                    listen.port,
                    backlog=BACKLOG,
                    reuse_address=True,
                )
            ]
        self._sockets = tuple(each for server in self._servers for each in server.sockets)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens."""
        return self._sockets

    @property
    def serves_earlier(self) -> bool:
        """Whether members of earlier epochs are served anything."""
        return self._earlier_runner is not None

    @property
    def connections(self) -> int:
        """How many are open, but for members' links."""
        return len(self._connections)

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes are under way."""
        return 0 if self._acceptor is None else self._acceptor.under_way

    def close(self) -> None:
        """Accept no more connections; those that are open stay."""
        for server in self._servers:
            server.close()
        if self._acceptor is not None:
            self._acceptor.stop()

    async def end(self) -> None:
        """End the application and all connections."""
        self.close()
        if self._acceptor is not None:
            await self._acceptor.close()
        for runner in self._runners:
            await runner.cleanup()

    @property
    def _runners(self) -> list[web.AppRunner]:
        return [r for r in (self._runner, self._earlier_runner) if r is not None]

    def _runner_of(self, application: web.Application, header_seconds: float) -> web.AppRunner:
        application.middlewares.insert(0, self._follow)
        application.middlewares.append(refuse_unwanted_bodies)
        return web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=header_seconds,
            # A small body may be large inside; and what a webhook's signature is over is the
            # bytes as they came.
            auto_decompress=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
            # the rest of a body that was refused is waited for no longer than this
            lingering_time=LINGERING_SECONDS,
        )

    # --- what connections tell ------------------------------------------------------------------

    def admit(self, connection: "_Connection") -> web.RequestHandler | None:
        """aiohttp's end for a new connection; None: there is no room, and nobody to send away."""
        peer = connection.peer
        if not is_this_machine(peer) and self._by_peer[peer] >= self._limits.per_peer_max:
            found = self._send_away(self._oldest(peer))
        elif len(self._connections) >= self._limits.connections_max:
            found = self._send_away(self._oldest())
        else:
            found = True
        if not found:
            self.refused += 1
            return None
        channel = connection.channel
        is_earlier = channel is not None and channel.earlier_epoch is not None
        runner = self._earlier_runner if is_earlier else self._runner
        assert runner is not None, "refused by `_Connection._is_member`"
        assert runner.server is not None, "the runner is set up"
        handler = runner.server()
        self.admitted += 1
        self._connections[handler] = connection
        self._by_peer[peer] += 1
        self._unfinished[connection] = None
        return handler

    def forget(self, connection: "_Connection") -> None:
        """A connection has ended, or is a member's link from now on."""
        if connection.handler is None or self._connections.pop(connection.handler, None) is None:
            return
        self._unfinished.pop(connection, None)
        self._unread.pop(connection, None)
        self._by_peer[connection.peer] -= 1
        if not self._by_peer[connection.peer]:
            del self._by_peer[connection.peer]

    def tell_refused(self, peer: str, reason: str) -> None:
        """Log why TLS gave that address no connection."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            _log.warning("a connection from %s was refused: %s", peer, reason)

    def note_unread(self, connection: "_Connection") -> None:
        """Its other end does not read as fast as it is answered."""
        if connection.handler not in self._connections:
            return
        self._unread[connection] = None
        while sum(each.unread_bytes for each in self._unread) > self._limits.unread_bytes_max:
            self._send_away(next(iter(self._unread)))

    def note_read(self, connection: "_Connection") -> None:
        """Its other end has read most of what it was answered."""
        self._unread.pop(connection, None)

    def _oldest(self, peer: str | None = None) -> "_Connection | None":
        """Who has kept us waiting longest, of all or of one address."""
        for waiting in (self._unfinished, self._unread):
            for connection in waiting:
                if peer in (None, connection.peer):
                    return connection
        return None

    def _send_away(self, connection: "_Connection | None") -> bool:
        if connection is None:
            return False
        self.sent_away += 1
        self.forget(connection)
        connection.abort()
        return True

    @web.middleware
    async def _follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note when a request is whole, and when it was answered."""
        connection = self._connections.get(request.protocol)
        if connection is None:
            return await handler(request)
        request[_CONNECTION] = connection
        is_answered = False

        def on_whole() -> None:
            if not is_answered:
                self._unfinished.pop(connection, None)

        request.content.on_eof(on_whole)
        try:
            return await handler(request)
        finally:
            is_answered = True
            if request.protocol in self._connections:
                self._unfinished[connection] = None
                self._unfinished.move_to_end(connection)


class _Connection(asyncio.Protocol):
    """One connection: aiohttp's end of it, and what the listener has to know."""

    def __init__(self, listener: LimitedListener) -> None:
        self.listener = listener
        self.peer = ""
        self.handler: web.RequestHandler | None = None
        # Both ends' certificates; None without TLS.
        self.channel: Channel | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def unread_bytes(self) -> int:
        """What waits in memory for the other end to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide at once: nothing of what it sends was read yet."""
        # uvloop's is none by its class
        self._transport = cast("asyncio.Transport", transport)
        self.peer = _peer_of(transport)
        if not self._is_member(transport):
            self._transport.abort()
            return
        self.handler = self.listener.admit(self)
        if self.handler is None:
            self._transport.write(_FULL)
            self._transport.close()
        else:
            self.handler.connection_made(transport)

    def _is_member(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a member is at the other end, where that matters; why not is logged."""
        tls = self.listener.tls
        if tls is None:
            return True
        try:
            self.channel = tls.accepted(transport.get_extra_info("ssl_object"))
            is_earlier = self.channel.earlier_epoch is not None
            if is_earlier and not self.listener.serves_earlier:
                raise NotAMember("it is a member of an earlier epoch")
        except NotAMember as error:
            self.listener.tell_refused(self.peer, str(error))
            return False
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(tls.seconds_left(self.channel.peer), self.abort)
        return True

    def data_received(self, data: bytes) -> None:
        """For aiohttp."""
        if self.handler is not None:
            self.handler.data_received(data)

    def eof_received(self) -> None:
        """For aiohttp."""
        if self.handler is not None:
            self.handler.eof_received()

    def pause_writing(self) -> None:
        """More waits to be sent than the other end reads."""
        if self.handler is not None:
            self.handler.pause_writing()
            self.listener.note_unread(self)

    def resume_writing(self) -> None:
        """It was read."""
        if self.handler is not None:
            self.handler.resume_writing()
            self.listener.note_read(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.listener.forget(self)
        if self.handler is not None:
            self.handler.connection_lost(error)


_CONNECTION = web.RequestKey("connection", _Connection)


def give_own_place(request: web.Request) -> None:
    """The connection of this request is a member's link from now on: it is counted no more."""
    connection = request.get(_CONNECTION)
    if connection is not None:
        connection.listener.forget(connection)


def channel_of(request: web.Request) -> Channel | None:
    """Both ends' certificates of the connection of this request; None without TLS."""
    connection = request.get(_CONNECTION)
    return None if connection is None else connection.channel


def is_this_machine(peer: str) -> bool:
    """Whether an address (as text) is a loopback one."""
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def is_loopback_host(host: str | None) -> bool:
    """Whether a URL's host means the machine that one is on."""
    return host is not None and (host.lower() in _LOOPBACK_NAMES or is_this_machine(host))


def is_asked_on_this_machine(request: web.Request) -> bool:
    """Whether a request that came to a loopback address is one of this machine's own.

    It comes from a loopback address, calls the server by a loopback name, and no proxy says that it
    speaks for somebody. A proxy on this machine that rewrites `Host` and says nothing cannot be
    told from a person here: client.api.change_routes asks for tokens where there may be one.
    """
    if not is_this_machine(request.remote or ""):
        return False
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        return is_loopback_host(urlsplit("//" + request.headers.get("Host", "")).hostname)
    except ValueError:
        return False


class OwnNames(msgspec.Struct, frozen=True):
    """How a server is called by those who mean it.

    hosts: names, in lower case. public_origin: of the proxy in front of it, if there is one.
    takes_numbers: whether every IP address is one of its own: it is reached from elsewhere.
    """

    hosts: frozenset[str]
    public_origin: Origin | None = None
    takes_numbers: bool = False

    def has_host(self, host: str | None) -> bool:
        """Whether that name, or address as text, is one of its own."""
        if host is None:
            return False
        if host.lower() in self.hosts:
            return True
        return self.takes_numbers and _is_number(host)


def own_names(listen: Address, public_url: str | None, address: Address | None = None) -> OwnNames:
    """The names under which a server is called.

    public_url, address: where a proxy or a tunnel in front of it is reached.
    """
    names = {*_LOOPBACK_NAMES, listen.host.lower()}
    public = None if public_url is None else origin_of(public_url)
    if public is not None:
        names.add(public.host)
    if address is not None:
        names.add(address.host.lower())
    return OwnNames(frozenset(names), public, takes_numbers=not listen.is_loopback)


def origin_of(url: str) -> Origin | None:
    """Scheme, host and port of a URL; None where it has none, such as the origin `null`."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.hostname is None or port is None:
        return None
    return Origin(parts.scheme, parts.hostname.lower(), port)


def refuse_foreign_pages(own: OwnNames) -> Middleware:
    """A middleware: 403 for a Host that is none of our names, and for another page's Origin.

    A page from elsewhere can make a browser call a server that it cannot reach itself (by its
    number, or by a name that its owner points there: DNS rebinding); a browser always says which
    name it called (RFC 9110, 7.2), and for requests that change something whose page it was
    (Fetch standard, "Origin"). That must be a page of ours: of the address that was called, with
    its port, or of the proxy in front of us.
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        called = origin_of("http://" + request.headers.get("Host", ""))
        if called is None or not own.has_host(called.host):
            return _foreign(
                "Host: this server is not called that; call it as localhost or by its IP address,"
                " or set public_url (gateway), address in cluster.yml (node)"
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin_of(origin) not in (called, own.public_origin):
            return _foreign(
                f"Origin: this was sent from {origin[:200]}, and is taken from this server's own"
                " pages alone; the address of a proxy in front of it has to be its public_url"
            )
        return await handler(request)

    return refuse


def _foreign(text: str) -> web.Response:
    return web.json_response({"error": text}, status=403)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def listening_sockets(listen: Address) -> tuple[socket.socket, ...]:
    """At all addresses of that host, as asyncio's servers do. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            # binds with SO_REUSEADDR, and an IPv6 address takes no IPv4
            opened.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except OSError:
        for each in opened:
            each.close()
        raise
    return tuple(opened)


def _allow_open_files(count: int) -> None:
    """So many, where the system lets this process have them: it often begins with fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address of the other end, as text; empty where it is gone already."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
