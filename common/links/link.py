"""Authenticated links: one long-lived WebSocket to every peer, many signed messages per frame.

Both ends prove who they are (common.links.handshake) in the headers of HTTP, before there is a
link: whoever proved nothing sends no frame. A link makes nothing trusted: every message on it bears
its own signature. What cannot be delivered is dropped, because the protocol sends again what is
still needed.

Over TLS a link ends when the certificate of one end does, and its dialler makes it anew.

    GET /link, PBFT-CI-Link-Versions: 2-2       -> 401, WWW-Authenticate: PBFT-CI-Link <offer>
    GET /link, Authorization: PBFT-CI-Link <proof> -> 101, PBFT-CI-Link-Proof: <proof>, frames
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from common.address import Address
from common.links.handshake import Handshakes, Leaves, LinkRefused
from common.safe_text import log_text
from common.tls.certificates import NotAMember, PeerLeaf
from common.web.bounded_http import tls_arguments, tls_failure
from common.web.limited_listener import channel_of, give_own_place
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.codec import FRAME_BYTES_MAX, MalformedMessage, decode_frame, encode_frame
from pbft.messages import Envelope

LINK_PATH = "/link"
HANDSHAKE_SECONDS = 5.0
# For one link that is tried and ended, which a person waits for: a busy machine is no wrong one.
TRY_SECONDS = 20.0
HEARTBEAT_SECONDS = 10.0
RECONNECT_SECONDS = 0.1
RECONNECT_SECONDS_MAX = 2.0
QUEUE_BYTES_MAX = 64 * 1024 * 1024
FRAME_BYTES_WANTED = 1024 * 1024
# Of refused links and frames one in so long is logged.
TOLD_SECONDS = 1.0
# A peer is dialled again and again: as long as the reason stays, it is logged so often.
TOLD_AGAIN_SECONDS = 60.0

_SCHEME = "PBFT-CI-Link"
_PROOF_HEADER = "PBFT-CI-Link-Proof"
_VERSIONS_HEADER = "PBFT-CI-Link-Versions"
_OTHER = "does another program, or another version of this one, answer there?"

_log = logging.getLogger(__name__)


class _Dialled(aiohttp.ClientWebSocketResponse):
    """The dialler's end, with the header in which the other end proves itself."""

    def __init__(
        self,
        reader: Any,
        writer: Any,
        protocol: str | None,
        response: aiohttp.ClientResponse,
        *rest: Any,
        **named: Any,
    ) -> None:
        super().__init__(reader, writer, protocol, response, *rest, **named)
        self.proof = response.headers.get(_PROOF_HEADER, "")


class _Offered(aiohttp.ClientResponse):
    """An answer that keeps what TLS knows of its connection, which may be gone when it is read."""

    ssl_object: ssl.SSLObject | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Called by aiohttp before it reads the answer."""
        if connection.transport is not None:
            self.ssl_object = connection.transport.get_extra_info("ssl_object")
        return await super().start(connection)


_WebSocket = _Dialled | web.WebSocketResponse


class Traffic(msgspec.Struct):
    """What all links of a member carried since its start: frames, not what HTTP or TLS adds."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


class _Link:
    """One live link: a queue of envelopes that one task writes in frames."""

    def __init__(self, websocket: _WebSocket, traffic: Traffic) -> None:
        self.websocket = websocket
        self._traffic = traffic
        self._queue: deque[tuple[Envelope, int]] = deque()
        self._queued_bytes = 0
        # What the writer waits for while the queue is empty. An Event would do: its wait asks the
        # kernel which process this is, and a frame would cost a third more here.
        self._arrival: asyncio.Future[None] | None = None

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Queue; the oldest is dropped when the peer does not keep up."""
        queued = 0
        for envelope in envelopes:
            size = len(envelope.signed.payload) + len(envelope.body) + 128
            self._queue.append((envelope, size))
            queued += size
        self._queued_bytes += queued
        while self._queued_bytes > QUEUE_BYTES_MAX:
            self._queued_bytes -= self._queue.popleft()[1]
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def write(self) -> None:
        """Send what is queued, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._arrival = loop.create_future()
                await self._arrival
            frame: list[Envelope] = []
            size = 0
            while self._queue and size < FRAME_BYTES_WANTED:
                envelope, envelope_bytes = self._queue.popleft()
                frame.append(envelope)
                size += envelope_bytes
            self._queued_bytes -= size
            encoded = encode_frame(frame)
            self._traffic.messages_sent += len(frame)
            self._traffic.bytes_sent += len(encoded)
            await self.websocket.send_bytes(encoded)


class Inbox(msgspec.Struct, frozen=True):
    """Where what the links bring goes."""

    # called with the peer's name and what came in one frame
    on_envelopes: Callable[[str, tuple[Envelope, ...]], None]
    # called with the peer's name when a link to it is made
    on_connected: Callable[[str], None] | None = None
    # while it is not set, no further frame is read from any link
    has_room: asyncio.Event | None = None


class Links:
    """The links of one member of the cluster, by the names of its peers.

    dial: the peers that this member connects to; others connect to it (`handle`).
    """

    def __init__(self, identity: Identity, *, dial: Peers, inbox: Inbox) -> None:
        self._handshakes = Handshakes(identity)
        self._dial = dial
        self._inbox = inbox
        self.traffic = Traffic()
        self._links: dict[str, _Link] = {}
        self._told_at = -TOLD_SECONDS
        # By peer that cannot be dialled: the reason that was logged last, and when.
        self._told_failures: dict[str, tuple[str, float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        self._open_session()
        self._tasks = [
            asyncio.create_task(self._keep_connected(peer, address), name=f"link to {peer}")
            for peer, address in self._dial.items()
        ]

    async def try_out(self, peer: str) -> None:
        """Make one link to that peer, and end it. Not for links that were started.

        Raises LinkRefused, aiohttp.ClientError, OSError, TimeoutError: there is none.
        """
        self._open_session()
        try:
            async with asyncio.timeout(TRY_SECONDS):
                websocket, _ = await self._dialled(peer)
                await websocket.close()
        finally:
            await self.close()

    async def close(self) -> None:
        """End all links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in list(self._links.values()):
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(link.websocket.close(), timeout=1)
        if self._session is not None:
            await self._session.close()

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Queue for that peer; dropped while there is no link to it."""
        link = self._links.get(to)
        if link is not None:
            link.send(envelopes)

    def connected(self) -> frozenset[str]:
        """The peers that a proven link exists to."""
        return frozenset(self._links)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler of GET /link: the accepting end."""
        if not self._may_read():
            # Each link may hold a frame that waits for room: who dials again gets no second one.
            raise web.HTTPServiceUnavailable(text="there is no room for messages; try again\n")
        now = asyncio.get_running_loop().time()
        scheme, _, proof = request.headers.get("Authorization", "").partition(" ")
        channel = channel_of(request)
        leaves = None if channel is None else Leaves(channel.peer.digest, channel.own_digest)
        try:
            if scheme != _SCHEME:
                member = None if channel is None else channel.peer.member
                self._handshakes.check_said(request.headers.get(_VERSIONS_HEADER, ""), member)
                return self._offer(now, "prove which member of the cluster this is")
            accepted = self._handshakes.accept(proof, now, leaves)
            peer = accepted.peer
            if channel is not None and channel.peer.member != peer:
                raise LinkRefused(f"{peer!r} behind the certificate of {channel.peer.member!r}")
        except LinkRefused as error:
            self._tell_refused("a link from %s was refused: %s", request.remote, error)
            return self._offer(now, str(error))
        websocket = web.WebSocketResponse(
            timeout=1.0,
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=FRAME_BYTES_MAX,
            compress=False,
        )
        websocket.headers[_PROOF_HEADER] = accepted.proof
        try:
            await websocket.prepare(request)
        except OSError:  # a time-out of the system's own, too
            # One that was never begun cannot be ended, and aiohttp ends what it is given.
            return web.Response(status=503)
        give_own_place(request)
        try:
            await self._serve(peer, websocket, accepted.version)
        except Exception:  # noqa: BLE001 - told in full; the peer dials again
            _log.exception("the link with %s ended by a fault of our own", peer)
            await websocket.close(code=aiohttp.WSCloseCode.INTERNAL_ERROR)
        return websocket

    def _offer(self, now: float, reason: str) -> web.Response:
        offer = f"{_SCHEME} {self._handshakes.offer(now)}"
        return web.json_response({"error": reason}, status=401, headers={"WWW-Authenticate": offer})

    def _tell_refused(self, text: str, who: str | None, error: Exception) -> None:
        """Anybody can be refused as often as he likes: one of a second is logged."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            _log.warning(text, who, log_text(str(error)))

    def _may_read(self) -> bool:
        return self._inbox.has_room is None or self._inbox.has_room.is_set()

    def _open_session(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, response_class=_Offered, ws_response_class=_Dialled
        )

    # --- a live link ----------------------------------------------------------------------------

    async def _keep_connected(self, peer: str, address: Address) -> None:
        delay = RECONNECT_SECONDS
        while True:
            if await self._connect_once(peer, address):
                delay = RECONNECT_SECONDS
            # Spread out, so that peers that lost one machine do not all come back at once.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, RECONNECT_SECONDS_MAX)

    async def _connect_once(self, peer: str, address: Address) -> bool:
        """Connect and serve the link to its end; whether there was one."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                websocket, version = await self._dialled(peer)
            self._told_failures.pop(peer, None)
            async with websocket, asyncio.timeout(self._seconds_left(websocket)):
                await self._serve(peer, websocket, version)
                return True
        except LinkRefused as error:
            self._tell_failed(peer, address, str(error))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = None if self._dial.tls is None else tls_failure(error)
            if reason is not None:
                self._tell_failed(peer, address, reason)
            _log.debug("no link to %s at %s: %s", peer, address, error)
        except Exception:  # noqa: BLE001 - told in full; without this task there is no link again
            _log.exception("the link to %s at %s ended by a fault of our own", peer, address)
        return False

    def _tell_failed(self, peer: str, address: Address, reason: str) -> None:
        """Log why there is no link, unless that was logged a moment ago."""
        now = asyncio.get_running_loop().time()
        told, told_at = self._told_failures.get(peer, (None, 0.0))
        if told != reason or now - told_at >= TOLD_AGAIN_SECONDS:
            self._told_failures[peer] = (reason, now)
            _log.warning("no link to %s at %s: %s", peer, address, reason)

    async def _dialled(self, peer: str) -> tuple[_Dialled, int]:
        """A link to that peer, which proved itself, and the version that both ends speak.

        Raises LinkRefused, and what aiohttp raises.
        """
        assert self._session is not None
        url = self._dial.url(peer, LINK_PATH)
        # For both requests: the certificate that this end shows may be renewed meanwhile.
        tls = self._dial.dialling(peer)
        arguments = tls_arguments(tls)
        said = {_VERSIONS_HEADER: self._handshakes.said()}
        asking = self._session.get(url, headers=said, allow_redirects=False, **arguments)
        async with asking as response:
            scheme, _, offer = response.headers.get("WWW-Authenticate", "").partition(" ")
            if response.status == 503:
                raise ConnectionError("it has no room for a link now")
            if response.status == 410:
                raise LinkRefused("it has gone over to a later epoch")
            if response.status != 401 or scheme != _SCHEME:
                raise LinkRefused(f"{response.status} where a challenge should be; {_OTHER}")
        assert isinstance(response, _Offered), "the session makes no others"
        shown = self._leaf(peer, response.ssl_object)
        leaves = None if tls is None or shown is None else Leaves(tls.digest, shown.digest)
        dialling = self._handshakes.answer(offer, peer, leaves)
        websocket = await self._session.ws_connect(
            url,
            headers={"Authorization": f"{_SCHEME} {dialling.proof}"},
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=FRAME_BYTES_MAX,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            **arguments,
        )
        try:
            assert isinstance(websocket, _Dialled), "the session makes no others"
            if self._leaf(peer, websocket.get_extra_info("ssl_object")) != shown:
                raise LinkRefused("its certificate was renewed meanwhile")
            self._handshakes.complete(dialling, websocket.proof)
        except LinkRefused:
            await websocket.close()
            raise
        return websocket, dialling.version

    def _leaf(self, peer: str, connection: ssl.SSLObject | None) -> PeerLeaf | None:
        """The certificate of that peer at the other end; None without TLS. Raises LinkRefused."""
        if self._dial.tls is None:
            return None
        if connection is None:
            raise LinkRefused("the connection ended within the handshake")
        try:
            leaf = self._dial.tls.whose(connection)
        except NotAMember as error:
            raise LinkRefused(str(error)) from error
        if leaf.member != peer:
            raise LinkRefused(f"the certificate of {leaf.member!r} where {peer!r} should be")
        return leaf

    def _seconds_left(self, websocket: _Dialled) -> float | None:
        """How long a link may last; None: for ever. Raises LinkRefused."""
        tls = self._dial.tls
        if tls is None:
            return None
        connection = websocket.get_extra_info("ssl_object")
        if connection is None:
            raise LinkRefused("the connection ended within the handshake")
        return tls.seconds_left(tls.whose(connection))

    async def _serve(self, peer: str, websocket: _WebSocket, version: int) -> None:
        link = _Link(websocket, self.traffic)
        replaced = self._links.get(peer)
        self._links[peer] = link
        if replaced is not None:
            # The peer came back before we noticed that it had gone.
            await replaced.websocket.close()
        writer = asyncio.create_task(self._write(peer, link), name=f"writer to {peer}")
        _log.info("linked with %s, link version %d", peer, version)
        try:
            if self._inbox.on_connected is not None:
                self._inbox.on_connected(peer)
            await self._read_frames(peer, websocket)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            if self._links.get(peer) is link:
                del self._links[peer]
            _log.info("link with %s ended", peer)

    async def _write(self, peer: str, link: _Link) -> None:
        """Write what is queued; a link that nothing is written to any more is ended."""
        try:
            await link.write()
        except ConnectionError:
            pass  # whoever reads from it meets its end
        except Exception:  # noqa: BLE001 - told in full; the link is made anew
            _log.exception("nothing was written to %s any more by a fault of our own", peer)
            await link.websocket.close()

    async def _read_frames(self, peer: str, websocket: _WebSocket) -> None:
        while True:
            try:
                message = await websocket.receive()
            except ConnectionError:
                # It answers a ping by itself; whoever sent this one has gone meanwhile.
                break
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            try:
                envelopes = decode_frame(message.data)
            except MalformedMessage as error:
                told = "%s sent a malformed frame, or one of a newer version; the link is ended: %s"
                self._tell_refused(told, peer, error)
                break
            self.traffic.messages_received += len(envelopes)
            self.traffic.bytes_received += len(message.data)
            if self._inbox.has_room is not None:
                await self._inbox.has_room.wait()
            self._inbox.on_envelopes(peer, envelopes)
