"""Authenticated links: one long-lived WebSocket to every peer, many signed messages per frame.

Both ends prove who they are by signing a challenge of the other's (`Hello`) with the key that
the genesis pins. A link makes nothing trusted: every message on it bears its own signature. What
cannot be delivered is dropped, because the protocol sends again what is still needed.
"""

import asyncio
import collections
import contextlib
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp import web

from common.address import Address
from common.http_door import is_this_machine
from common.keys import SigningKey, verify
from pbft.authentication import Authenticator, sign_message
from pbft.codec import FRAME_BYTES_MAX, MalformedMessage, decode_frame, encode_frame, encode_message
from pbft.genesis import Cluster
from pbft.messages import Digest, Envelope, Hello, Name, Signed
from pbft.ports import Refusal

LINK_VERSION = 1
LINK_PATH = "/link"
HANDSHAKE_SECONDS = 5.0
# Of strangers, until they prove who they are: each may have sent one frame of the largest size.
HANDSHAKES_MAX = 16
# of one address that is not this machine
HANDSHAKES_PER_PEER_MAX = 4
HEARTBEAT_SECONDS = 10.0
RECONNECT_SECONDS = 0.1
RECONNECT_SECONDS_MAX = 2.0
QUEUE_BYTES_MAX = 64 * 1024 * 1024
FRAME_BYTES_WANTED = 1024 * 1024

_log = logging.getLogger(__name__)


class LinkRefused(Exception):
    """The other end is not who it must be; the text says why."""


class _Greeting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first words of either end: who speaks, and what the other has to sign."""

    version: int
    cluster_id: Digest
    name: Name
    challenge: Digest


class _Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The proof: a signed Hello with the other end's challenge."""

    hello: Signed


_WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class _Link:
    """One live link: a queue of envelopes that one task writes in frames."""

    def __init__(self, websocket: _WebSocket) -> None:
        self.websocket = websocket
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
            await self.websocket.send_bytes(encode_frame(frame))


class Links:
    """The links of one member of the cluster, by the names of its peers.

    dial: the peers that this member connects to; others connect to it (`handle`).
    on_envelopes: called with the peer's name and what came in one frame.
    on_connected: called with the peer's name when a link to it is made.
    has_room: while it is not set, no further frame is read from any link.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        name: str,
        signing_key: SigningKey,
        dial: Mapping[str, Address],
        on_envelopes: Callable[[str, tuple[Envelope, ...]], None],
        on_connected: Callable[[str], None] | None = None,
        has_room: asyncio.Event | None = None,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._signing_key = signing_key
        self._dial = dict(dial)
        self._on_envelopes = on_envelopes
        self._on_connected = on_connected
        self._has_room = has_room
        self._links: dict[str, _Link] = {}
        # by address, those under way with who dialled
        self._handshakes: collections.Counter[str] = collections.Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        self._session = aiohttp.ClientSession()
        self._tasks = [
            asyncio.create_task(self._keep_connected(peer, address), name=f"link to {peer}")
            for peer, address in self._dial.items()
        ]

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
        remote = request.remote or ""
        is_crowd = not is_this_machine(remote) and (
            self._handshakes[remote] >= HANDSHAKES_PER_PEER_MAX
        )
        if is_crowd or self._handshakes.total() >= HANDSHAKES_MAX:
            raise web.HTTPServiceUnavailable(text="too many links are being made; try again\n")
        if not self._may_read():
            # Each link may hold a frame that waits for room: who dials again gets no second one.
            raise web.HTTPServiceUnavailable(text="there is no room for messages; try again\n")
        websocket = web.WebSocketResponse(
            timeout=1.0,
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=FRAME_BYTES_MAX,
            compress=False,
        )
        self._handshakes[remote] += 1
        try:
            try:
                await websocket.prepare(request)
            except OSError:  # a time-out of the system's own, too
                # One that was never begun cannot be ended, and aiohttp ends what it is given.
                return web.Response(status=503)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                peer = await self._accept(websocket)
        except ConnectionError:
            return websocket  # whoever began it is gone
        except (TimeoutError, LinkRefused) as error:
            _log.warning("a link from %s was refused: %s", request.remote, error or "too slow")
            await websocket.close(code=aiohttp.WSCloseCode.POLICY_VIOLATION)
            return websocket
        finally:
            self._handshakes[remote] -= 1
            if not self._handshakes[remote]:
                del self._handshakes[remote]
        if not self._may_read():
            await websocket.close(code=aiohttp.WSCloseCode.TRY_AGAIN_LATER)
            return websocket
        try:
            await self._serve(peer, websocket)
        except Exception:  # noqa: BLE001 - told in full; the peer dials again
            _log.exception("the link with %s ended by a fault of our own", peer)
            await websocket.close(code=aiohttp.WSCloseCode.INTERNAL_ERROR)
        return websocket

    def _may_read(self) -> bool:
        return self._has_room is None or self._has_room.is_set()

    # --- the handshake --------------------------------------------------------------------------

    async def _accept(self, websocket: _WebSocket) -> str:
        challenge = os.urandom(32)
        greeting = await self._read_greeting(websocket)
        await websocket.send_bytes(self._greeting(challenge))
        await websocket.send_bytes(self._answer(greeting))
        await self._check_answer(websocket, greeting.name, challenge)
        return greeting.name

    async def _introduce(self, websocket: _WebSocket, peer: str) -> None:
        challenge = os.urandom(32)
        await websocket.send_bytes(self._greeting(challenge))
        greeting = await self._read_greeting(websocket)
        if greeting.name != peer:
            raise LinkRefused(f"{greeting.name!r} answers where {peer!r} should")
        await self._check_answer(websocket, peer, challenge)
        await websocket.send_bytes(self._answer(greeting))

    def _greeting(self, challenge: bytes) -> bytes:
        return msgspec.msgpack.encode(
            _Greeting(LINK_VERSION, self._cluster.id, self._name, challenge)
        )

    def _answer(self, greeting: _Greeting) -> bytes:
        hello = Hello(greeting.challenge, greeting.name)
        signed = sign_message(
            hello, encode_message(hello), self._name, self._cluster, self._signing_key.sign
        )
        return msgspec.msgpack.encode(_Answer(signed))

    async def _read_greeting(self, websocket: _WebSocket) -> _Greeting:
        greeting = await _read(websocket, _Greeting)
        if greeting.version != LINK_VERSION:
            raise LinkRefused(f"link version {greeting.version}; this one speaks {LINK_VERSION}")
        if greeting.cluster_id != self._cluster.id:
            raise LinkRefused(f"{greeting.name!r} belongs to another cluster")
        if greeting.name == self._name or self._cluster.public_key(greeting.name) is None:
            raise LinkRefused(f"{greeting.name!r} is not another member of the cluster")
        return greeting

    async def _check_answer(self, websocket: _WebSocket, peer: str, challenge: bytes) -> None:
        answer = await _read(websocket, _Answer)
        authenticator = Authenticator(self._cluster, verify)
        message = authenticator.read(answer.hello)
        if isinstance(message, Refusal) or not isinstance(message, Hello):
            raise LinkRefused("an answer that is no Hello")
        if message.challenge != challenge or message.to != self._name:
            raise LinkRefused("a Hello for somebody else")
        if answer.hello.signer != peer or authenticator.check(answer.hello, message):
            raise LinkRefused(f"{peer!r} did not prove that it has its key")

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
        assert self._session is not None
        try:
            async with self._session.ws_connect(
                address.url + LINK_PATH,
                heartbeat=HEARTBEAT_SECONDS,
                max_msg_size=FRAME_BYTES_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            ) as websocket:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await self._introduce(websocket, peer)
                await self._serve(peer, websocket)
                return True
        except LinkRefused as error:
            _log.warning("no link to %s at %s: %s", peer, address, error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.debug("no link to %s at %s: %s", peer, address, error)
        except Exception:  # noqa: BLE001 - told in full; without this task there is no link again
            _log.exception("the link to %s at %s ended by a fault of our own", peer, address)
        return False

    async def _serve(self, peer: str, websocket: _WebSocket) -> None:
        link = _Link(websocket)
        replaced = self._links.get(peer)
        self._links[peer] = link
        if replaced is not None:
            # The peer came back before we noticed that it had gone.
            await replaced.websocket.close()
        writer = asyncio.create_task(self._write(peer, link), name=f"writer to {peer}")
        _log.info("linked with %s", peer)
        try:
            if self._on_connected is not None:
                self._on_connected(peer)
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
            message = await websocket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            try:
                envelopes = decode_frame(message.data)
            except MalformedMessage as error:
                _log.warning("%s sent a malformed frame, the link is ended: %s", peer, error)
                break
            if self._has_room is not None:
                await self._has_room.wait()
            self._on_envelopes(peer, envelopes)


_Words = TypeVar("_Words", _Greeting, _Answer)


async def _read(websocket: _WebSocket, wanted: type[_Words]) -> _Words:
    message = await websocket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise LinkRefused("the other end closed the link")
    try:
        return msgspec.msgpack.decode(message.data, type=wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LinkRefused(f"not the words of this protocol: {error}") from error
