"""The door of an HTTP server: how many may come in, from where, and under which name.

aiohttp bounds sizes, and (by `keepalive_timeout`) how long a connection may take to send a whole
header. Added here: how many connections there may be in all and from one address, and that a
browser on this machine cannot be made to speak to a loopback server on behalf of a foreign page.
"""

import asyncio
import ipaddress
import socket
from typing import cast
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.address import Address
from common.request_body import refuse_unwanted_bodies

# A connection that has not sent a whole header by then is closed; so is an idle one.
HEADER_TIMEOUT_SECONDS = 20.0
CONNECTIONS_MAX = 1000
# Of one address that is not this machine: behind a proxy on this machine all come from it.
CONNECTIONS_PER_PEER_MAX = 100
BACKLOG = 128
SHUTDOWN_SECONDS = 5.0
LINGERING_SECONDS = 1.0

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    b'{"error":"too many connections; try again later"}\n'
)

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# What proxies add of those whom they speak for; somebody on this machine sends none of them.
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class Limits(msgspec.Struct, frozen=True):
    """How many connections are open at once, in all and from one foreign address."""

    connections_max: int = CONNECTIONS_MAX
    per_peer_max: int = CONNECTIONS_PER_PEER_MAX


class Door:
    """Serves an application over HTTP, and counts who comes in.

    No server of ours is made otherwise, so what it refuses is refused everywhere.
    """

    def __init__(
        self,
        application: web.Application,
        limits: Limits | None = None,
        header_seconds: float = HEADER_TIMEOUT_SECONDS,
    ) -> None:
        """header_seconds: a connection that has not sent a whole header by then is closed."""
        application.middlewares.append(refuse_unwanted_bodies)
        self._runner = web.AppRunner(
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
        self._limits = limits or Limits()
        self._server: asyncio.Server | None = None
        self.refused = 0

    async def open(self, listen: Address) -> None:
        """Start the application, and listen at that address. Raises OSError."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Visitor(self), listen.host, listen.port, backlog=BACKLOG, reuse_address=True
        )

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens."""
        return tuple(self._server.sockets) if self._server is not None else ()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._handlers())

    def close(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._server is not None:
            self._server.close()

    async def end(self) -> None:
        """End the application and all connections."""
        self.close()
        await self._runner.cleanup()

    def has_room(self, peer: str) -> bool:
        """Whether one more from that address (as text) may come in."""
        handlers = self._handlers()
        if len(handlers) >= self._limits.connections_max:
            return False
        if is_this_machine(peer):
            return True
        same = sum(_peer_of(handler.transport) == peer for handler in handlers)
        return same < self._limits.per_peer_max

    def admit(self, transport: asyncio.Transport) -> None:
        """Hand the connection over to aiohttp, or answer 503 and close it."""
        if not self.has_room(_peer_of(transport)):
            self.refused += 1
            transport.write(_FULL)
            transport.close()
            return
        assert self._runner.server is not None, "the runner is set up"
        handler = self._runner.server()
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _handlers(self) -> list[web.RequestHandler]:
        server = self._runner.server
        return server.connections if server is not None else []


class _Visitor(asyncio.Protocol):
    """A connection until it is known who it is from."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide at once: nothing of what it sends was read yet."""
        # uvloop's is none by its class
        self._door.admit(cast("asyncio.Transport", transport))


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

    It calls the server by a loopback name, and no proxy says that it speaks for somebody. One that
    calls it so and says nothing cannot be told from a person here.
    """
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        return is_loopback_host(urlsplit("//" + request.headers.get("Host", "")).hostname)
    except ValueError:
        return False


def known_hosts(
    listen: Address, public_url: str | None, address: Address | None = None
) -> frozenset[str] | None:
    """The names under which a server on loopback is called; None: it is not on loopback.

    public_url, address: where a proxy or a tunnel in front of it is reached.
    """
    if not listen.is_loopback:
        return None
    names = {*_LOOPBACK_NAMES, listen.host.lower()}
    if public_url is not None and (host := urlsplit(public_url).hostname) is not None:
        names.add(host.lower())
    if address is not None:
        names.add(address.host.lower())
    return frozenset(names)


def refuse_foreign_pages(hosts: frozenset[str] | None) -> Middleware:
    """A middleware: 403 for a Host or an Origin that is none of `hosts`; None lets all pass.

    A page from elsewhere can make a browser on this machine call a loopback address (by its
    number, or by a name that its owner points there: DNS rebinding); a browser always says which
    name it called (RFC 9110, 7.2), and for requests that change something whose page it was
    (Fetch standard, "Origin").
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        if hosts is not None:
            for name, text in (
                ("Host", "//" + request.headers.get("Host", "")),
                ("Origin", request.headers.get("Origin", "")),
            ):
                if text and not _is_known(text, hosts):
                    return web.json_response(
                        {"error": f"{name}: this server is on loopback; call it as localhost"},
                        status=403,
                    )
        return await handler(request)

    return refuse


def _is_known(url: str, hosts: frozenset[str]) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and host.lower() in hosts


def _peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address of the other end, as text; empty where it is gone already."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
