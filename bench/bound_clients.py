"""The four processes of bench/bound.py, and clients that ask them and check f+1 replies."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.bound import (
    FAULTS_MAX,
    FRAME_BYTES_MAX,
    HOST,
    PREFIX,
    REPLICAS,
    REQUEST,
    REQUEST_BYTES,
    Link,
    Word,
    answered_numbers,
    decode_words,
    encode,
    key_of,
    make_word,
)
from bench.closed_loop import ClosedLoop
from bench.network import BenchFailed
from common.configuration.keys import verify
from scripts.free_ports import free_ports
from scripts.processes import Processes

LINKED_SECONDS = 60.0


class BoundClient(ClosedLoop):
    """One client, with a link to each of the four."""

    def __init__(self, number: int, in_flight: int) -> None:
        """number: of the client, from 0."""
        super().__init__(f"bound client {number}", in_flight)
        self._member = REPLICAS + number
        self._key = key_of(self._member)
        self._keys = [key_of(member).public_key for member in range(REPLICAS)]
        self._replies: dict[int, int] = {}
        self._links: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, session: aiohttp.ClientSession, ports: list[int]) -> None:
        """Link with all. Raises aiohttp.ClientError."""
        for port in ports:
            websocket = await session.ws_connect(
                f"http://{HOST}:{port}/link", max_msg_size=FRAME_BYTES_MAX
            )
            await websocket.send_bytes(encode(self._member))
            await websocket.receive_bytes()
            link = Link(websocket)
            self._links.append(link)
            self._tasks += [
                asyncio.create_task(link.write()),
                asyncio.create_task(self._read(websocket)),
            ]

    async def close(self) -> None:
        """End the links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send_request(self, number: int) -> None:
        """To all four at once."""
        payload = encode((self._member, number)).ljust(REQUEST_BYTES)
        word = make_word(REQUEST, self._member, self._key, number=number, payload=payload)
        self._replies[number] = 0
        for link in self._links:
            link.send([word])

    async def _read(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in websocket:
            for word in decode_words(message.data):
                self._on_reply(word)

    def _on_reply(self, word: Word) -> None:
        wanted = [n for n in answered_numbers(word) if n in self._replies]
        # beyond f+1: not even checked
        if not wanted:
            return
        if not verify(self._keys[word.sender], PREFIX + word.payload, word.signature):
            raise BenchFailed("a reply of the bound is not signed")
        for number in wanted:
            self._replies[number] += 1
            if self._replies[number] > FAULTS_MAX:
                del self._replies[number]
                self.note_answer(number)


@contextlib.asynccontextmanager
async def bound_clients(
    folder: Path, clients: int, in_flight: int = 1
) -> AsyncIterator[tuple[list[BoundClient], list[int]]]:
    """So many clients of four new processes, and those; all of it ends with the block.

    Raises BenchFailed.
    """
    processes = Processes(folder / "bound-pids", folder / "bound-output")
    ports = free_ports(REPLICAS)
    made = [BoundClient(number, in_flight) for number in range(clients)]
    try:
        servers = []
        for index in range(REPLICAS):
            command = [sys.executable, "-m", "bench.bound", "--index", str(index)]
            command += ["--ports", ",".join(map(str, ports)), "--clients", str(clients)]
            command += ["--file", str(folder / f"bound{index}")]
            servers.append(processes.spawn(f"bound{index}", command).pid)
        await _until_listening(ports, processes)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            try:
                for client in made:
                    await client.start(session, ports)
                yield made, servers
            finally:
                await asyncio.gather(*(client.close() for client in made))
    finally:
        await asyncio.to_thread(processes.stop)


async def _until_listening(ports: list[int], processes: Processes) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + LINKED_SECONDS
    for port in ports:
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                if loop.time() > end or len(processes.running()) < len(ports):
                    raise BenchFailed("a process of the bound does not listen") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
