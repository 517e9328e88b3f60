"""Memory of the nodes and the client while each build has 20,000 test cases.

Builds follow each other, and each process is looked at after each of them. The first third fills
caches and bounded queues; after it the last part is compared with the first, as `steady` does.
"""

import asyncio
import json
import statistics
import time

from bench.context import Context
from bench.figures import spread
from bench.network import open_network, wait_until_linked
from bench.rows import Row, Target
from bench.steady import Sample, growth, read_sample
from scripts.harness import CLIENT

NAME = "cases"
CASES, CASES_QUICK = 20_000, 100
BUILDS, BUILDS_QUICK = 90, 3
SAID_EVERY = 10
VERDICT_SECONDS_MAX = 300.0
TARGET = Target(1.1)
_CASE = r's|.*|<testcase classname="tests.test_module" name="test_with_a_name_&"/>|'


async def run(context: Context) -> list[Row]:
    """So many builds. Raises BenchFailed, NetworkFailed, StartFailed."""
    cases = CASES_QUICK if context.is_quick else CASES
    builds = BUILDS_QUICK if context.is_quick else BUILDS
    report = f"(echo '<testsuite>'; seq {cases} | sed '{_CASE}'; echo '</testsuite>') >report.xml"
    text = json.dumps(
        {
            "image": "unused",
            "commands": [report],
            "tests": {"junit": ["report.xml"], "required": True},
        }
    )
    with open_network(context, NAME, branches={"master": {".pbft-ci.yml": text}}) as network:
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(wait_until_linked, network)
        pids = {name: process.pid for name, process in network.processes.items()}
        samples: dict[str, list[Sample]] = {name: [] for name in pids}
        began = time.monotonic()
        for number in range(1, builds + 1):
            build = await asyncio.to_thread(network.post, "master")
            # the gateway has the details of each replica by then
            await asyncio.to_thread(network.complete, build, seconds=VERDICT_SECONDS_MAX)
            for name, pid in pids.items():
                samples[name].append(read_sample(pid, time.monotonic() - began))
            if number % SAID_EVERY == 0:
                shown = ", ".join(
                    f"{name} {found[-1].resident_bytes / 2**20:.0f} MiB"
                    for name, found in samples.items()
                )
                context.say(f"{number} of {builds} builds: {shown}")
    growths = {name: growth(found) for name, found in samples.items()}
    worst = max(growths, key=lambda name: growths[name].memory)
    nodes = [grown for name, grown in growths.items() if name != CLIENT]
    return [
        Row(
            bench=NAME,
            what=f"memory of the nodes and the client, {builds} builds of {cases:,} test cases",
            against="after the first third",
            target=TARGET,
            ratio=spread([grown.memory for grown in growths.values()]),
            figures={
                "node MiB": statistics.median(grown.mebibytes for grown in nodes),
                "client MiB": growths[CLIENT].mebibytes,
            },
            note=f"most in {worst}",
        )
    ]
