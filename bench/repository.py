"""A big repository: its first clone, then twenty commits one after the other.

What is compared is the time of the checkout that each replica's own signed ballot bears: fetch,
proof that the commit is on its branch, and the export of the tree. The median over the replicas.
All of them fetch at the same time from one folder on the same disk, as pushes make them do.
"""

import asyncio
import base64
import statistics
from typing import Any

from bench.big_repository import FILE_BYTES, make_repository, point_branch
from bench.context import Context
from bench.figures import spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.rows import Row, Target
from ci.operations import BuildResult, CastBallot, decode_operation
from pbft.codec import decode_request, decode_signed
from scripts.harness import Network

NAME = "repository"
BRANCH = "master"
COMMITS = 20
COMMITS_QUICK = 2
TARGET = Target(0.1)
BUILT_SECONDS_MAX = 600.0
# (how often the history replaces all files, files of a MiB in the tree)
SHAPES = ((10, 20), (1, 200))
SHAPES_QUICK = ((4, 4),)


async def run(context: Context) -> list[Row]:
    """One repository after the other. Raises BenchFailed, NetworkFailed, StartFailed."""
    rows = []
    for history, tree_files in SHAPES_QUICK if context.is_quick else SHAPES:
        commits = COMMITS_QUICK if context.is_quick else COMMITS
        rows.append(await _measure(context, history, tree_files, count=commits))
    return rows


async def _measure(context: Context, history: int, tree_files: int, *, count: int) -> Row:
    mebibytes = history * tree_files * FILE_BYTES // 2**20
    with context.folder(NAME) as folder:
        place = folder / "big.git"
        context.say(f"making a repository of {mebibytes} MiB")
        first, *later = await asyncio.to_thread(
            make_repository, place, history=history, tree_files=tree_files, commits=count
        )
        overrides = {"node": {"checkout_timeout_seconds": int(BUILT_SECONDS_MAX)}}
        with open_network(context, NAME, branches=place, overrides=overrides) as network:
            await asyncio.to_thread(network.start)
            await asyncio.to_thread(wait_until_linked, network)
            clone = await asyncio.to_thread(_build, network, first)
            context.say(f"first clone: {clone:.2f} s")
            checkouts = []
            for commit in later:
                checkouts.append(await asyncio.to_thread(_build, network, commit))
            context.say(f"later checkouts: {statistics.median(checkouts):.2f} s")
    return Row(
        bench=NAME,
        what=f"checkout of a later commit, {mebibytes} MiB of history, a tree of {tree_files} MiB",
        against="the first clone",
        target=TARGET,
        ratio=spread([seconds / clone for seconds in checkouts]),
        figures={"first s": clone, "later s": spread(checkouts).median},
    )


def _build(network: Network, commit: str) -> float:
    """Push that commit and have it built; the median of the replicas' seconds for the checkout."""
    point_branch(network.repository, BRANCH, commit)
    build = network.post(BRANCH)
    network.verdict(build, BUILT_SECONDS_MAX)
    ballots: list[dict[str, Any]] = []

    def have_all_voted() -> bool:
        ballots[:] = network.node(network.node_names[0], f"/builds/{build}").json()["ballots"]
        return len(ballots) == len(network.node_names)

    network.wait_until(have_all_voted, f"the ballots of build {build}", BUILT_SECONDS_MAX)
    return statistics.median(_checkout_seconds(ballot) for ballot in ballots)


def _checkout_seconds(ballot: dict[str, Any]) -> float:
    signed = decode_signed(base64.b64decode(ballot["signed"]))
    operation = decode_operation(decode_request(signed).operation)
    if not isinstance(operation, CastBallot) or not isinstance(operation.ballot, BuildResult):
        raise BenchFailed(f"{ballot['replica']} has no finding: {operation}")
    if operation.ballot.compared.outcome != "passed":
        raise BenchFailed(f"{ballot['replica']} found {operation.ballot.compared.outcome}")
    return operation.ballot.evidence.checkout_milliseconds / 1000
