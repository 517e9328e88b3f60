"""Small projects with caches, beside the same commands by hand.

A Python project installs five packages and a Node project twenty, from files in their image, and
runs its tests. With a warm cache the reference is a person's own machine that has the packages: one
bare container for each replica, whose image has them installed. So it restores nothing. Without a
cache both sides install. A fourth row has the Python packages from a lock file: nodes hand them in
from a warm store, and steps have no network.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from bench.bare_containers import BareContainers
from bench.build_times import Builds, bare_seconds, build_seconds
from bench.context import Context
from bench.engine import ReadyEngine, ready_engine
from bench.figures import ratios, spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.package_mirror import package_mirror, python_entry
from bench.project_index import (
    INSTALL_NODE,
    INSTALL_PYTHON,
    ProjectImages,
    Size,
    node_files,
    project_images,
    python_files,
    wheels,
)
from bench.rows import Row, Target
from scripts.harness import Network

NAME = "projects"
PYTHON, PYTHON_QUICK = Size(5, 200), Size(2, 3)
NODE, NODE_QUICK = Size(20, 50), Size(2, 3)
# some tenths of a second for the tests themselves: more would hide what the product adds
PYTHON_LOOPS, NODE_LOOPS = 3_000_000, 10_000_000
LOOPS_QUICK = 1000
PAIRS = 9
WARM_TARGET = Target(1.2)
COLD_TARGET = Target(1.1)
LOCKED_TARGET = Target(1.1)

_TEST_PYTHON = "python3 -m unittest -q test_all"
_TEST_NODE = "node --test all.test.js"
_LIBRARIES = "$HOME/libraries"
_INSTALL_LOCKED = (
    "python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check"
    f" --target {_LIBRARIES} -r requirements.txt"
)


async def run(context: Context) -> list[Row]:
    """A warm, a cold and a locked Python project, a warm Node project. Raises BenchFailed,
    NetworkFailed, StartFailed."""
    python, node = (PYTHON_QUICK, NODE_QUICK) if context.is_quick else (PYTHON, NODE)
    entries = [python_entry(file, data) for file, data in wheels(python).items()]
    served = {path: data for files, _ in entries for path, data in files.items()}
    async with ready_engine() as engine:
        context.say("making the images")
        name = f"pbft-ci-bench/{secrets.token_hex(4)}"
        with (
            project_images(engine.host, python=python, node=node, name=name) as images,
            package_mirror(served) as mirror,
            open_network(
                context,
                NAME,
                executor="docker",
                branches=_branches(
                    images,
                    (python, node),
                    "".join(line for _, line in entries),
                    is_quick=context.is_quick,
                ),
                overrides={
                    "node": {
                        "docker_host": engine.host,
                        "sources": [{"tool": "pip", "url": f"{mirror}/pip"}],
                    }
                },
            ) as network,
        ):
            for node_name in network.node_names:
                network.rewrite(node_name, lambda settings: _configure(settings, images))
            await asyncio.to_thread(network.start)
            await asyncio.to_thread(wait_until_linked, network)
            return await _Measured(context, network, engine=engine, images=images).rows()


def _configure(settings: dict[str, Any], images: ProjectImages) -> None:
    """Both projects fill caches, and nobody asks a registry for the images."""
    settings["repositories"][0] |= {
        "cache_branches": ["*"],
        "local_images": [images.index, images.warm],
    }


def _branches(
    images: ProjectImages, sizes: tuple[Size, Size], lock: str, *, is_quick: bool
) -> dict[str, dict[str, str]]:
    """sizes: of the Python and of the Node project. lock: the Python packages with their hashes."""
    python, node = sizes
    python_loops, node_loops = (
        (LOOPS_QUICK, LOOPS_QUICK) if is_quick else (PYTHON_LOOPS, NODE_LOOPS)
    )

    def branch(files: dict[str, str], image: str, *commands: str, **more: object) -> dict[str, str]:
        text = json.dumps({"image": image, "commands": commands, **more})
        return {**files, ".pbft-ci.yml": text}

    of_python, of_node = python_files(python, python_loops), node_files(node, node_loops)
    install = INSTALL_PYTHON.format(target=_LIBRARIES)
    libraries = {"name": "libraries", "paths": [_LIBRARIES], "files": ["requirements.txt"]}
    modules = {"name": "modules", "paths": ["node_modules"], "files": ["package-lock.json"]}
    return {
        "master": branch(
            of_python,
            images.index,
            f"test -d {_LIBRARIES} || {install}",
            f"PYTHONPATH={_LIBRARIES} {_TEST_PYTHON}",
            cache=[libraries],
        ),
        "python-warm": branch(of_python, images.warm, f"PYTHONPATH=/warm/libraries {_TEST_PYTHON}"),
        "python-cold": branch(
            of_python, images.index, install, f"PYTHONPATH={_LIBRARIES} {_TEST_PYTHON}"
        ),
        "python-locked": branch(
            {**of_python, "requirements.txt": lock},
            images.index,
            _INSTALL_LOCKED,
            f"PYTHONPATH={_LIBRARIES} {_TEST_PYTHON}",
            dependencies=[{"pip": "requirements.txt"}],
        ),
        "node": branch(
            of_node,
            images.index,
            f"test -d node_modules || {INSTALL_NODE}",
            _TEST_NODE,
            cache=[modules],
        ),
        "node-warm": branch(
            of_node, images.warm, "ln -s /warm/node_modules node_modules", _TEST_NODE
        ),
    }


class _Measured:
    """The rows of one network."""

    def __init__(
        self, context: Context, network: Network, *, engine: ReadyEngine, images: ProjectImages
    ) -> None:
        self._context = context
        self._network = network
        self._engine = engine
        self._images = images

    async def rows(self) -> list[Row]:
        """All of them, one after the other. Raises BenchFailed, NetworkFailed."""
        filled = await self._fill("master")
        await self._fill("node")
        # each replica's store is warm after it
        await self._fill("python-locked")

        async def locked() -> float:
            network = self._network
            return (await build_seconds(network, lambda: network.post("python-locked"))).seconds

        async def cold() -> float:
            network = self._network
            found = await build_seconds(network, lambda: network.rebuild(filled, is_cold=True))
            await _check_caches(network, found, count=0)
            return found.seconds

        return [
            await self._row(
                "Python project, packages in a warm cache",
                lambda: self._warm("master"),
                ("python-warm", self._images.warm),
                target=WARM_TARGET,
            ),
            await self._row(
                "Node project with `npm ci`, packages in a warm cache",
                lambda: self._warm("node"),
                ("node-warm", self._images.warm),
                target=WARM_TARGET,
            ),
            await self._row(
                "Python project, rebuilt without caches",
                cold,
                ("python-cold", self._images.index),
                target=COLD_TARGET,
            ),
            await self._row(
                "Python project offline, packages by lock file in a warm store",
                locked,
                ("python-cold", self._images.index),
                target=LOCKED_TARGET,
            ),
        ]

    async def _fill(self, branch: str) -> str:
        """The build that fills the caches of each replica."""
        network = self._network
        (view,) = (await build_seconds(network, lambda: network.post(branch))).views
        return str(view["id"])

    async def _warm(self, branch: str) -> float:
        network = self._network
        found = await build_seconds(network, lambda: network.post(branch))
        await _check_caches(network, found, count=len(network.node_names))
        return found.seconds

    async def _row(
        self,
        what: str,
        product: Callable[[], Awaitable[float]],
        by_hand: tuple[str, str],
        *,
        target: Target,
    ) -> Row:
        """by_hand: the branch with the same commands, and its image."""
        branch, image = by_hand
        network = self._network
        lanes = len(network.node_names)
        bare = BareContainers(
            network.folder / branch,
            network,
            ReadyEngine(self._engine.host, image),
            label=secrets.token_hex(4),
        )

        async def one_bare() -> None:
            await bare.build_in(lanes, branch, network.commits[branch])

        try:
            # mirrors are made
            await bare_seconds(one_bare, bare)
            ours, theirs = await self._context.pairs(
                1 if self._context.is_quick else PAIRS,
                product,
                lambda: bare_seconds(one_bare, bare),
            )
        finally:
            await asyncio.to_thread(bare.close)
        self._context.say(f"{what}: {ratios(ours, theirs).median:.3g} times")
        return Row(
            bench=NAME,
            what=f"{what}: webhook to accepted verdict",
            against=f"the same commands by hand, {lanes} bare containers at once",
            target=target,
            ratio=ratios(ours, theirs),
            figures={"s": spread(ours).median, "by hand s": spread(theirs).median},
        )


async def _check_caches(network: Network, found: Builds, *, count: int) -> None:
    """Raises BenchFailed if fewer replicas used a cache; with 0, if any did."""
    view = await asyncio.to_thread(network.complete, found.views[0]["id"])
    used = [ballot["replica"] for ballot in view["ballots"] if ballot["caches"]]
    if len(used) < count or (used and not count):
        raise BenchFailed(f"{len(used)} replicas used a cache, and {count} should have")
