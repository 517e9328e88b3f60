"""Strangers who hold connections half open, or follow a dear log: what do honest requests wait?

Each kind of stranger in turn opens so many connections to one node of a running network, and opens
again, at a steady rate, those that the node hangs up on. Meanwhile somebody asks the node on a new
connection each time; the same was asked before, with nobody else there. Then the gateway is asked
so while as many as it lets in follow a log that is all escape sequences, from its beginning.
"""

import asyncio
import contextlib
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator, Sequence

from bench.context import Context
from bench.figures import spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.rows import Row, Target
from common.address import Address
from scripts.harness import Network, pipeline

NAME = "strangers"
STRANGERS = 5000
# more than a node has places
QUICK_STRANGERS = 1050
REQUESTS = 300
QUICK_REQUESTS = 60
# so many that were hung up on come again, each so many seconds
AGAIN = 20
AGAIN_SECONDS = 0.1
ANSWER_SECONDS = 30.0
# Other files that this process has open.
FILES = 200
VERDICT_SECONDS_MAX = 120.0
WAIT = Target(2.0)

DEAR = "dear"
# of the 100 that the gateway lets follow
FOLLOWERS = 95
QUICK_FOLLOWERS = 10
LOG_BYTES = 4_000_000
QUICK_LOG_BYTES = 100_000

_BODY = b"POST /pbft/message HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
_METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
KINDS = {
    "half a header": b"GET /healthz HTTP/1.1\r\nHost: localh",
    "half a body": _BODY + b" " * 1000,
    "a silent link": b"GET /link HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a reader that never reads": _METRICS * 3,
}
_HONEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def run(context: Context) -> list[Row]:
    """Each kind of stranger at one node. Raises BenchFailed, NetworkFailed, StartFailed."""
    wanted = QUICK_STRANGERS if context.is_quick else STRANGERS
    requests = QUICK_REQUESTS if context.is_quick else REQUESTS
    count = _allowed(wanted)
    rows = []
    size = QUICK_LOG_BYTES if context.is_quick else LOG_BYTES
    with open_network(context, NAME, branches={DEAR: _dear_log(size)}) as network:
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(wait_until_linked, network)
        node = network.configuration.nodes[0]
        for kind, sent in KINDS.items():
            quiet = await _ask(node.listen, requests)
            async with _held(node.listen, sent, count):
                crowded = await _ask(node.listen, requests)
                await asyncio.to_thread(_check_links, network)
            context.say(f"{count} times {kind}: p99 {_p99(crowded) * 1000:.1f} ms")
            rows.append(
                Row(
                    bench=NAME,
                    what=f"p99 of honest requests beside {count} times {kind}",
                    against="with nobody else",
                    target=WAIT,
                    ratio=spread([_p99(crowded) / _p99(quiet)]),
                    figures={
                        "quiet p99 ms": _p99(quiet) * 1000,
                        "p50 ms": statistics.median(crowded) * 1000,
                        "p99 ms": _p99(crowded) * 1000,
                    },
                    note="" if count == wanted else f"{wanted} need more open files (ulimit -n)",
                )
            )
        rows.append(await _beside_followers(context, network, requests))
    return rows


def _dear_log(size: int) -> dict[str, str]:
    """A build whose output changes its colour with every character."""
    line = r"printf '\033[31mx\033[32my\033[33mz\033[34mu\033[35mv'"
    return pipeline(f'yes "$({line})" | head -c {size}')


async def _beside_followers(context: Context, network: Network, requests: int) -> Row:
    """Requests to the gateway while all follow one log, from its beginning to its end."""
    build = await asyncio.to_thread(network.post, DEAR)
    await asyncio.to_thread(network.complete, build, seconds=VERDICT_SECONDS_MAX)
    gateway = network.configuration.client.listen
    followers = QUICK_FOLLOWERS if context.is_quick else FOLLOWERS
    path = f"/api/v1/builds/{build}/replicas/{network.node_names[0]}/log/events"
    quiet = await _ask(gateway, requests)
    following = [asyncio.create_task(_follow(gateway, path)) for _ in range(followers)]
    crowded: list[float] = []
    while len(crowded) < requests or not all(task.done() for task in following):
        crowded += await _ask(gateway, 10)
    read = sum([await task for task in following])
    context.say(f"{followers} followers read {read / 2**20:.0f} MiB: p99 {_p99(crowded):.3f} s")
    return Row(
        bench=NAME,
        what=f"p99 of honest requests beside {followers} who follow a log of escape sequences",
        against="with nobody else",
        ratio=spread([_p99(crowded) / _p99(quiet)]),
        figures={
            "quiet p99 ms": _p99(quiet) * 1000,
            "p50 ms": statistics.median(crowded) * 1000,
            "p99 ms": _p99(crowded) * 1000,
            "most ms": max(crowded) * 1000,
        },
    )


async def _follow(address: Address, path: str) -> int:
    """Read a log's events to their end; how many bytes they were. Raises BenchFailed."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    count, last = 0, b""
    while part := await reader.read(2**18):
        count += len(part)
        last = (last + part)[-200:]
        if b"event: end" in last:
            break
    writer.close()
    if b"event: end" not in last:
        raise BenchFailed(f"a log was not followed to its end: {last!r}")
    return count


def _allowed(wanted: int) -> int:
    """How many connections this process may have open, at most so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + FILES:
        soft = hard if hard != resource.RLIM_INFINITY and hard < wanted + FILES else wanted + FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - FILES)


@contextlib.asynccontextmanager
async def _held(address: Address, sent: bytes, count: int) -> AsyncIterator[None]:
    """So many connections that each sent this; those that are closed are opened again."""
    held: list[socket.socket] = []

    async def open_again() -> None:
        number = 0
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            for _ in range(AGAIN):
                number = (number + 1) % len(held)
                if _is_over(held[number]):
                    held[number].close()
                    held[number] = await _open(address, sent)

    try:
        for _ in range(count):
            held.append(await _open(address, sent))
        again = asyncio.create_task(open_again())
        try:
            yield
        finally:
            again.cancel()
            failed = (await asyncio.gather(again, return_exceptions=True))[0]
        if isinstance(failed, Exception):
            raise BenchFailed(f"the strangers ended: {failed}") from failed
    finally:
        for each in held:
            each.close()


async def _open(address: Address, sent: bytes) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    # whoever never reads has little room for what comes
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, (address.host, address.port))
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(made, sent)
    return made


def _is_over(held: socket.socket) -> bool:
    """Whether the other end hung up on it; what it sent stays unread."""
    try:
        return not held.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


async def _ask(address: Address, count: int) -> list[float]:
    """How long each of so many requests took, one after the other. Raises BenchFailed."""
    found = []
    for _ in range(count):
        # not the loop's clock: uvloop's knows whole milliseconds only
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(_HONEST)
                answer = await reader.read()
        except (OSError, TimeoutError) as error:
            raise BenchFailed(f"an honest request was not answered: {error!r}") from error
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchFailed(f"an honest request was refused: {answer[:200]!r}")
        found.append(time.monotonic() - began)
    return found


def _check_links(network: Network) -> None:
    """Strangers cost no member its link. Raises BenchFailed."""
    for name in network.node_names:
        peers = network.status(name)["peers"]
        if lost := [peer for peer, found in peers.items() if not found["connected"]]:
            raise BenchFailed(f"{name} lost its link to {', '.join(lost)}")


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]
