"""sent_file: whole to whoever reads it, and no longer than needed to whoever does not."""

import asyncio
import contextlib
import io

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.web import sent_file
from common.web.sent_file import CHUNK_BYTES, send_file
from tests.waiting import wait_until


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
async def test_who_reads_gets_all_of_it(length: int) -> None:
    content = bytes(number % 251 for number in range(length))

    async def send(request: web.Request) -> web.StreamResponse:
        return await send_file(request, io.BytesIO(content), {"Content-Length": str(length)})

    application = web.Application()
    application.router.add_get("/", send)
    async with TestClient(TestServer(application)) as client, client.get("/") as answer:
        assert answer.headers["Content-Length"] == str(length)
        assert await answer.read() == content


@pytest.mark.parametrize("is_gone", [False, True])
async def test_who_reads_nothing_or_goes_away_is_let_go(
    is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few downloads have a place at once; and whoever breaks one off is no fault of ours."""
    monkeypatch.setattr(sent_file, "WRITE_TIMEOUT_SECONDS", 600.0 if is_gone else 0.3)
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    transports: list[asyncio.Transport] = []

    async def send(request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        transports.append(request.transport)
        try:
            response = await send_file(request, io.BytesIO(bytes(2**26)), {})
        except BaseException as error:
            ended.set_result(error)
            raise
        ended.set_result(None)
        return response

    application = web.Application()
    application.router.add_get("/", send)
    # as the gateway does: what TestServer runs cancels a handler whose caller is gone
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        reader, writer = await asyncio.open_connection(*runner.addresses[0], limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        if is_gone:
            (transport,) = transports
            _, full_bytes = transport.get_write_buffer_limits()
            await wait_until(
                lambda: transport.get_write_buffer_size() > full_bytes, "it waits for the reader"
            )
            writer.transport.abort()
        # in time: where somebody is gone, before the time of one who reads nothing is over
        async with asyncio.timeout(60):
            assert await ended is None
        if not is_gone:
            # what was sent until then, and no whole file
            with contextlib.suppress(ConnectionError):
                assert len(await reader.read(-1)) < 2**26
        writer.close()
