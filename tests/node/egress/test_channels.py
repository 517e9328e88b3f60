"""The relay's program as a process of its own, and the node's end of its streams."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.egress import relay_program
from node.egress.channels import RelayChannel, RelayChannels, RelayFailed
from node.egress.relay_program import CLOSE, DATA, FAILED, HEAD, OPEN, TAKEN, WINDOW_BYTES
from scripts.free_ports import free_ports

PATIENCE_SECONDS = 30.0
MOST = 4
SOURCE = Path(relay_program.__file__).read_text()


@asynccontextmanager
async def relaying(
    handle: Callable[[RelayChannel], Awaitable[None]], port: int
) -> AsyncIterator[None]:
    """A relay on that port, whose channels are served by `handle`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", SOURCE, str(port), str(MOST)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    tasks: set[asyncio.Task[None]] = set()

    async def serve(channel: RelayChannel) -> None:
        try:
            await handle(channel)
        finally:
            channel.close()
            channels.forget(channel.number)

    channels = RelayChannels(
        process.stdin.write, lambda channel: tasks.add(asyncio.create_task(serve(channel)))
    )

    async def follow(output: asyncio.StreamReader) -> None:
        while data := await output.read(1000):
            channels.write(data)

    following = asyncio.create_task(follow(process.stdout))
    ready = asyncio.create_task(channels.is_ready.wait())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait({following, ready}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        yield
    finally:
        # first: a connection that came meanwhile would be served, and not be cancelled
        following.cancel()
        for task in (ready, *tasks):
            task.cancel()
        # it ends by itself when the node has gone
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) in (0, 1)
        await asyncio.gather(following, *tasks, ready, return_exceptions=True)


async def echo(channel: RelayChannel) -> None:
    while data := await channel.read():
        await channel.write(data)


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


async def test_much_goes_both_ways_and_those_beyond_the_limit_wait(port: int) -> None:
    size = 4 * WINDOW_BYTES + 77

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = bytes([number]) * size
        writer.write(sent)
        assert await reader.readexactly(size) == sent
        writer.close()

    async with relaying(echo, port), asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*map(client, range(3 * MOST)))


async def test_a_client_that_does_not_read_keeps_nobody_waiting(port: int) -> None:
    is_full = asyncio.Event()

    async def endless(channel: RelayChannel) -> None:
        first = await channel.read()
        if first == b"quick":
            await channel.write(b"done")
            return
        await channel.write(b"x" * WINDOW_BYTES)
        is_full.set()
        await channel.write(b"x" * 2**30)

    async with relaying(endless, port), asyncio.timeout(PATIENCE_SECONDS):
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"endless")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"quick")
        # what was sent before the end is delivered
        assert await reader.read() == b"done"
        writer.close()
        await is_full.wait()
        slow.close()


async def test_a_client_that_sends_no_more_still_gets_its_answer(port: int) -> None:
    async def answer_at_the_end(channel: RelayChannel) -> None:
        asked = b""
        while data := await channel.read():
            asked += data
        await channel.write(asked * 3)

    async with relaying(answer_at_the_end, port), asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * WINDOW_BYTES)
        writer.write_eof()
        assert len(await reader.read()) == 3 * WINDOW_BYTES
        writer.close()


async def test_a_client_that_has_gone_is_noticed_once_something_is_sent_to_it(port: int) -> None:
    has_failed = asyncio.Event()

    async def write_on(channel: RelayChannel) -> None:
        assert not await channel.read()
        try:
            while True:
                await channel.write(b"x")
                await asyncio.sleep(0)
        except ConnectionResetError:
            has_failed.set()

    async with relaying(write_on, port), asyncio.timeout(PATIENCE_SECONDS):
        socket.create_connection(("127.0.0.1", port)).close()
        await has_failed.wait()


async def test_a_port_that_is_taken(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(RelayFailed, match="in use"):
        async with relaying(echo, port):
            pass


def frame(kind: int, channel: int, number: int, data: bytes = b"") -> bytes:
    return HEAD.pack(kind, channel, number) + data


@pytest.mark.parametrize(
    "frames",
    [
        frame(DATA, 1, 2**31),
        frame(FAILED, 0, 3, b"why"),
        frame(OPEN, 1, 0),
        frame(OPEN, 0, 0),
        frame(99, 1, 0),
        frame(TAKEN, 1, 1),
        frame(DATA, 1, 2**15, bytes(2**15)) * 5,
    ],
)
async def test_frames_that_no_relay_sends(frames: bytes) -> None:
    channels = RelayChannels(lambda data: None, lambda channel: None)
    channels.write(frame(OPEN, 1, 0))
    with pytest.raises(RelayFailed):
        channels.write(frames)


async def test_frames_of_a_channel_that_is_over_are_nobodys() -> None:
    sent: list[bytes] = []
    opened: list[RelayChannel] = []
    channels = RelayChannels(sent.append, opened.append)
    for byte in frame(OPEN, 1, 0) + frame(DATA, 1, 2, b"ab") + frame(CLOSE, 1, 0):
        channels.write(bytes([byte]))
    (channel,) = opened
    assert [await channel.read(), await channel.read()] == [b"ab", b""]
    with pytest.raises(ConnectionError):
        await channel.write(b"x")
    channel.close()
    channels.forget(1)
    channels.write(frame(DATA, 1, 2, b"cd") + frame(TAKEN, 1, 5) + frame(CLOSE, 1, 0))
    assert sent == []
