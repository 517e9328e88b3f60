"""Accepts TLS connections, and reports each handshake that fails with its reason.

asyncio's own servers swallow that reason: they log it in debug mode only. `start_tls` on a
connection that a server accepted loses what came before it under uvloop. So sockets are accepted
here, one by one.

The rule when all places for handshakes are taken, in all or of one foreign address: the new
connection gets one, and the handshake that has taken longest is ended.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence

import msgspec

from common.address import Address

HANDSHAKE_SECONDS = 5.0
HANDSHAKES_MAX = 128
# Of one address that is not this machine.
HANDSHAKES_PER_PEER_MAX = 16
# The process or the system has no file left for a connection: as long as asyncio's servers wait.
NO_FILE_PAUSE_SECONDS = 1.0

_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class HandshakeLimits(msgspec.Struct, frozen=True):
    """How many handshakes are under way at once, in all and of one foreign address, and how long
    each may take."""

    handshakes_max: int = HANDSHAKES_MAX
    per_peer_max: int = HANDSHAKES_PER_PEER_MAX
    seconds: float = HANDSHAKE_SECONDS


class TlsAcceptor:
    """Accepts TLS connections at listening sockets. `start` and `close` belong to one loop."""

    def __init__(
        self,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        on_refused: Callable[[str, OSError], None],
        *,
        limits: HandshakeLimits | None = None,
    ) -> None:
        """make_protocol: for a connection whose handshake has succeeded.

        on_refused: called with the other end's address and what was wrong with its handshake.
        """
        self._context = context
        self._make_protocol = make_protocol
        self._on_refused = on_refused
        self._limits = limits or HandshakeLimits()
        self._accepting: list[asyncio.Task[None]] = []
        # By task, who has taken longest first: the other end's address.
        self._under_way: dict[asyncio.Task[None], str] = {}

    @property
    def under_way(self) -> int:
        """How many handshakes are not over."""
        return len(self._under_way)

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept at these listening sockets, which are closed when it ends."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            listening.setblocking(False)
            self._accepting.append(loop.create_task(self._accept(listening), name="accepts TLS"))

    def stop(self) -> None:
        """Accept no more. Handshakes under way and connections stay."""
        for task in self._accepting:
            task.cancel()

    async def close(self) -> None:
        """Stop, and end the handshakes under way. Connections stay."""
        self.stop()
        # first, so that none begins meanwhile
        await asyncio.gather(*self._accepting, return_exceptions=True)
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                await self._accept_one(listening)

    async def _accept_one(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, peer = await loop.sock_accept(listening)
        except OSError as error:  # else: the one that was to be accepted has gone
            if error.errno in _NO_FILE:
                await asyncio.sleep(NO_FILE_PAUSE_SECONDS)
            return
        host, port = peer[:2]
        self._make_room(Address(host, port))
        task = loop.create_task(self._shake_hands(connection, host), name="handshake")
        self._under_way[task] = host
        task.add_done_callback(self._under_way.pop)

    def _make_room(self, peer: Address) -> None:
        """End who has taken longest where there is no place for one more of that address."""
        waiting = [task for task in self._under_way if not task.cancelling()]
        of_peer = [task for task in waiting if self._under_way[task] == peer.host]
        if not peer.is_loopback and len(of_peer) >= self._limits.per_peer_max:
            of_peer[0].cancel()
        elif len(waiting) >= self._limits.handshakes_max:
            waiting[0].cancel()

    async def _shake_hands(self, connection: socket.socket, peer: str) -> None:
        is_made = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.seconds,
            )
            is_made = True
        except OSError as error:  # TLS's and a timeout's as well
            self._on_refused(peer, error)
        finally:
            if not is_made:
                connection.close()
