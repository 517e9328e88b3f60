"""The proxy of one step: it connects the step with the hosts that its pipeline names, no others.

The rule: a connection is made to an address that was checked, and to that very address. The name is
not asked for a second time, so an answer that changes in between changes nothing. What the step
sends is a stranger's: the head of its request, connections, bytes and time have limits, which are
the same on every replica.

The proxy belongs to one step. It gets connections from that step's namespace alone (see
`node.sandboxes.containers.egress_relay`), so no other build can use it.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

import msgspec

from common.host_patterns import is_meant
from node.egress.addresses import Network, is_open
from node.egress.request_head import (
    HEAD_BYTES_MAX,
    HEAD_END,
    HeadRefused,
    Request,
    parse_head,
)
from node.egress.traffic import HostTraffic, Traffic

# Of one step; those beyond the first number wait until others have ended.
CONNECTIONS_AT_ONCE_MAX = 64
CONNECTIONS_MAX = 10_000
BYTES_MAX = 8 * 2**30
# for the whole head of a request
HEAD_SECONDS_MAX = 15.0
# for the name's addresses, and for a connection with one of them
CONNECT_SECONDS_MAX = 30.0
# a connection on which nobody says anything
SILENCE_SECONDS_MAX = 300.0
# of the addresses of a name, those that are tried
ADDRESSES_MAX = 4
# a stranger's name server may answer slowly, and a question cannot be taken back
QUESTIONS_AT_ONCE_MAX = 8
PIECE_BYTES = 64 * 1024

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_FORBIDDEN = "403 Forbidden"
_BAD_GATEWAY = "502 Bad Gateway"


class Channel(Protocol):
    """A connection of the step."""

    async def read(self) -> bytes:
        """The next bytes, at most PIECE_BYTES; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError if the step has ended the connection."""


class NoSuchHost(Exception):
    """The name servers say that there is no such name."""


# The addresses of a name. Raises NoSuchHost, and OSError if nobody says whether there are any.
Resolve = Callable[[str], Awaitable[Iterable[str]]]


class EgressRules(msgspec.Struct, frozen=True):
    """What the step may reach."""

    # patterns (`common.host_patterns`)
    hosts: tuple[str, ...]
    # special addresses that they may lead to
    exceptions: tuple[Network, ...] = ()


class _Refused(Exception):
    """The step is not connected. is_trouble: for a reason of this machine, perhaps."""

    def __init__(self, problem: str, status: str, *, is_trouble: bool = False) -> None:
        super().__init__(problem)
        self.status = status
        self.is_trouble = is_trouble


class EgressProxy:
    """For one event loop. `traffic` says what went through it."""

    def __init__(self, rules: EgressRules, resolve: Resolve | None = None) -> None:
        """resolve: None for this machine's resolver."""
        self.traffic = Traffic()
        self._rules = rules
        self._resolve = resolve or resolve_name
        self._questions = asyncio.Semaphore(QUESTIONS_AT_ONCE_MAX)
        self._count = 0

    async def serve(self, channel: Channel) -> None:
        """Serve one connection of the step to its end; closing it is the caller's.

        Raises nothing but CancelledError.
        """
        self._count += 1
        try:
            await self._serve(channel)
        except (HeadRefused, _Refused) as refused:
            if isinstance(refused, _Refused) and refused.is_trouble:
                self.traffic.note_trouble(str(refused))
            else:
                self.traffic.note_refused(str(refused))
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(HEAD_SECONDS_MAX):
                    await channel.write(_answer(refused.status, str(refused)))
        except OSError:
            # one of the two has ended it in the middle
            pass

    async def _serve(self, channel: Channel) -> None:
        if self._count > CONNECTIONS_MAX:
            raise _Refused(f"more than {CONNECTIONS_MAX} connections of a step", _FORBIDDEN)
        if self.traffic.bytes > BYTES_MAX:
            raise _Refused(f"more than {BYTES_MAX} bytes of a step", _FORBIDDEN)
        try:
            async with asyncio.timeout(HEAD_SECONDS_MAX):
                head, rest = await _read_head(channel)
        except TimeoutError:
            problem = f"no whole request within {HEAD_SECONDS_MAX:g} s"
            raise _Refused(problem, "408 Request Timeout") from None
        if not head:
            return
        request = parse_head(head)
        reader, writer = await self._connect(request)
        connection = _Connection(
            channel=channel,
            reader=reader,
            writer=writer,
            traffic=self.traffic,
            counts=self.traffic.host(request.host, request.port),
        )
        try:
            if request.head is None:
                await channel.write(ESTABLISHED)
                await connection.carry(rest)
            else:
                await connection.send(request.head)
                await connection.carry(rest, bytes_max=request.body_bytes)
        finally:
            writer.transport.abort()

    async def _connect(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with the host. Raises _Refused."""
        place = f"{request.host}:{request.port}"
        if not is_meant(self._rules.hosts, request.host, request.port):
            raise _Refused(f"{place} is not among the hosts of this step (network:)", _FORBIDDEN)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                return await self._connect_to(await self._addresses(request.host), request.port)
        except TimeoutError:
            problem = f"{place} did not answer within {CONNECT_SECONDS_MAX:g} s"
        except NoSuchHost:
            raise _Refused(f"{place}: there is no host of this name", _BAD_GATEWAY) from None
        except OSError as error:
            problem = f"{place} is not reached ({error.strerror or error})"
        raise _Refused(problem, _BAD_GATEWAY, is_trouble=True)

    async def _addresses(self, host: str) -> list[str]:
        """The addresses of a name that a step may reach. Raises NoSuchHost, _Refused, OSError."""
        async with self._questions:
            found = list(await self._resolve(host))
        taken = [address for address in found if is_open(address, self._rules.exceptions)]
        if not taken:
            # an operator's own name server may say something else than all others
            problem = f"{host} leads to {', '.join(found[:ADDRESSES_MAX])}, which is not public"
            raise _Refused(problem, _FORBIDDEN, is_trouble=True)
        return taken[:ADDRESSES_MAX]

    async def _connect_to(
        self, addresses: list[str], port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with the first that answers. Raises OSError."""
        failure: OSError | None = None
        for address in addresses:
            try:
                # an address in figures: nobody is asked what it means
                return await asyncio.open_connection(
                    address, port, limit=PIECE_BYTES, flags=socket.AI_NUMERICHOST
                )
            except OSError as error:
                failure = error
        assert failure is not None, "there is an address"
        raise failure


class _Connection:
    """What goes between the step and a host, and how much that is."""

    def __init__(
        self,
        *,
        channel: Channel,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        traffic: Traffic,
        counts: HostTraffic,
    ) -> None:
        self._channel = channel
        self._reader = reader
        self._writer = writer
        self._traffic = traffic
        self._counts = counts
        self._heard_at = 0.0

    async def send(self, data: bytes) -> None:
        """Pass bytes on to the host. Raises OSError."""
        self._count(data)
        self._counts.sent_bytes += len(data)
        self._writer.write(data)
        await self._writer.drain()

    async def carry(self, first: bytes, bytes_max: int | None = None) -> None:
        """Carry bytes in both directions, until the host ends it or all are silent.

        The host is told if the client sends no more, and may still answer.

        first: of the client. bytes_max: how many of the client's are passed on; None: all. What it
        sends beyond that is a request for another connection. Raises OSError.
        """
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        down = asyncio.create_task(self._carry_down())
        both = waiting = {asyncio.create_task(self._carry_up(first, bytes_max)), down}
        try:
            while True:
                seconds = self._heard_at + SILENCE_SECONDS_MAX - loop.time()
                done, waiting = await asyncio.wait(
                    waiting, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                if down in done:
                    return
                if loop.time() - self._heard_at >= SILENCE_SECONDS_MAX:
                    return
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _carry_up(self, first: bytes, bytes_max: int | None) -> None:
        left = bytes_max
        data = first
        while True:
            taken = data if left is None else data[:left]
            if left is not None:
                left -= len(taken)
            if taken:
                await self.send(taken)
            # what is not passed on counts as well
            self._count(data[len(taken) :])
            data = await self._channel.read()
            if not data:
                # a whole request needs no end: some servers take one for a client that has gone
                if left != 0 and not self._writer.is_closing():
                    self._writer.write_eof()
                return

    async def _carry_down(self) -> None:
        while data := await self._reader.read(PIECE_BYTES):
            self._count(data)
            self._counts.received_bytes += len(data)
            await self._channel.write(data)

    def _count(self, data: bytes) -> None:
        """Raises ConnectionError if that is too much for a step."""
        self._heard_at = asyncio.get_running_loop().time()
        self._traffic.bytes += len(data)
        if self._traffic.bytes > BYTES_MAX:
            self._traffic.note_refused(f"more than {BYTES_MAX} bytes of a step")
            raise ConnectionError("too many bytes")


async def resolve_name(host: str) -> list[str]:
    """The addresses of a name, as this machine's resolver gives them; see `Resolve`.

    The resolver is asked for the name with a dot at its end, so it looks below no other domain.
    It blocks, perhaps for long: it has a thread that nobody waits for.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def ask() -> None:
        found: list[str] | Exception
        try:
            entries = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
            found = [str(place[0]) for _, _, _, _, place in entries]
        except socket.gaierror as error:
            is_none = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            found = NoSuchHost(host) if is_none else error
        except (OSError, UnicodeError) as error:
            found = OSError(str(error))
        # nobody may be left who waits for it
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, found)

    def tell(found: list[str] | Exception) -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await answer


async def _read_head(channel: Channel) -> tuple[bytes, bytes]:
    """A request's head, and what follows it; both empty if nothing came. Raises HeadRefused."""
    data = b""
    while HEAD_END not in data:
        if len(data) > HEAD_BYTES_MAX:
            raise HeadRefused("the head is too long", "431 Request Header Fields Too Large")
        piece = await channel.read()
        if not piece:
            if data:
                raise HeadRefused("the request ends in its head")
            return b"", b""
        data += piece
    head, _, rest = data.partition(HEAD_END)
    if len(head) > HEAD_BYTES_MAX:
        raise HeadRefused("the head is too long", "431 Request Header Fields Too Large")
    return head + HEAD_END, rest


def _answer(status: str, problem: str) -> bytes:
    """What the step's program reads; people see it in the log if the program shows it."""
    body = f"pbft-ci: {problem}\n".encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
