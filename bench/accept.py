"""From a webhook to its 202, beside an aiohttp handler that commits one row to SQLite.

A long build is under way and the client gives the network one build of the repository at a time
(`open_builds_max: 1`), so what arrives is checked, kept on disk and queued, and the replicas have
no more to do than before: the time is that of accepting. Each webhook is a signed push to a branch
of its own, so each is a build of its own.
"""

import asyncio
import itertools
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.context import Context
from bench.figures import percentile, ratios, spread
from bench.network import open_network
from bench.one_row_server import HOST
from bench.process_use import cpu_seconds
from bench.rows import Row, Target
from bench.webhooks import post_at_rate, push_webhook
from common.address import Address
from scripts.free_ports import free_ports
from scripts.harness import CLIENT, Network, pipeline
from scripts.processes import Processes, Program

NAME = "accept"
PER_SECOND = 200.0
QUEUE_MAX = 100_000
LONG_BUILD_SECONDS = 600
LONG_BUILD_BEGUN_SECONDS = 90.0
AGAINST = "an aiohttp handler that commits one row to SQLite"
TARGET = Target(2.0)


class _Answered(msgspec.Struct, frozen=True):
    """Of one measurement: the latency of each 202 in seconds, and the server's CPU time for one."""

    latencies: list[float]
    cpu_seconds: float


async def run(context: Context) -> list[Row]:
    """p50 and p99 at 200 webhooks a second. Raises BenchFailed, NetworkFailed, StartFailed."""
    secret = secrets.token_hex(16).encode()
    branches = {"master": pipeline(f"sleep {LONG_BUILD_SECONDS}")}
    with open_network(context, NAME, branches=branches) as network:
        _take_webhooks(network, secret)
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(_begin_long_build, network)
        return await _measure(context, network, secret)


def _take_webhooks(network: Network, secret: bytes) -> None:
    """Let the gateway take webhooks that are signed with this secret."""
    secret_file = network.folder / "webhook-secret"
    secret_file.touch(mode=0o600)
    secret_file.write_bytes(secret)

    def change(settings: dict[str, Any]) -> None:
        settings["queue_max"] = QUEUE_MAX
        settings["repositories"][0] |= {
            "webhook_secret_file": str(secret_file),
            "forge": "github",
            "open_builds_max": 1,
            "queue_max": QUEUE_MAX,
        }

    network.rewrite(CLIENT, change)


def _begin_long_build(network: Network) -> None:
    build = network.post("master")
    network.wait_until(
        lambda: network.build(build)["status"] == "building",
        "the long build to begin",
        LONG_BUILD_BEGUN_SECONDS,
    )


async def _measure(context: Context, network: Network, secret: bytes) -> list[Row]:
    seconds, repetitions = (1.0, 2) if context.is_quick else (5.0, 5)
    count = round(seconds * PER_SECOND)
    url = network.configuration.client.repositories[0].url
    commit = network.commits["master"]
    numbers = itertools.count(1)

    def webhooks() -> list[tuple[bytes, dict[str, str]]]:
        return [
            push_webhook(url, f"branch-{next(numbers)}", commit, secret=secret)
            for _ in range(count)
        ]

    with _one_row_server(network.folder) as (server_url, server):

        async def product() -> _Answered:
            return await _post(network.gateway_url, webhooks(), network.processes[CLIENT].pid)

        async def reference() -> _Answered:
            return await _post(server_url, webhooks(), server)

        # connections, caches and prepared statements, of both
        await product()
        await reference()
        ours, theirs = await context.pairs(repetitions, product, reference)
    return [_row(ours, theirs, 0.5, name="p50"), _row(ours, theirs, 0.99, name="p99")]


async def _post(
    address: str, webhooks: list[tuple[bytes, dict[str, str]]], server: int
) -> _Answered:
    before = cpu_seconds(server)
    latencies = await post_at_rate(address, webhooks, PER_SECOND)
    return _Answered(latencies, (cpu_seconds(server) - before) / len(webhooks))


def _row(ours: list[_Answered], theirs: list[_Answered], share: float, *, name: str) -> Row:
    product = [percentile(answered.latencies, share) for answered in ours]
    reference = [percentile(answered.latencies, share) for answered in theirs]
    cpu = [answered.cpu_seconds for answered in ours]
    handler_cpu = [answered.cpu_seconds for answered in theirs]
    return Row(
        bench=NAME,
        what=f"webhook to 202 at {PER_SECOND:g}/s, {name}",
        against=AGAINST,
        target=TARGET,
        ratio=ratios(product, reference),
        figures={
            "ms": 1000 * spread(product).median,
            "handler ms": 1000 * spread(reference).median,
            "CPU ratio": ratios(cpu, handler_cpu).median,
            "CPU ms": 1000 * spread(cpu).median,
            "handler CPU ms": 1000 * spread(handler_cpu).median,
        },
    )


@contextmanager
def _one_row_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Where it answers, and its process."""
    processes = Processes(folder / "server-pids", folder / "server-output")
    (port,) = free_ports(1)
    file = str(folder / "one-row.sqlite")
    command = (sys.executable, "-m", "bench.one_row_server", "--port", str(port), "--file", file)
    program = Program("one-row-server", command, Address(HOST, port), folder)
    processes.start([program])
    try:
        yield program.listen.url, processes.running()[program.name].pid
    finally:
        processes.stop()
