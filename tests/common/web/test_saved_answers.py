"""Answers from machines that nobody trusts, saved to a file: never more than was agreed on."""

import hashlib
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.web.bounded_http import (
    CannotWrite,
    HttpRequest,
    NoAnswer,
    NotReached,
    bounded_session,
    save,
)

PIECE = b"x" * 100_000


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with bounded_session() as session:
        yield session


async def serve(pieces: int, status: int = 200) -> TestServer:
    """A server whose every answer has so many pieces, and no word of its length before."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(pieces):
            await response.write(PIECE)
        return response

    application = web.Application()
    application.router.add_get("/", answer)
    server = TestServer(application)
    await server.start_server()
    return server


async def test_an_answer_is_saved_with_its_digest(session: aiohttp.ClientSession) -> None:
    file = io.BytesIO()
    async with await serve(3) as server:
        request = HttpRequest(url=str(server.make_url("/")))
        saved = await save(session, request, file, length=3 * len(PIECE), timeout_seconds=20)
    assert saved == (200, hashlib.sha256(3 * PIECE).hexdigest())
    assert file.getvalue() == 3 * PIECE


async def test_what_is_longer_is_not_written(session: aiohttp.ClientSession) -> None:
    """A replica that lies about the length must not fill the disk of whoever asks."""
    file = io.BytesIO()
    async with await serve(1000) as server:
        with pytest.raises(NoAnswer, match="more than the 150000 bytes"):
            await save(
                session,
                HttpRequest(url=str(server.make_url("/"))),
                file,
                length=150_000,
                timeout_seconds=20,
            )
    assert len(file.getvalue()) <= 150_000


async def test_what_is_shorter_is_no_answer(session: aiohttp.ClientSession) -> None:
    async with await serve(1) as server:
        with pytest.raises(NoAnswer, match="100000 of the 150000 bytes"):
            await save(
                session,
                HttpRequest(url=str(server.make_url("/"))),
                io.BytesIO(),
                length=150_000,
                timeout_seconds=20,
            )


async def test_another_status_is_told_and_not_saved(session: aiohttp.ClientSession) -> None:
    file = io.BytesIO()
    async with await serve(1, status=404) as server:
        saved = await save(
            session,
            HttpRequest(url=str(server.make_url("/"))),
            file,
            length=150_000,
            timeout_seconds=20,
        )
    assert (saved, file.getvalue()) == ((404, ""), b"")


async def test_a_disk_that_takes_nothing_is_not_the_servers_fault(
    session: aiohttp.ClientSession,
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    async with await serve(1) as server:
        with pytest.raises(CannotWrite, match="No space left"):
            await save(
                session,
                HttpRequest(url=str(server.make_url("/"))),
                Full(),
                length=len(PIECE),
                timeout_seconds=20,
            )


async def test_nobody_there(session: aiohttp.ClientSession, unused_tcp_port: int) -> None:
    request = HttpRequest(url=f"http://127.0.0.1:{unused_tcp_port}/")
    with pytest.raises(NotReached):
        await save(session, request, io.BytesIO(), length=1, timeout_seconds=5)
