"""bounded_http: every answer ends, in time and in size, and every failure is one error."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.web.bounded_http import (
    Answer,
    AnswerBounds,
    HttpRequest,
    NoAnswer,
    NotInTime,
    NotReached,
    ask,
    bounded_session,
    decode_json,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """A server that does what a test says, and a session to ask it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.handler: Handler = self._silent
        self.url = ""

    async def ask(self, bytes_max: int = 100, timeout_seconds: float = 20.0) -> Answer:
        """Its answer."""
        return await ask(
            self.session, HttpRequest(url=self.url), AnswerBounds(bytes_max, timeout_seconds)
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        return await self.handler(request)

    async def _silent(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("waited for too long")


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with bounded_session() as session:
        peer = Peer(session)
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", peer.serve)
        server = TestServer(application)
        await server.start_server()
        peer.url = str(server.make_url("/"))
        yield peer
        await server.close()


def answering(response: Callable[[], web.Response]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return response()

    return handler


async def test_an_answer_of_just_the_limit_is_read_and_one_byte_more_is_not(peer: Peer) -> None:
    peer.handler = answering(lambda: web.Response(body=bytes(100), headers={"X-What": "this"}))
    answer = await peer.ask(100)
    assert (answer.status, answer.data, answer.headers["x-what"]) == (200, bytes(100), "this")
    with pytest.raises(NoAnswer, match="longer than 99 bytes"):
        await peer.ask(99)


async def test_an_answer_without_an_end_ends_at_the_limit(peer: Peer) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))

    peer.handler = endless
    with pytest.raises(NoAnswer, match="longer than 1048576"):
        await peer.ask(2**20)


async def test_a_packed_answer_stays_packed(peer: Peer) -> None:
    packed = gzip.compress(bytes(10**6))
    peer.handler = answering(
        lambda: web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    )
    assert (await peer.ask(len(packed))).data == packed


async def test_silence_is_an_error_of_its_own(peer: Peer) -> None:
    with pytest.raises(NotInTime, match=r"in 0\.2 s"):
        await peer.ask(timeout_seconds=0.2)


async def test_a_redirect_is_an_answer_like_any_other(peer: Peer) -> None:
    peer.handler = answering(lambda: web.Response(status=302, headers={"Location": "/x"}))
    assert (await peer.ask()).status == 302


async def test_a_method_a_query_a_body_and_headers_are_sent(peer: Peer) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        text = f"{request.method} {request.path_qs} {request.headers['X-A']} {await request.text()}"
        return web.Response(text=text)

    peer.handler = echo
    answer = await ask(
        peer.session,
        HttpRequest(
            method="POST", url=peer.url, query={"a": "1"}, headers={"X-A": "c"}, body={"b": 2}
        ),
        AnswerBounds(100, 20),
    )
    assert answer.data == b'POST /?a=1 c {"b": 2}'


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "nonsense", "http://"])
async def test_nobody_there(url: str, unused_tcp_port: int) -> None:
    async with bounded_session() as session:
        with pytest.raises(NotReached):
            await ask(
                session, HttpRequest(url=url.format(port=unused_tcp_port)), AnswerBounds(1, 20)
            )


@pytest.mark.parametrize("data", [b"", b"[1", b"\xff", b"[" * 100_000, b'{"a": 1}'])
def test_json_of_another_kind_is_no_answer(data: bytes) -> None:
    with pytest.raises(NoAnswer, match="cannot be read"):
        decode_json(data, list[int])


def test_json() -> None:
    assert decode_json(b"[1, 2]", list[int]) == [1, 2]
