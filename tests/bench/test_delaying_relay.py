"""The relay passes on all bytes, in their order and not before their time, and the end as well."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bench.delaying_relay import HOST, main, serve
from scripts.free_ports import free_ports

DELAY_SECONDS = 0.05
# More than one chunk.
SENT = bytes(range(256)) * 1024


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what came, once it has ended."""
    writer.write(await reader.read(-1))
    await writer.drain()
    writer.close()


@pytest.fixture
async def relayed() -> AsyncIterator[int]:
    """The port of a relay before a server."""
    port, to = free_ports(2)
    server = await asyncio.start_server(_answer, HOST, to)
    relay = asyncio.create_task(serve(DELAY_SECONDS, {port: to}))
    yield port
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    server.close()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection(HOST, port)
            await asyncio.sleep(0.01)


async def test_all_of_it_comes_back_in_order_and_not_too_early(relayed: int) -> None:
    reader, writer = await _connect(relayed)
    clock = asyncio.get_running_loop().time
    began = clock()
    writer.write(SENT)
    writer.write_eof()
    assert await reader.read(-1) == SENT
    assert clock() - began >= 2 * DELAY_SECONDS
    writer.close()


async def test_nobody_behind_it_ends_the_connection() -> None:
    port, nobody = free_ports(2)
    relay = asyncio.create_task(serve(0.0, {port: nobody}))
    reader, writer = await _connect(port)
    assert await reader.read(-1) == b""
    writer.close()
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)


@pytest.mark.parametrize(
    "arguments", [["--milliseconds", "-1", "1:2"], ["--milliseconds", "5", "1-2"]]
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
