"""A gateway with many observations of test cases, beside one with few.

Two gateways run without their nodes, each on a database made by the archive itself: few and many
repositories, of which each has 200 builds. In each build fifty cases did not pass everywhere.
Both are asked for the same pages of one repository in turn.
"""

import asyncio
import time
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from bench.context import Context
from bench.figures import Spread, percentile, ratios, spread
from bench.network import BenchFailed, cluster_of, open_network
from bench.rows import Row, Target
from ci.case_results import case_sha256
from ci.flaky import WINDOW_BUILDS_MAX, BuildObservation, CaseObservation, SeenBuild
from client.storage.archive import Archive
from client.storage.build_request import BuildRequest
from client.storage.database import Database
from scripts.harness import CLIENT, Network, ask

NAME = "observations"
TARGET = Target(1.5)
# Of each build so many cases did not pass everywhere.
CASES = 50
REPOSITORIES = (1, 100)
REPOSITORIES_QUICK = (1, 3)
ASKED = "https://git.example.org/0.git"


async def run(context: Context) -> list[Row]:
    """Few and many observations side by side. Raises BenchFailed, NetworkFailed, StartFailed."""
    few, many = REPOSITORIES_QUICK if context.is_quick else REPOSITORIES
    with (
        open_network(context, f"{NAME}-few") as small,
        open_network(context, f"{NAME}-many") as large,
    ):
        seconds = {}
        for network, repositories in ((small, few), (large, many)):
            context.say(f"making {repositories * CASES * WINDOW_BUILDS_MAX:,} observations")
            seconds[network] = await asyncio.to_thread(_fill, network, repositories)
        for network in (small, large):
            await asyncio.to_thread(network.start, CLIENT)
        pages = await _compare_pages(context, small, large)
    worst = max(pages, key=lambda page: pages[page].median)
    rows = CASES * WINDOW_BUILDS_MAX
    return [
        Row(
            bench=NAME,
            what=f"{many * rows:,} observations: latency of the slowest page",
            against=f"the same with {few * rows:,}",
            target=TARGET,
            ratio=pages[worst],
            figures={
                **{page: ratio.median for page, ratio in pages.items()},
                "taking in a build, ms": 1000 * seconds[large],
                "with few, ms": 1000 * seconds[small],
            },
            note=f"the slowest: {worst}",
        )
    ]


def _fill(network: Network, repositories: int) -> float:
    """Write the gateway's database. How long the last build took to be taken in, in seconds."""
    cluster = cluster_of(network)
    directory = network.data_directory(CLIENT)
    database = Database(directory, cluster.id, CLIENT)
    archive = Archive(database, directory)
    faults_max = cluster.quorums.faults_max
    now = time.time()
    took = 0.0
    try:
        for repository in range(repositories):
            url = f"https://git.example.org/{repository}.git"
            with database.transaction():
                for index in range(WINDOW_BUILDS_MAX):
                    number = repository * WINDOW_BUILDS_MAX + index + 1
                    at = now - (WINDOW_BUILDS_MAX - index) * 60
                    commit = f"{index:040x}"
                    build = number.to_bytes(32, "big")
                    archive.add(build, BuildRequest(url, "main", commit), at)
                    seen = _seen(index, network.node_names)
                    archive.cases.put(number, url, SeenBuild(at, commit, "main", False, seen))
                archive.cases.update(url, faults_max, now)
        began = time.monotonic()
        with database.transaction():
            archive.cases.put(number, url, SeenBuild(at, commit, "main", False, seen))
            archive.cases.update(url, faults_max, now)
        took = time.monotonic() - began
    finally:
        database.close()
    return took


def _seen(index: int, replicas: tuple[str, ...]) -> BuildObservation:
    """What a build saw: each case failed on one replica, on another one in the next build."""
    cases = {}
    for number in range(CASES):
        failed = replicas[(index + number) % len(replicas)]
        passed = tuple(name for name in replicas if name != failed)
        cases[_name(number)] = CaseObservation((failed,), (), passed)
    return BuildObservation("set", replicas, (), replicas, cases)


def _name(number: int) -> str:
    return f"pytest::tests.test_module_{number}.TestClass::test_something[{number}]"


async def _compare_pages(context: Context, small: Network, large: Network) -> dict[str, Spread]:
    """Of each page the ratio of the median latencies."""
    asked, repetitions = (3, 1) if context.is_quick else (20, 9)
    case, repository = case_sha256(_name(0)), f"repository={quote(ASKED, safe='')}"
    paths = {
        "flaky tests page": f"/tests?{repository}",
        "flaky tests API": f"/api/v1/tests?{repository}",
        "one test's page": f"/tests/{case}?{repository}",
        "one test's API": f"/api/v1/tests/{case}?{repository}",
        "metrics": "/metrics",
    }
    found = {}
    for page, path in paths.items():
        ours, theirs = await context.pairs(
            repetitions,
            partial(_seconds, f"{large.gateway_url}{path}", asked),
            partial(_seconds, f"{small.gateway_url}{path}", asked),
        )
        found[page] = ratios(ours, theirs)
        context.say(f"{page}: {1000 * spread(ours).median:.1f} ms")
    return found


async def _seconds(url: str, count: int) -> float:
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
