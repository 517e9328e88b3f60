"""Memory and file descriptors of the nodes and the client under load: do they stay where they are?

Some clients ask for `noop` without pause, builds follow each other, and each process is looked at
once a second. The first third of the time fills caches and bounded queues; after it the last part
is compared with the first. A minute says little, an hour (`--minutes 60`) says it.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence

import msgspec

from bench.closed_loop import ClosedLoop
from bench.context import Context
from bench.figures import slope, spread
from bench.network import open_network, wait_until_linked
from bench.noop_clients import client_names, noop_clients
from bench.process_use import descriptors, resident_bytes
from bench.rows import Row, Target
from scripts.harness import CLIENT, Network

NAME = "steady"
BRANCH = "master"
CLIENTS = 4
BUILDS_AT_ONCE = 2
SAMPLE_SECONDS = 1.0
QUICK_MINUTES = 0.2
MINUTES = 10.0
SAID_EVERY = 60
VERDICT_SECONDS_MAX = 120.0
MEMORY = Target(1.1)
DESCRIPTORS = Target(1.1)


class Sample(msgspec.Struct, frozen=True):
    """One look at one process. at: seconds since the load began."""

    at: float
    resident_bytes: int
    descriptors: int


class Growth(msgspec.Struct, frozen=True):
    """Of one process: last part over first part after the warm-up, and the slope in MiB/h."""

    memory: float
    descriptors: float
    mebibytes: float
    mebibytes_per_hour: float


async def run(context: Context) -> list[Row]:
    """So many minutes of load. Raises BenchFailed, NetworkFailed, StartFailed."""
    minutes = context.minutes or (QUICK_MINUTES if context.is_quick else MINUTES)
    names = client_names(CLIENTS)
    with open_network(context, NAME, clients=names) as network:
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(wait_until_linked, network)
        async with noop_clients(network, names) as clients:
            samples, builds, answers = await _load(context, network, clients, seconds=60 * minutes)
    growths = {name: growth(found) for name, found in samples.items()}
    worst = max(growths, key=lambda name: growths[name].memory)
    nodes = [grown for name, grown in growths.items() if name != CLIENT]
    during = f"{minutes:g} min, {answers} requests, {builds} builds"
    return [
        Row(
            bench=NAME,
            what="memory of the nodes and the client under load, at the end",
            against="after the first third",
            target=MEMORY,
            ratio=spread([grown.memory for grown in growths.values()]),
            figures={
                "node MiB": statistics.median(grown.mebibytes for grown in nodes),
                "node MiB/h": statistics.median(grown.mebibytes_per_hour for grown in nodes),
                "client MiB": growths[CLIENT].mebibytes,
                "client MiB/h": growths[CLIENT].mebibytes_per_hour,
            },
            note=f"{during}; most in {worst}",
        ),
        Row(
            bench=NAME,
            what="open file descriptors, at the end",
            against="after the first third",
            target=DESCRIPTORS,
            ratio=spread([grown.descriptors for grown in growths.values()]),
            note=during,
        ),
    ]


def growth(samples: list[Sample]) -> Growth:
    """What became of one process after its warm-up; at least three samples."""
    settled = samples[len(samples) // 3 :]
    part = max(1, len(settled) // 4)
    first, last = settled[:part], settled[-part:]
    memory = [statistics.median(s.resident_bytes for s in some) for some in (first, last)]
    # A busy process opens and closes some all the time: what stays is the least of them.
    descriptors = [min(s.descriptors for s in some) for some in (first, last)]
    return Growth(
        memory[1] / memory[0],
        descriptors[1] / descriptors[0],
        memory[1] / 2**20,
        3600 * slope([(s.at, s.resident_bytes / 2**20) for s in settled]),
    )


async def _load(
    context: Context, network: Network, clients: Sequence[ClosedLoop], *, seconds: float
) -> tuple[dict[str, list[Sample]], int, int]:
    """The samples of each process, and how many builds and requests were answered meanwhile."""
    pids = {name: process.pid for name, process in network.processes.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in pids}
    decided: list[str] = []
    building = [asyncio.create_task(_build(network, decided)) for _ in range(BUILDS_AT_ONCE)]
    for client in clients:
        client.start_asking()
    answers = 0
    began = time.monotonic()
    try:
        while (at := time.monotonic() - began) < seconds:
            for name, pid in pids.items():
                samples[name].append(read_sample(pid, at))
            answers += take_answers(clients)
            if len(samples[CLIENT]) % SAID_EVERY == 0:
                shown = ", ".join(
                    f"{name} {found[-1].resident_bytes / 2**20:.0f} MiB"
                    for name, found in samples.items()
                )
                context.say(f"{at:.0f} s of {seconds:.0f}: {answers} requests; {shown}")
            for task in building:
                if task.done():
                    task.result()
            await asyncio.sleep(SAMPLE_SECONDS)
    finally:
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)
    await asyncio.gather(*(client.stop_asking() for client in clients))
    return samples, len(decided), answers + take_answers(clients)


def take_answers(clients: Sequence[ClosedLoop]) -> int:
    """How many answers came since the last time; of an hour's millions nothing is kept."""
    count = sum(len(client.answers) for client in clients)
    for client in clients:
        client.answers.clear()
    return count


def read_sample(pid: int, at: float) -> Sample:
    """Look at a process now. Raises OSError where it has ended."""
    return Sample(at, resident_bytes(pid), descriptors(pid))


async def _build(network: Network, decided: list[str]) -> None:
    """One build after the other, for ever."""
    while True:
        build = await asyncio.to_thread(network.post, BRANCH)
        await asyncio.to_thread(network.verdict, build, VERDICT_SECONDS_MAX)
        decided.append(build)
