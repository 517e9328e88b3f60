"""Who is let in, over real sockets: not too many, not for ever silent, not for foreign pages."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from common.address import Address
from common.web.limited_listener import (
    LimitedListener,
    Limits,
    give_own_place,
    is_this_machine,
    listening_sockets,
    own_names,
    refuse_foreign_pages,
)
from tests.waiting import wait_until

HEADER_SECONDS = 1.0
LARGE_BYTES = 8 * 2**20


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Running:
    """A server behind a listener on loopback: six connections in all, four of a foreign address.

    header_seconds: by default nobody is hung up on, however long a busy machine takes for a test.
    """

    def __init__(
        self, unread_bytes_max: int = 8 * LARGE_BYTES, header_seconds: float = 600.0
    ) -> None:
        self.waiting = 0
        self.may_answer = asyncio.Event()
        own = own_names(Address("127.0.0.1", 1), "https://ci.example.org/x")
        application = web.Application(middlewares=[refuse_foreign_pages(own)])
        application.router.add_route("*", "/", self._answer)
        application.router.add_get("/wait", self._wait)
        application.router.add_get("/member", self._be_member)
        application.router.add_get("/large", self._send_much)
        application.router.add_post("/read", self._read)
        self.listener = LimitedListener(application, Limits(6, 4, unread_bytes_max), header_seconds)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(text="here")

    async def _wait(self, request: web.Request) -> web.Response:
        self.waiting += 1
        await self.may_answer.wait()
        return web.Response()

    async def _be_member(self, request: web.Request) -> web.Response:
        give_own_place(request)
        return await self._wait(request)

    async def _send_much(self, request: web.Request) -> web.Response:
        # more than the system's own buffers take
        return web.Response(body=bytes(LARGE_BYTES))

    async def _read(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def connect(self) -> Connection:
        port = self.listener.sockets[0].getsockname()[1]
        return await asyncio.open_connection("127.0.0.1", port, limit=1024)

    async def hold(self, count: int, sent: bytes) -> list[Connection]:
        """So many connections, one after the other, that each sent this."""
        held = []
        for _ in range(count):
            before = self.listener.admitted
            held.append(await self.connect())
            held[-1][1].write(sent)
            await wait_until(lambda before=before: self.listener.admitted > before, "a connection")  # type: ignore[misc]
        return held

    async def ask(self, *headers: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of a request with these headers, on a connection of its own."""
        reader, writer = await self.connect()
        lines = [f"{method} / HTTP/1.1", *headers, "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode())
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


async def close(held: list[Connection]) -> None:
    """Hang up, whatever the other end says to that."""
    for _, writer in held:
        writer.transport.abort()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    running = Running()
    await running.listener.open(Address("127.0.0.1", 0))
    yield running
    await running.listener.end()


@pytest.fixture
async def impatient() -> AsyncIterator[Running]:
    running = Running(header_seconds=HEADER_SECONDS)
    await running.listener.open(Address("127.0.0.1", 0))
    yield running
    await running.listener.end()


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: localhost:8080",),
        ("Host: 127.0.0.1",),
        ("Host: [::1]:8080",),
        ("Host: LOCALHOST",),
        ("Host: ci.example.org",),
        ("Host: localhost:8080", "Origin: http://localhost:8080"),
        ("Host: localhost", "Origin: http://localhost:80"),
        ("Host: [::1]:8080", "Origin: http://[::1]:8080"),
        ("Host: ci.example.org", "Origin: https://ci.example.org"),
        # by a proxy that puts its own name for this server there
        ("Host: localhost:8080", "Origin: https://CI.example.org:443"),
    ],
)
async def test_its_own_names_are_let_in(running: Running, headers: tuple[str, ...]) -> None:
    assert await running.ask(*headers) == (200, b"here")
    assert await running.ask(*headers, "Content-Length: 0", method="POST") == (200, b"here")


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: evil.example.org",),
        ("Host: 127.0.0.1.evil.example.org",),
        ("Host: localhost", "Origin: https://evil.example.org"),
        ("Host: localhost", "Origin: null"),
        ("Host: localhost:8080", "Origin: http://localhost:3000"),
        ("Host: localhost:8080", "Origin: https://localhost:8080"),
        ("Host: localhost:8080", "Origin: http://127.0.0.1:8080"),
        ("Host: localhost", "Origin: http://ci.example.org"),
        ("Host: localhost", "Origin: https://ci.example.org:8443"),
        ("Host: localhost:x",),
        ("Host: localhost", "Origin: http://[localhost"),
        ("Host:",),
    ],
)
async def test_a_foreign_host_or_origin_is_refused(
    running: Running, headers: tuple[str, ...]
) -> None:
    status, body = await running.ask(*headers)
    assert status == 403
    assert (b"Origin: " if headers[1:] else b"call it as localhost") in body


def test_a_node_behind_a_tunnel_is_called_by_its_address_in_the_cluster() -> None:
    own = own_names(Address("127.0.0.1", 1), None, Address("node1.example", 443))
    assert own.has_host("NODE1.example")
    assert own.has_host("localhost")
    assert not own.has_host("192.0.2.1")


@pytest.mark.parametrize("listen", ["0.0.0.0", "192.0.2.1", "node1.example"])
def test_beyond_loopback_a_server_has_numbers_and_the_names_that_it_was_given(listen: str) -> None:
    """A page whose name is pointed at us (DNS rebinding) calls us by that name, not a number."""
    own = own_names(Address(listen, 80), "https://ci.example.org", Address("n1.example", 80))
    for host in (listen, "192.0.2.7", "::1", "localhost", "ci.example.org", "n1.example"):
        assert own.has_host(host), host
    for foreign in ("evil.example.org", "192.0.2.1.evil.example.org", "", None):
        assert not own.has_host(foreign), foreign


HALF = {
    "nothing": b"",
    "half a header": b"GET / HTTP/1.1\r\nHost: localh",
    "half a body": b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf",
    "an answer that is not read": b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "one request, and silence": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
async def test_the_oldest_that_is_unfinished_goes_when_the_server_is_full(
    running: Running, sent: bytes
) -> None:
    held = await running.hold(6, sent)
    for _ in range(3):
        assert await running.ask("Host: localhost") == (200, b"here")
        await wait_until(lambda: running.listener.connections <= 6, "room")
    assert running.listener.refused == 0
    assert 1 <= running.listener.sent_away <= 3
    # the youngest is here yet
    assert not held[-1][0].at_eof()
    await close(held)


async def test_a_whole_request_is_not_cut_off_for_a_newcomer(running: Running) -> None:
    held = await running.hold(6, b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wait_until(lambda: running.waiting == 6, "six requests")
    status, body = await running.ask("Host: localhost")
    assert (status, running.listener.refused, running.listener.sent_away) == (503, 1, 0)
    assert b"too many connections" in body
    running.may_answer.set()
    for reader, _ in held:
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 60)
    assert (await running.ask("Host: localhost"))[0] == 200
    await close(held)


async def test_members_have_places_of_their_own(running: Running) -> None:
    """As many as they are, they take nobody's, and nobody takes theirs."""
    members = await running.hold(8, b"GET /member HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wait_until(lambda: running.waiting == 8, "eight members")
    assert running.listener.connections == 0
    strangers = await running.hold(7, HALF["half a header"])
    assert (await running.ask("Host: localhost"))[0] == 200
    running.may_answer.set()
    for reader, _ in members:
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 60)
    await close(members)
    await close(strangers)


async def test_what_is_not_read_is_bounded() -> None:
    """Each answer is nearly as large as all together may be that wait for their readers."""
    running = Running(unread_bytes_max=LARGE_BYTES)
    await running.listener.open(Address("127.0.0.1", 0))
    held = await running.hold(3, HALF["an answer that is not read"])
    await wait_until(lambda: running.listener.sent_away >= 2, "two sent away")
    assert (await running.ask("Host: localhost"))[0] == 200
    await close(held)
    await running.listener.end()


async def test_one_foreign_address_cannot_take_all_the_room(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own oldest goes; while all of its requests are whole, nobody's."""
    monkeypatch.setattr("common.web.limited_listener.is_this_machine", lambda peer: False)
    held = await running.hold(4, HALF["half a header"])
    assert (await running.ask("Host: localhost"))[0] == 200
    assert (running.listener.sent_away, running.listener.refused) == (1, 0)
    await close(held)
    await wait_until(lambda: running.listener.connections == 0, "all gone")
    held = await running.hold(4, b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wait_until(lambda: running.waiting == 4, "four requests")
    assert (await running.ask("Host: localhost"))[0] == 503
    running.may_answer.set()
    await close(held)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: "])
async def test_a_header_that_never_ends_is_hung_up_on(impatient: Running, sent: bytes) -> None:
    reader, writer = await impatient.connect()
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 60 * HEADER_SECONDS) == b""
    writer.close()


async def test_so_is_a_second_one_on_a_connection_that_was_used(impatient: Running) -> None:
    reader, writer = await impatient.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")
    answer = await asyncio.wait_for(reader.read(), 60 * HEADER_SECONDS)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()


def test_loopback_is_told_from_elsewhere() -> None:
    assert is_this_machine("127.0.0.7")
    assert is_this_machine("::1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("")


async def test_who_connects_between_two_listeners_waits_for_the_second() -> None:
    """The sockets are held: a port that was closed for a moment would refuse."""

    async def say(request: web.Request) -> web.Response:
        return web.Response(text="second")

    address = Address("127.0.0.1", 0)
    (held,) = await listening_sockets(address)
    with held:
        first = LimitedListener(web.Application())
        await first.open(address, [held])
        await first.end()
        reader, writer = await asyncio.open_connection(*held.getsockname()[:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        app = web.Application()
        app.router.add_get("/", say)
        second = LimitedListener(app)
        await second.open(address, [held])
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"second")
        writer.close()
        await second.end()
