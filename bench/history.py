"""A network that has decided many builds, beside one that has decided few.

Both run at once, with equal settings, and are asked in turn: how long a node and the client take
from their start to their first answer, the memory they then have, how long their pages take, and
how long a request takes to be ordered. The history is made by bench/long_history.py.
"""

import asyncio
import time
from functools import partial
from http import HTTPStatus

from bench.closed_loop import Load, measure
from bench.context import Context
from bench.figures import Spread, percentile, ratios, spread
from bench.long_history import write_history
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.noop_clients import NoopClient, client_names, noop_clients
from bench.process_use import resident_bytes
from bench.rows import Row, Target
from scripts.harness import CLIENT, Network, ask

NAME = "history"
BUILDS = (100, 100_000)
BUILDS_QUICK = (60, 300)
ARCHIVE_BUILDS_MAX = 1_000_000
TARGET = Target(1.5)
NODE = "node0"


async def run(context: Context) -> list[Row]:
    """Few and many builds side by side. Raises BenchFailed, NetworkFailed, StartFailed."""
    few, many = BUILDS_QUICK if context.is_quick else BUILDS
    names = client_names(1)
    overrides = {CLIENT: {"archive_builds_max": ARCHIVE_BUILDS_MAX}}
    with (
        open_network(context, f"{NAME}-few", clients=names, overrides=overrides) as small,
        open_network(context, f"{NAME}-many", clients=names, overrides=overrides) as large,
    ):
        oldest = {}
        for network, builds in ((small, few), (large, many)):
            context.say(f"making a history of {builds} builds")
            oldest[network] = await asyncio.to_thread(write_history, network, builds, context.say)
        for network in (small, large):
            await asyncio.to_thread(network.start)
            await asyncio.to_thread(wait_until_linked, network)
        async with noop_clients(small, names) as of_small, noop_clients(large, names) as of_large:
            ordering = await _compare_ordering(context, of_small, of_large)
        pages = await _compare_pages(
            context, await _paths(small, oldest[small]), await _paths(large, oldest[large])
        )
        node = await _compare_restarts(context, small, large, name=NODE)
        client = await _compare_restarts(context, small, large, name=CLIENT)
    return _rows(few, many, ordering, pages=pages, restarts={"a node": node, "the client": client})


_Sides = tuple[list[float], list[float]]


class Restarts:
    """Of one program, few and many: seconds to its first answer, and its memory then."""

    def __init__(self) -> None:
        self.seconds: _Sides = ([], [])
        self.memory: _Sides = ([], [])


def _rows(
    few: int,
    many: int,
    ordering: tuple[list[Load], list[Load]],
    *,
    pages: dict[str, Spread],
    restarts: dict[str, Restarts],
) -> list[Row]:
    against = f"the same with {few:,}"
    rows = []
    for program, found in restarts.items():
        small, large = found.seconds
        rows.append(
            Row(
                bench=NAME,
                what=f"{many:,} builds: restart of {program}",
                against=against,
                target=TARGET,
                ratio=ratios(large, small),
                figures={"s": spread(large).median, "few s": spread(small).median},
            )
        )
        small, large = found.memory
        rows.append(
            Row(
                bench=NAME,
                what=f"{many:,} builds: memory of {program}",
                against=against,
                target=TARGET,
                ratio=ratios(large, small),
                figures={
                    "MiB": spread(large).median / 2**20,
                    "few MiB": spread(small).median / 2**20,
                },
            )
        )
    worst = max(pages, key=lambda page: pages[page].median)
    rows.append(
        Row(
            bench=NAME,
            what=f"{many:,} builds: latency of the slowest page",
            against=against,
            target=TARGET,
            ratio=pages[worst],
            figures={page: ratio.median for page, ratio in pages.items()},
            note=f"the slowest: {worst}",
        )
    )
    large_loads, small_loads = ordering
    small_seconds = [load.p50_seconds for load in small_loads]
    large_seconds = [load.p50_seconds for load in large_loads]
    rows.append(
        Row(
            bench=NAME,
            what=f"{many:,} builds: latency of ordering a noop, p50",
            against=against,
            target=TARGET,
            ratio=ratios(large_seconds, small_seconds),
            figures={"ms": 1000 * spread(large_seconds).median},
        )
    )
    return rows


async def _compare_ordering(
    context: Context, of_small: list[NoopClient], of_large: list[NoopClient]
) -> tuple[list[Load], list[Load]]:
    seconds, repetitions = (0.5, 1) if context.is_quick else (3.0, 5)
    return await context.pairs(
        repetitions,
        partial(measure, of_large, seconds, ()),
        partial(measure, of_small, seconds, ()),
    )


async def _compare_pages(
    context: Context, small: dict[str, str], large: dict[str, str]
) -> dict[str, Spread]:
    """Of each page the ratio of the median latencies. small, large: URLs by page."""
    asked, repetitions = (3, 1) if context.is_quick else (20, 5)
    found = {}
    for page in small:
        ours, theirs = await context.pairs(
            repetitions,
            partial(_page_seconds, large[page], asked),
            partial(_page_seconds, small[page], asked),
        )
        found[page] = ratios(ours, theirs)
    return found


async def _paths(network: Network, oldest: str) -> dict[str, str]:
    """The URLs to ask for, by what people call them: newest and oldest things of each program."""
    gateway, node = network.gateway_url, network.configuration.nodes[0].listen.url
    last = int((await asyncio.to_thread(network.status, NODE))["ledger_index"])
    return {
        "builds page": f"{gateway}/",
        "builds API": f"{gateway}/api/v1/builds",
        "oldest build's page": f"{gateway}/builds/{oldest}",
        "oldest build's attestation": f"{gateway}/api/v1/builds/{oldest}/attestation",
        "metrics": f"{gateway}/metrics",
        "node's status": f"{node}/pbft/status",
        "end of the ledger": f"{node}/ledger?from={max(1, last - 99)}&limit=100",
        "oldest build at a node": f"{node}/builds/{oldest}",
    }


async def _page_seconds(url: str, count: int) -> float:
    """The median of so many times one GET."""
    return await asyncio.to_thread(_ask_often, url, count)


def _ask_often(url: str, count: int) -> float:
    found = []
    for _ in range(count):
        began = time.monotonic()
        answer = ask(url)
        found.append(time.monotonic() - began)
        if answer.status != HTTPStatus.OK:
            raise BenchFailed(f"{url}: {answer.status}")
    return percentile(found, 0.5)


async def _compare_restarts(
    context: Context, small: Network, large: Network, *, name: str
) -> Restarts:
    found = Restarts()

    async def restart(network: Network, side: int) -> float:
        await asyncio.to_thread(network.stop, name)
        began = time.monotonic()
        await asyncio.to_thread(network.start, name)
        seconds = time.monotonic() - began
        found.memory[side].append(float(resident_bytes(network.processes[name].pid)))
        return seconds

    repetitions = 1 if context.is_quick else 5
    found.seconds = await context.pairs(
        repetitions, lambda: restart(small, 0), lambda: restart(large, 1)
    )
    return found
