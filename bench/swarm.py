"""Builds per second of a replica on a swarm of two engines, beside one engine with the same cores.

Three machines stand on the cores of this one, each with an engine in namespaces of its own. Two of
them make the swarm. Each side is a real cluster of one replica and its gateway, so that nothing
but the executor differs. Each takes as many builds at once as this machine has cores.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import docker.errors

from bench.build_times import Builds, build_seconds
from bench.context import Context
from bench.figures import ratios, spread
from bench.network import BenchFailed, open_network
from bench.rows import Row, Target
from scripts.base_image import EXAMPLE_IMAGE, NoBaseImage
from scripts.harness import Network, pipeline
from scripts.swarm_machines import Machine, join_swarm, running_machines

NAME = "swarm"
PAIRS = 9
# They are asked for together.
BUILDS_PER_CORE = 2
# What a build's shell counts to, which takes it some seconds.
COUNT, COUNT_QUICK = 2_500_000, 1000
AGAINST = "one engine with the same cores"
TARGET = Target(0.85, is_floor=True)
NODE = "node0"
LONG, TRIVIAL = "master", "trivial"


async def run(context: Context) -> list[Row]:
    """Builds that compute for some seconds, then trivial ones.

    Raises BenchFailed, NetworkFailed, StartFailed.
    """
    if os.geteuid() != 0:
        raise BenchFailed("only root can make the machines of a swarm")
    with _machines() as (manager, worker, single):
        workers = (manager, worker)
        swarm = {
            "executor": "swarm",
            "docker_host": manager.host,
            "swarm_workers": {machine.name: machine.host for machine in workers},
            "swarm_image": EXAMPLE_IMAGE,
        }
        with (
            _network(context, "swarm", swarm) as ours,
            _network(context, "docker", {"docker_host": single.host}) as theirs,
        ):
            for network in (ours, theirs):
                await asyncio.to_thread(network.start)
            long = await _row(context, ours, theirs, branch=LONG, workers=workers)
            trivial = await _row(context, ours, theirs, branch=TRIVIAL, workers=workers)
    return [long, trivial]


@contextmanager
def _machines() -> Iterator[Sequence[Machine]]:
    """Two of one swarm, and a third. Raises BenchFailed."""
    try:
        with running_machines(EXAMPLE_IMAGE, 3) as machines:
            join_swarm(machines[:2])
            yield machines
    except (
        NoBaseImage,
        RuntimeError,
        subprocess.CalledProcessError,
        docker.errors.DockerException,
    ) as error:
        raise BenchFailed(f"no machines for a swarm: {error}") from error


@contextmanager
def _network(context: Context, name: str, node: Mapping[str, object]) -> Iterator[Network]:
    """A cluster of one replica. node: of its configuration."""
    count = COUNT_QUICK if context.is_quick else COUNT
    loop = f"i=0; while [ $i -lt {count} ]; do i=$((i + 1)); done"
    branches = {
        LONG: pipeline(loop, image=EXAMPLE_IMAGE),
        TRIVIAL: pipeline("true", image=EXAMPLE_IMAGE),
    }
    settings = {"builds_at_once": os.cpu_count() or 1, **node}
    with open_network(
        context,
        name,
        branches=branches,
        replicas=1,
        executor="docker",
        overrides={NODE: settings},
    ) as network:
        yield network


async def _row(
    context: Context, ours: Network, theirs: Network, *, branch: str, workers: Sequence[Machine]
) -> Row:
    cores = os.cpu_count() or 1
    count = BUILDS_PER_CORE * cores
    on: list[str] = []

    async def on_swarm() -> float:
        builds = await build_seconds(ours, lambda: ours.post(branch), count)
        on.extend(_workers_of(ours, builds))
        return count / builds.seconds

    async def on_engine() -> float:
        return count / (await build_seconds(theirs, lambda: theirs.post(branch), count)).seconds

    for network in (ours, theirs):
        # what a node and an engine do once
        await build_seconds(network, lambda network=network: network.post(branch), 1)  # type: ignore[misc]
    swarm, single = await context.pairs(1 if context.is_quick else PAIRS, on_swarm, on_engine)
    each = cores / spread(single).median
    what = f"{count} builds at once, {cores} at a time, " + (
        "each with nothing to do" if branch == TRIVIAL else f"each busy for about {each:.1f} s"
    )
    return Row(
        bench=NAME,
        what=f"a swarm of two engines: builds/s, {what}",
        against=AGAINST,
        target=None if branch == TRIVIAL else TARGET,
        ratio=ratios(swarm, single),
        figures={
            "builds/s": spread(swarm).median,
            "one engine builds/s": spread(single).median,
            "share of the manager's engine": on.count(workers[0].name) / len(on),
        },
    )


def _workers_of(network: Network, builds: Builds) -> Iterator[str]:
    """The worker of each build, by its log. Raises BenchFailed."""
    for view in builds.views:
        (file,) = (network.data_directory(NODE) / "builds").glob(f"{view['id']}-*/log")
        words = [line.split() for line in file.read_text(errors="replace").splitlines()]
        found = [line[2] for line in words if line[:2] == ["[pbft-ci]", "worker"]]
        if not found:
            raise BenchFailed(f"the log of {view['id']} names no worker")
        yield found[-1]
