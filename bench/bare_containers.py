"""The least that four machines do for one build: a checkout, one hardened container, its removal.

The container is removed behind its end, as the product removes its own behind the ballot, and has
its place until then.

Each lane stands for a replica: it has a mirror of its own, and checks the commit out with the
node's own code. node.sandboxes.containers.container makes the container, so its isolation is the
same by construction; its order is that of a step of the product's pipelines. It takes the commit's
files over its standard input into a file system in memory and runs the commands. It does nothing
else that the product does: no second container that keeps a workspace between
steps, no log file, no ballot, no other machine to agree with.
"""

import asyncio
import itertools
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import docker
import docker.errors
import msgspec

from bench.engine import ReadyEngine
from bench.network import BenchFailed
from ci.limits import Limits
from common.configuration.config import NodeConfig
from common.pipeline.pipeline_file import PIPELINE_FILE, Pipeline, parse_pipeline
from node.sandboxes.containers.container import HOME, TEMPORARY, ContainerOrder, create_container
from node.sandboxes.containers.docker_engine import DockerEngine, Image
from node.sandboxes.containers.pipeline_run import container_memory_bytes
from node.sandboxes.sandbox import RUN_COMMANDS
from node.sources.checkout import Checkout
from node.sources.mirror import Source
from node.sources.tree import WORKSPACE
from node.work.threads import in_thread
from scripts.harness import Network

LABEL = "pbft-ci.bench"
CHUNK_BYTES = 256 * 1024
RUN_SECONDS_MAX = 300
# Takes the commit's files from standard input, then runs its arguments as the product does.
# The engine would make a working directory beforehand, as root's own: so it goes there by itself.
_UNPACK_AND_RUN = f"cd {WORKSPACE}\ntar -x -f -\n{RUN_COMMANDS}"


class BareContainers:
    """As many lanes as the network has nodes, each with `builds_at_once` places."""

    def __init__(self, folder: Path, network: Network, engine: ReadyEngine, *, label: str) -> None:
        """folder: for mirrors and trees. label: of all containers, to remove them by."""
        self._label = label
        self._limits = network.configuration.cluster.limits_as(Limits)
        nodes = network.configuration.nodes
        at_once = nodes[0].builds_at_once
        self._threads = ThreadPoolExecutor(2 * at_once * len(nodes))
        self._engine = DockerEngine(engine.host, 2 * at_once * len(nodes))
        self._image = self._find_image(engine.image)
        self._numbers = itertools.count(1)
        self._turns = itertools.cycle(range(len(nodes)))
        self._lanes = [
            _Lane(node, folder / f"lane{index}", self._limits, threads=self._threads)
            for index, node in enumerate(nodes)
        ]
        self._removing: set[asyncio.Task[None]] = set()

    async def build(self, lane: int, branch: str, commit: str) -> None:
        """One checkout and container, once that lane has a place. Raises BenchFailed."""
        place = self._lanes[lane]
        number = next(self._numbers)
        tree = place.folder / f"{number}.tar"
        async with AsyncExitStack() as held:
            await held.enter_async_context(place.places)
            source = await place.checkout.check_out(
                place.url,
                f"refs/heads/{branch}",
                commit,
                target=tree,
                workspace_bytes=self._limits.workspace_bytes,
            )
            if not isinstance(source, Source) or not isinstance(source.pipeline, bytes):
                raise BenchFailed(f"{branch} cannot be checked out: {source}")
            pipeline = parse_pipeline(source.pipeline, self._limits)
            if not isinstance(pipeline, Pipeline):
                raise BenchFailed(f"{PIPELINE_FILE}: {pipeline.text}")
            order = self._order(pipeline, number)
            container = await in_thread(self._threads, lambda stop: self._run(order, tree))
            removal = self._remove_behind(container, tree, held.pop_all())
            self._removing.add(asyncio.create_task(removal))

    async def build_in(self, count: int, branch: str, commit: str) -> None:
        """One in each of so many lanes at once, which take turns, until the last has ended.

        Raises BenchFailed.
        """
        lanes = [next(self._turns) for _ in range(count)]
        await asyncio.gather(*(self.build(lane, branch, commit) for lane in lanes))

    async def settle(self) -> None:
        """Wait until all that ended is removed."""
        removing, self._removing = self._removing, set()
        await asyncio.gather(*removing)

    async def _remove_behind(self, container: str, tree: Path, held: AsyncExitStack) -> None:
        async with held:
            await in_thread(self._threads, lambda stop: self._remove(container, tree))

    def close(self) -> None:
        """Remove what is left, and let go of the engine."""
        self._threads.shutdown(wait=True)
        client = self._engine.client()
        left = client.containers(all=True, filters={"label": f"{LABEL}={self._label}"})
        for container in left:
            with suppress(docker.errors.APIError):
                client.remove_container(container["Id"], force=True, v=True)
        self._engine.close()
        for lane in self._lanes:
            shutil.rmtree(lane.folder, ignore_errors=True)

    def _find_image(self, name: str) -> Image:
        image = self._engine.find_image(name)
        if image is None:
            raise BenchFailed(f"the image {name} is gone")
        return image

    def _order(self, pipeline: Pipeline, number: int) -> ContainerOrder:
        limits = self._limits
        return ContainerOrder(
            image=self._image,
            name=f"pbft-ci-bench-{self._label}-{number}",
            labels={LABEL: self._label},
            environment={"CI": "true", "HOME": HOME},
            entrypoint=("sh", "-e", "-c", _UNPACK_AND_RUN, "pbft-ci"),
            command=tuple(c for step in pipeline.steps for c in step.commands),
            seconds=None,
            memory_bytes=container_memory_bytes(pipeline.resources.memory_bytes, limits),
            cpus=pipeline.resources.cpus,
            pids=pipeline.resources.pids,
            temporary={
                WORKSPACE: limits.workspace_bytes,
                HOME: limits.home_bytes,
                TEMPORARY: limits.temporary_bytes,
            },
            has_input=True,
        )

    def _run(self, order: ContainerOrder, tree: Path) -> str:
        """Create, attach, start, feed, read to the end, wait: its id. Blocking.

        Raises BenchFailed; it is removed then.
        """
        client = self._engine.client()
        container = create_container(client, order)
        try:
            stream = client.attach_socket(
                container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            connection: socket.socket = getattr(stream, "_sock", stream)
            connection.settimeout(RUN_SECONDS_MAX)
            try:
                client.start(container)
                with tree.open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        connection.sendall(chunk)
                connection.shutdown(socket.SHUT_WR)
                output = b""
                while data := connection.recv(CHUNK_BYTES):
                    output += data
            finally:
                stream.close()
                connection.close()
            code = client.wait(container, timeout=RUN_SECONDS_MAX)["StatusCode"]
            if code != 0:
                raise BenchFailed(f"a bare container ended with {code}: {output[-500:]!r}")
        except OSError as error:
            self._remove(container, tree)
            raise BenchFailed(f"a bare container did not end: {error}") from error
        except BenchFailed:
            self._remove(container, tree)
            raise
        return container

    def _remove(self, container: str, tree: Path) -> None:
        self._engine.client().remove_container(container, force=True, v=True)
        tree.unlink()


class _Lane:
    """What one replica would have."""

    def __init__(
        self, node: NodeConfig, folder: Path, limits: Limits, *, threads: ThreadPoolExecutor
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.url = node.repositories[0].url
        self.places = asyncio.Semaphore(node.builds_at_once)
        config = msgspec.structs.replace(node, data_directory=folder / "data")
        self.checkout = Checkout(config, threads)
        self.checkout.start()
