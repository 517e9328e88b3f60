"""What ordering requests cannot do without, and nothing else: the bound for the bench `noop`.

Four of these processes and the clients of bench/bound_clients.py do the signatures, the writes
to disk and the frames of PBFT's normal case, over WebSockets on loopback as the product does, and
leave out everything else: no view, no window, no checkpoint, no client table, no application, no
checks beyond signatures and digests, nothing that survives a crash. For n = 4, f = 1, counted:

per batch (as many requests as came, at most 4 batches in flight, as the product):
- signatures made 8: a PRE-PREPARE, 3 PREPAREs, 4 COMMITs;
- signatures checked 16: the PRE-PREPARE by 3 backups; PREPAREs until there are 2 beside the
  PRE-PREPARE, one's own among them, so 2 by the primary and 1 by each backup; 2 COMMITs of others
  by each of the 4;
- messages between replicas 24: the PRE-PREPARE with the requests to 3, 3 x 3 PREPAREs, 4 x 3
  COMMITs;
- writes on disk (append, then fdatasync) 8: each replica one before it sends PRE-PREPARE or
  PREPARE, with the requests in it, and one before it sends COMMIT. All that a turn of its loop
  says shares one write, as in the product.

per request:
- signatures made 1 by the client, and 1 by each replica that answers: one covers all answers of a
  turn to one client, so with many requests of one client in flight they are fewer;
- signatures checked 4, one by each replica, once; and of the replies f+1 = 2 by the client;
- messages 8: the request to 4 replicas, 4 replies. A frame holds all that goes to one peer in a
  turn.

The product writes each turn a second time (SQLite's log, without a flush) and saves once more what
was executed; that is no part of the bound.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from aiohttp import web

from common.configuration.keys import SigningKey, verify

REPLICAS = 4
FAULTS_MAX = 1
PIPELINE_DEPTH = 4
HOST = "127.0.0.1"
FRAME_BYTES_MAX = 32 * 1024 * 1024
RECONNECT_SECONDS = 0.05
CHECKED_MAX = 65_536
# As long as the product's: the payloads, and what a signature covers beside one.
REQUEST_BYTES = 40
VOTE_BYTES = 50
REPLY_BYTES = 60
PREFIX = b"pbft-ci bound".ljust(60)

REQUEST, PRE_PREPARE, PREPARE, COMMIT, REPLY = range(5)


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One signed message. number: of the batch; of a request and a reply the client's own count.

    sender: a replica's index, or REPLICAS + the client's number. body: the requests of a batch.
    """

    kind: int
    sender: int
    number: int
    payload: bytes
    signature: bytes
    body: bytes = b""


encode = msgspec.msgpack.Encoder().encode
decode_words = msgspec.msgpack.Decoder(list[Word]).decode
decode_number = msgspec.msgpack.Decoder(int).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[list[int], bytes]).decode


def key_of(member: int) -> SigningKey:
    """The key of a member: of a bench, so anybody may know it."""
    return SigningKey(hashlib.sha256(b"bound %d" % member).digest())


def make_word(kind: int, member: int, key: SigningKey, *, number: int, payload: bytes) -> Word:
    """A signed message."""
    return Word(kind, member, number, payload, key.sign(PREFIX + payload))


def answered_numbers(word: Word) -> list[int]:
    """Which of a client's requests a REPLY answers."""
    return _decode_answer(word.payload)[0]


class Link:
    """A WebSocket, and what waits to be written to it in one frame."""

    def __init__(self, websocket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self._queue: list[Word] = []
        self._wake = asyncio.Event()

    def send(self, words: list[Word]) -> None:
        """Queue."""
        self._queue.extend(words)
        self._wake.set()

    async def write(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            words, self._queue = self._queue, []
            await self._websocket.send_bytes(encode(words))


class _Slot:
    """One batch under way."""

    def __init__(self) -> None:
        self.digest = b""
        self.requests: list[Word] = []
        self.prepares = 0
        self.commits = 0
        self.has_committed = False


class BoundReplica:
    """One of the four."""

    def __init__(self, index: int, ports: list[int], clients: int, *, file: Path) -> None:
        self._index = index
        self._ports = ports
        self._keys = [key_of(member).public_key for member in range(REPLICAS + clients)]
        self._key = key_of(index)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._links: dict[int, Link] = {}
        self._inbox: list[Word] = []
        self._wake = asyncio.Event()
        # signatures of requests that hold, the oldest first
        self._checked: dict[bytes, None] = {}
        # the primary's
        self._pending: dict[bytes, Word] = {}
        self._slots: dict[int, _Slot] = {}
        self._next = 1
        self._executed = 0
        # what this turn says: to disk, to the other replicas, to each client
        self._records: list[bytes] = []
        self._to_all: list[Word] = []
        self._answers: dict[int, list[int]] = {}

    async def run(self) -> None:
        """Serve until the process is ended."""
        application = web.Application()
        application.router.add_get("/link", self._accept)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, self._ports[self._index]).start()
        async with aiohttp.ClientSession() as session:
            dialling = [
                asyncio.create_task(self._dial(session, peer)) for peer in range(self._index)
            ]
            await asyncio.gather(self._turns(), *dialling)

    # --- links ----------------------------------------------------------------------------------

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX, compress=False)
        await websocket.prepare(request)
        peer = decode_number(await websocket.receive_bytes())
        await self._serve(peer, websocket)
        return websocket

    async def _dial(self, session: aiohttp.ClientSession, peer: int) -> None:
        while True:
            try:
                websocket = await session.ws_connect(
                    f"http://{HOST}:{self._ports[peer]}/link", max_msg_size=FRAME_BYTES_MAX
                )
            except aiohttp.ClientError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            await websocket.send_bytes(encode(self._index))
            await self._serve(peer, websocket)

    async def _serve(
        self, peer: int, websocket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse
    ) -> None:
        link = self._links[peer] = Link(websocket)
        writer = asyncio.create_task(link.write())
        # Says that it is there: clients begin once all of them are.
        await websocket.send_bytes(encode([]))
        async for message in websocket:
            self._inbox.extend(decode_words(message.data))
            self._wake.set()
        writer.cancel()
        if self._links.get(peer) is link:
            del self._links[peer]

    # --- the loop: take in, write, send ---------------------------------------------------------

    async def _turns(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            inbox, self._inbox = self._inbox, []
            for word in inbox:
                self._take(word)
            self._propose()
            if self._records:
                os.write(self._file, b"".join(self._records))
                os.fdatasync(self._file)
                self._records = []
            self._send()
            await asyncio.sleep(0)

    def _send(self) -> None:
        if self._to_all:
            for peer in range(REPLICAS):
                if peer != self._index and peer in self._links:
                    self._links[peer].send(self._to_all)
            self._to_all = []
        for client, numbers in self._answers.items():
            payload = encode((numbers, bytes(REPLY_BYTES * len(numbers))))
            if client in self._links:
                word = make_word(REPLY, self._index, self._key, number=numbers[0], payload=payload)
                self._links[client].send([word])
        self._answers = {}

    def _take(self, word: Word) -> None:
        if word.kind == REQUEST:
            if self._is_signed(word) and self._index == 0:
                self._pending[word.signature] = word
            return
        if word.number <= self._executed:
            return  # beyond the quorum: not even checked
        slot = self._slots.setdefault(word.number, _Slot())
        if word.kind == PRE_PREPARE:
            self._on_pre_prepare(slot, word)
        elif word.kind == PREPARE and slot.prepares < 2 * FAULTS_MAX:
            slot.prepares += self._is_signed(word)
        elif word.kind == COMMIT and slot.commits < 2 * FAULTS_MAX + 1:
            slot.commits += self._is_signed(word)
        self._advance(slot, word.number)

    def _on_pre_prepare(self, slot: _Slot, word: Word) -> None:
        digest = hashlib.sha256(word.body).digest()
        if not word.payload.startswith(digest) or not self._is_signed(word):
            return
        requests = decode_words(word.body)
        if all(self._is_signed(request) for request in requests):
            self._records += [word.payload, word.signature]
            self._accept_batch(slot, digest, requests, body=word.body)
            self._say(PREPARE, word.number, digest)
            slot.prepares += 1

    def _accept_batch(
        self, slot: _Slot, digest: bytes, requests: list[Word], *, body: bytes
    ) -> None:
        slot.digest = digest
        slot.requests = requests
        self._records.append(body)

    def _propose(self) -> None:
        if self._index != 0:
            return
        while self._pending and self._next - 1 - self._executed < PIPELINE_DEPTH:
            requests = list(self._pending.values())
            self._pending = {}
            body = encode(requests)
            slot = self._slots.setdefault(self._next, _Slot())
            digest = hashlib.sha256(body).digest()
            self._accept_batch(slot, digest, requests, body=body)
            self._say(PRE_PREPARE, self._next, digest, body=body)
            self._next += 1

    def _advance(self, slot: _Slot, number: int) -> None:
        if slot.digest and not slot.has_committed and slot.prepares >= 2 * FAULTS_MAX:
            slot.has_committed = True
            slot.commits += 1
            self._say(COMMIT, number, slot.digest)
        while (decided := self._slots.get(self._executed + 1)) is not None:
            if not decided.has_committed or decided.commits < 2 * FAULTS_MAX + 1:
                return
            self._executed += 1
            del self._slots[self._executed]
            for request in decided.requests:
                self._answers.setdefault(request.sender, []).append(request.number)

    def _say(self, kind: int, number: int, digest: bytes, *, body: bytes = b"") -> None:
        payload = (digest + number.to_bytes(8, "big")).ljust(VOTE_BYTES)
        signature = self._key.sign(PREFIX + payload)
        self._records += [payload, signature]
        self._to_all.append(Word(kind, self._index, number, payload, signature, body))

    def _is_signed(self, word: Word) -> bool:
        """Whether the signature holds; one that was checked already costs nothing more."""
        if word.kind == REQUEST and word.signature in self._checked:
            return True
        holds = verify(self._keys[word.sender], PREFIX + word.payload, word.signature)
        if holds and word.kind == REQUEST:
            self._checked[word.signature] = None
            if len(self._checked) > CHECKED_MAX:
                del self._checked[next(iter(self._checked))]
        return holds


def main(arguments: list[str]) -> int:
    """`python -m bench.bound --index 0 --ports 1,2,3,4 --clients 64 --file FILE`."""
    parser = argparse.ArgumentParser(prog="python -m bench.bound", description=__doc__)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--ports", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args(arguments)
    ports = [int(port) for port in options.ports.split(",")]
    uvloop.run(BoundReplica(options.index, ports, options.clients, file=options.file).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
