"""A step's proxy, attacked over real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from node.egress import egress_proxy
from node.egress.addresses import networks_of
from node.egress.egress_proxy import (
    ESTABLISHED,
    EgressProxy,
    EgressRules,
    NoSuchHost,
    resolve_name,
)

HOST = "packages.example.org"
PATIENCE_SECONDS = 30.0

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class StreamChannel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        return await self.reader.read(65536)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@asynccontextmanager
async def listening(handle: Handler) -> AsyncIterator[int]:
    """The port of a server on this machine; each connection ends with its handler."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Setting:
    """A proxy, what its resolver answers, and the names that it was asked for."""

    def __init__(self) -> None:
        self.answers: list[list[str] | Exception] = [["127.0.0.1"]]
        self.asked: list[str] = []
        self.proxy: EgressProxy
        self.port = 0

    async def resolve(self, host: str) -> list[str]:
        """The answers in their order, the last one again and again."""
        self.asked.append(host)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, request: str | bytes, more: bytes = b"") -> bytes:
        """All that comes of one connection with the proxy, which may end it early."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = request if isinstance(request, bytes) else request.encode()
        answer = b""
        with suppress(ConnectionError):
            writer.write(data + more)
            await writer.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                while piece := await reader.read(65536):
                    answer += piece
        writer.close()
        return answer


@asynccontextmanager
async def proxying(
    *hosts: str, exceptions: tuple[str, ...] = ("127.0.0.1",)
) -> AsyncIterator[Setting]:
    setting = Setting()
    rules = EgressRules(hosts, networks_of(exceptions))
    setting.proxy = EgressProxy(rules, setting.resolve)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await setting.proxy.serve(StreamChannel(reader, writer))

    async with listening(serve) as setting.port:
        yield setting


def connect(port: int, host: str = HOST) -> str:
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n"


async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the first bytes, and is done."""
    writer.write(b"heard " + await reader.read(65536))
    await writer.drain()


async def test_a_tunnel_carries_bytes_and_says_how_many() -> None:
    async with listening(brief) as port, proxying(f"{HOST}:{port}") as setting:
        # a client may send before it has the answer
        answer = await setting.ask(connect(port), b"hello")
        assert answer == ESTABLISHED + b"heard hello"
        assert setting.asked == [HOST]
        assert setting.proxy.traffic.lines() == [
            f"network: {HOST}:{port}: 1 connection, 5 bytes sent, 11 bytes received"
        ]
        assert setting.proxy.traffic.trouble is None


async def test_much_goes_through_in_both_directions_at_once() -> None:
    size = 8 * 2**20
    async with listening(echo) as port, proxying(f"{HOST}:{port}") as setting:
        reader, writer = await asyncio.open_connection("127.0.0.1", setting.port)
        writer.write(connect(port).encode() + b"x" * size)
        assert await reader.readexactly(len(ESTABLISHED)) == ESTABLISHED
        assert await reader.readexactly(size) == b"x" * size
        writer.close()


async def test_a_client_that_sends_no_more_still_gets_its_answer() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all of it: " + await reader.read())

    async with listening(answer_at_the_end) as port, proxying(f"{HOST}:{port}") as setting:
        for head in (
            connect(port),
            f"POST http://{HOST}:{port}/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", setting.port)
            writer.write(head.encode() + b"hello")
            writer.write_eof()
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await reader.read()
            writer.close()
            assert b"all of it: " in answer
            assert answer.endswith(b"hello")


async def test_what_is_behind_a_request_for_a_url_reaches_no_host() -> None:
    """It may be for another host: only as many bytes go on as the request has."""
    got: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                got.append(await reader.read(1))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndone")

    async with listening(take) as port, proxying(f"{HOST}:{port}") as setting:
        first = f"PUT http://{HOST}:{port}/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        answer = await setting.ask(first, b"GET http://evil.org/ HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"done")
    assert got == [
        f"PUT /x HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\nabc".encode()
    ]


async def test_a_redirect_leads_to_no_host_that_is_not_listed() -> None:
    async def lead_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://evil.org/\r\n\r\n")

    async with listening(lead_away) as port, proxying(f"{HOST}:{port}") as setting:
        answer = await setting.ask(f"GET http://{HOST}:{port}/ HTTP/1.1\r\n\r\n")
        # the client's business: the proxy follows nothing
        assert b"302 Found" in answer
        assert (await setting.ask(connect(443, "evil.org"))).startswith(b"HTTP/1.1 403 ")
        assert setting.asked == [HOST], "nobody is asked about a name that is not listed"
        (refused,) = [line for line in setting.proxy.traffic.lines() if "refused" in line]
        assert refused == (
            "network: refused: evil.org:443 is not among the hosts of this step (network:)"
        )
        assert setting.proxy.traffic.trouble is None


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["10.0.0.1", "fd00::1"],
        ["::ffff:127.0.0.1"],
        ["::1"],
        ["64:ff9b::7f00:1"],
        ["127.0.0.2"],
        [],
    ],
)
async def test_a_name_that_leads_to_special_addresses(addresses: list[str]) -> None:
    async with listening(echo) as port, proxying(f"{HOST}:{port}") as setting:
        setting.answers = [addresses]
        assert (await setting.ask(connect(port))).startswith(b"HTTP/1.1 403 ")
        assert "which is not public" in (setting.proxy.traffic.trouble or "")


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    """A name server that says something else the next time gets nobody anywhere else."""
    async with listening(brief) as port, proxying(f"{HOST}:{port}") as setting:
        setting.answers = [["10.0.0.1", "127.0.0.1"], ["10.0.0.1"]]
        assert (await setting.ask(connect(port), b"x")).endswith(b"heard x")
        assert setting.asked == [HOST], "it is asked once for a connection"
        assert (await setting.ask(connect(port), b"x")).startswith(b"HTTP/1.1 403 ")


async def test_a_name_that_does_not_exist_is_no_trouble_of_this_machine() -> None:
    async with proxying(HOST) as setting:
        setting.answers = [NoSuchHost(HOST)]
        assert (await setting.ask(connect(443))).startswith(b"HTTP/1.1 502 ")
        assert setting.proxy.traffic.trouble is None


async def test_what_this_machine_does_not_reach_is_its_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening(echo) as port:
        pass
    async with proxying(f"{HOST}:{port}") as setting:
        assert (await setting.ask(connect(port))).startswith(b"HTTP/1.1 502 ")
        assert "is not reached" in (setting.proxy.traffic.trouble or "")
    async with proxying(HOST) as setting:
        setting.answers = [OSError("no name server answers")]
        assert (await setting.ask(connect(443))).startswith(b"HTTP/1.1 502 ")
        assert "no name server answers" in (setting.proxy.traffic.trouble or "")
    monkeypatch.setattr(egress_proxy, "CONNECT_SECONDS_MAX", 0.1)

    async def never(host: str) -> list[str]:
        await asyncio.Event().wait()
        return [host]

    async with proxying(HOST) as setting:
        setting.proxy = EgressProxy(EgressRules((HOST,)), never)
        assert (await setting.ask(connect(443))).startswith(b"HTTP/1.1 502 ")
        assert "did not answer within" in (setting.proxy.traffic.trouble or "")


async def test_heads_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxying(HOST) as setting:
        for head in (b"A" * 2**20, b"GET http://x.org/ HTTP/1.1\r\n" + b"A: b\r\n" * 2**16):
            assert (await setting.ask(head)).startswith((b"HTTP/1.1 431 ", b""))
        monkeypatch.setattr(egress_proxy, "HEAD_SECONDS_MAX", 0.2)
        assert (await setting.ask("CONNECT ")).startswith(b"HTTP/1.1 408 ")
        told = "\n".join(setting.proxy.traffic.lines())
        assert "the head is too long (2 times)" in told
        assert "no whole request within" in told
        assert setting.asked == []


async def test_bytes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "BYTES_MAX", 2**20)
    ended = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        finally:
            ended.set()

    async with listening(endless) as port, proxying(f"{HOST}:{port}") as setting:
        answer = await setting.ask(connect(port))
        assert len(answer) <= 2**20 + len(ESTABLISHED)
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
        assert (await setting.ask(connect(port))).startswith(b"HTTP/1.1 403 ")
        assert "more than 1048576 bytes" in "\n".join(setting.proxy.traffic.lines())


async def test_what_nobody_reads_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "BYTES_MAX", 2**20)

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async with listening(wait) as port, proxying(f"{HOST}:{port}") as setting:
        await setting.ask(f"GET http://{HOST}:{port}/ HTTP/1.1\r\n\r\n", b"x" * 2**22)
        assert setting.proxy.traffic.bytes <= 2**20 + 65536 + 100


async def test_connections_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "CONNECTIONS_MAX", 3)
    async with listening(brief) as port, proxying(f"{HOST}:{port}") as setting:
        answers = [await setting.ask(connect(port), b"x") for _ in range(5)]
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 403"] * 2


async def test_silence_ends_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "SILENCE_SECONDS_MAX", 0.2)
    async with listening(echo) as port, proxying(f"{HOST}:{port}") as setting:
        assert await setting.ask(connect(port), b"x") == ESTABLISHED + b"x"


async def test_many_hosts_and_refusals_are_told_together() -> None:
    async with proxying(HOST) as setting:
        for number in range(70):
            await setting.ask(connect(443, f"host{number}.evil.org"))
        setting.proxy.traffic.note_refused("\x1b[31m\n" + "x" * 1000)
        lines = setting.proxy.traffic.lines()
        assert len(lines) == 65
        assert lines[-1] == "network: refused: others (7 times)"
        for number in range(70):
            setting.proxy.traffic.host(f"host{number}.example.org", 443)
        assert "network: further hosts: 6 connections" in "\n".join(setting.proxy.traffic.lines())


async def test_this_machines_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for the name itself, and for no other below its own domain."""
    asked: list[object] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        if host.startswith("missing"):
            raise socket.gaierror(socket.EAI_NONAME, "none")
        if host.startswith("silent"):
            raise socket.gaierror(socket.EAI_AGAIN, "later")
        return [(2, 1, 6, "", ("192.31.196.2", 0)), (10, 1, 6, "", ("2a00:99::2", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await resolve_name(HOST) == ["192.31.196.2", "2a00:99::2"]
    with pytest.raises(NoSuchHost):
        await resolve_name("missing.example.org")
    with pytest.raises(OSError, match="later"):
        await resolve_name("silent.example.org")
    assert asked[0] == f"{HOST}."
