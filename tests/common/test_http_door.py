"""Who is let in, over real sockets: not too many, not for ever silent, not for foreign pages."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from common.address import Address
from common.http_door import Door, Limits, is_this_machine, known_hosts, refuse_foreign_pages
from tests.waiting import wait_until

HEADER_SECONDS = 1.0


class Running:
    """A server behind a door on loopback."""

    def __init__(self, door: Door, port: int) -> None:
        self.door = door
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *headers: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of a request with these headers, on a connection of its own."""
        reader, writer = await self.connect()
        lines = [f"{method} / HTTP/1.1", *headers, "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """Six connections in all."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="here")

    hosts = known_hosts(Address("127.0.0.1", 1), "https://ci.example.org/x")
    application = web.Application(middlewares=[refuse_foreign_pages(hosts)])
    application.router.add_route("*", "/", answer)
    door = Door(application, Limits(connections_max=6), HEADER_SECONDS)
    await door.open(Address("127.0.0.1", 0))
    yield Running(door, door.sockets[0].getsockname()[1])
    await door.end()


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: localhost:8080",),
        ("Host: 127.0.0.1",),
        ("Host: [::1]:8080",),
        ("Host: LOCALHOST",),
        ("Host: ci.example.org",),
        ("Host: localhost", "Origin: http://127.0.0.1:8080"),
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
        ("Host: localhost", "Origin: http://[localhost"),
        ("Host:",),
    ],
)
async def test_a_foreign_host_or_origin_is_refused(
    running: Running, headers: tuple[str, ...]
) -> None:
    status, body = await running.ask(*headers)
    assert status == 403
    assert b"localhost" in body


def test_a_node_behind_a_tunnel_is_called_by_its_address_in_the_cluster() -> None:
    hosts = known_hosts(Address("127.0.0.1", 1), None, Address("node1.example", 443))
    assert hosts is not None
    assert {"node1.example", "localhost"} <= hosts


async def test_behind_a_public_address_every_name_is_its_own() -> None:
    assert known_hosts(Address("0.0.0.0", 80), None) is None
    assert refuse_foreign_pages(None) is not None


async def test_one_too_many_is_told_so_and_room_comes_back(running: Running) -> None:
    held = [await running.connect() for _ in range(6)]
    await wait_until(lambda: running.door.connections == 6, "six connections")
    status, body = await running.ask("Host: localhost")
    assert (status, running.door.refused) == (503, 1)
    assert b"too many connections" in body
    held[0][1].close()
    await wait_until(lambda: running.door.connections < 6, "room")
    assert (await running.ask("Host: localhost"))[0] == 200
    for _, writer in held[1:]:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: "])
async def test_a_header_that_never_ends_is_hung_up_on(running: Running, sent: bytes) -> None:
    reader, writer = await running.connect()
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 20 * HEADER_SECONDS) == b""
    writer.close()


async def test_so_is_a_second_one_on_a_connection_that_was_used(running: Running) -> None:
    reader, writer = await running.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")
    answer = await asyncio.wait_for(reader.read(), 20 * HEADER_SECONDS)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()


def test_loopback_is_told_from_elsewhere() -> None:
    assert is_this_machine("127.0.0.7")
    assert is_this_machine("::1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("")


async def test_one_foreign_address_cannot_take_all_the_room(running: Running) -> None:
    """The count is by address; here everybody is on loopback, so it is asked for directly."""
    door = Door(web.Application(), Limits(connections_max=100, per_peer_max=0))
    assert door.has_room("127.0.0.1")
    assert not door.has_room("192.0.2.1")
