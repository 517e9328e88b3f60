"""How long builds take from what asks for them to their accepted verdicts, and bare containers.

The product's time ends when the gateway has written the verdict to results.jsonl. Neither side
waits for the removal of its last containers, and both have removed everything before the other's
time begins.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.bare_containers import BareContainers
from bench.network import BenchFailed, builds_at_hand
from scripts.harness import Network

# The bench runs on the machine that it measures: looking more often would take from the product.
POLL_SECONDS = 0.004
MANY_POLL_SECONDS = 0.04
VERDICT_SECONDS_MAX = 600.0
QUIET_SECONDS_MAX = 120.0


class Builds(msgspec.Struct, frozen=True):
    """Builds that passed. seconds: until the last verdict; views: of each, by the gateway's API."""

    seconds: float
    views: tuple[dict[str, Any], ...]


async def build_seconds(network: Network, ask: Callable[[], str], count: int = 1) -> Builds:
    """Ask for so many builds at once, and wait for their verdicts; then all is quiet again.

    ask: asks for one, blocking; gives its id. Raises BenchFailed, NetworkFailed.
    """
    results = network.configuration.client.results_file
    size = _size(results)
    began = time.monotonic()
    builds = await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(count)))
    missing = count
    while missing > 0:
        if time.monotonic() > began + VERDICT_SECONDS_MAX:
            raise BenchFailed(f"{count} builds: no verdicts within {VERDICT_SECONDS_MAX:g} s")
        await asyncio.sleep(POLL_SECONDS if missing == 1 else MANY_POLL_SECONDS)
        if _size(results) > size:
            added = results.read_bytes()[size:]
            size += len(added)
            missing -= added.count(b"\n")
    seconds = time.monotonic() - began
    await asyncio.to_thread(_wait_until_quiet, network)
    views = [await asyncio.to_thread(network.build, build) for build in builds]
    for view in views:
        outcome = view["verdict"]["outcome"]
        if outcome != "passed":
            raise BenchFailed(f"build {view['id']}: {outcome} where it should have passed")
    return Builds(seconds, tuple(views))


async def bare_seconds(work: Callable[[], Awaitable[None]], bare: BareContainers) -> float:
    """Seconds until the last container has ended; then all is quiet again."""
    began = time.monotonic()
    await work()
    seconds = time.monotonic() - began
    await bare.settle()
    return seconds


def _size(results: Path) -> int:
    """Bytes of what the gateway has accepted: looked up without asking it for anything."""
    return results.stat().st_size if results.exists() else 0


def _wait_until_quiet(network: Network) -> None:
    """Wait for the last ballots, and for what is removed behind them: the next one is timed."""

    def is_quiet() -> bool:
        return not any(
            network.status(name)["open_builds"]
            or builds_at_hand(network.node(name, "/metrics").body.decode())
            for name in network.node_names
        )

    network.wait_until(is_quiet, "the last ballots and removals", QUIET_SECONDS_MAX)
