"""What the tests of builds share: git repositories, a docker engine, build runners.

An engine must be there; who really has none says so with PBFT_CI_WITHOUT_DOCKER=1, and then the
tests that need one are skipped, with that reason.
"""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from ci.limits import Limits
from ci.operations import Ballot, BuildResult, Outcome, ResultKey
from common.address import Address
from common.configuration.config import NodeConfig, RepositoryEntry
from driver.ports import BuildOrder
from node.builds.build_runner import BuildRunner
from node.builds.cached_runs import IsContradicted
from node.sandboxes.containers.docker_engine import CLUSTER_LABEL
from node.sources.checkout import Checkout
from node.storage.redo_log import PAGE_BYTES
from scripts.base_image import EXAMPLE_IMAGE, UPSTREAM_IMAGE, ensure_example_image
from tests.leftovers import WITHOUT_DOCKER
from tests.node.local_network import NAMES, Client, Network, server_of
from tests.waiting import pause_seconds

# generous: the machine may be busy with other tests
PATIENCE_SECONDS = 90.0
# for one answer of an engine that has to do with many tests
ENGINE_SECONDS = 180
# the images of the tests that are on the engine alone
LOCAL_IMAGES = (EXAMPLE_IMAGE, UPSTREAM_IMAGE)
# what the tests of checkouts give a tree
WORKSPACE_BYTES = 2**20

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def small_redo_log() -> Iterator[None]:
    """So small that a short run goes through its areas several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.storage.redo_log.AREA_BYTES", 16 * PAGE_BYTES)
        patch.setattr("node.storage.redo_log.CONTENT_BYTES_MAX", 2 * PAGE_BYTES)
        yield


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.DockerClient]:
    """A client of a real engine: DOCKER_HOST or the default socket."""
    if os.environ.get(WITHOUT_DOCKER) == "1":
        pytest.skip(f"{WITHOUT_DOCKER}=1: no Docker engine on this machine")
    try:
        client = docker.from_env(timeout=ENGINE_SECONDS)
        client.ping()
    except docker.errors.DockerException as error:
        pytest.fail(f"no Docker engine ({error}); without one set {WITHOUT_DOCKER}=1")
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_image(docker_engine: docker.DockerClient) -> str:
    """The name of an image with a shell, tar and small tools."""
    return ensure_example_image(docker_engine)


class GitRepository:
    """A repository in a temporary folder, and commits in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *arguments: str, data: bytes | None = None) -> str:
        """What git says; the machine's own configuration does not matter."""
        environment = {key: os.environ[key] for key in ("PATH",) if key in os.environ}
        environment |= {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            # else each commit starts a process that looks whether to tidy up
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "maintenance.auto",
            "GIT_CONFIG_VALUE_0": "false",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        answer = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=environment,
            input=data,
            check=True,
            capture_output=True,
        )
        return answer.stdout.decode().strip()

    def commit(self, files: dict[str, str | bytes], links: dict[str, str] | None = None) -> str:
        """A commit with exactly these files on the branch that is checked out; its id."""
        self.git("rm", "-r", "--quiet", "-f", "--ignore-unmatch", ".")
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for name, target in (links or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message=change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    """An empty repository with the branch main."""
    return GitRepository(tmp_path / "repository")


def pipeline(image: str, *commands: str, **more: Any) -> str:
    """The text of a pipeline file (JSON is YAML)."""
    return json.dumps({"image": image, "commands": commands, **more})


# A server on all addresses of lo, asked under each of its names.
ASK_LOOPBACK = (
    'for name in localhost 127.0.0.1 ::1 "$(hostname)"; do'
    " nc -l -p 8000 -e echo heard & server=$!; reply=; tries=0;"
    ' while test "$reply" != heard && test $tries -lt 50; do'
    ' reply=$(nc -w 1 "$name" 8000 </dev/null || true); tries=$((tries + 1)); sleep 0.1; done;'
    " kill $server 2>/dev/null || true; wait;"
    ' echo "$name said $reply"; test "$reply" = heard || exit 9; done'
)


# It ends with 4. The shell itself waits, for a process may be one too many by then; so it starts
# one only, and that one the rest.
FORK_BOMB = (
    "mkfifo /tmp/silent",
    "b() { b | b & }; b & read -t 3 word <>/tmp/silent || exit 4",
)


ConfigMaker = Callable[..., NodeConfig]
CheckoutMaker = Callable[..., Checkout]


@pytest.fixture
def make_config(tmp_path: Path) -> ConfigMaker:
    """A node's configuration: `make_config(url, ..., key=value)`.

    local_images: more of them, for each entry that is given as a URL.
    """

    def make(
        *urls: str | RepositoryEntry, local_images: tuple[str, ...] = (), **settings: Any
    ) -> NodeConfig:
        local = (*LOCAL_IMAGES, *local_images)
        entries = tuple(
            entry
            if isinstance(entry, RepositoryEntry)
            else RepositoryEntry(entry, local_images=local)
            for entry in urls
        )
        defaults: dict[str, Any] = {
            "file": tmp_path / "node.yml",
            "cluster_file": tmp_path / "cluster.yml",
            "name": "node0",
            "private_key_file": tmp_path / "node.key",
            "listen": Address("127.0.0.1", 1),
            "data_directory": tmp_path / "data",
            "log_file": tmp_path / "node.log",
            "allow_dockerfile": True,
            "abstain_after_seconds": 2,
        }
        return NodeConfig(repositories=entries, **(defaults | settings))

    return make


class Builder:
    """A build runner, and orders for it."""

    def __init__(self, runner: BuildRunner, cluster_id: bytes, limits: Limits) -> None:
        self.runner = runner
        self.limits = limits
        self.cluster_id = cluster_id

    def order(self, repository: str, commit: str | None, branch: str = "main") -> BuildOrder:
        """An order with a build id of its own."""
        # Other workers have the same numbers, and some things are looked for by the build alone.
        return BuildOrder(
            secrets.token_bytes(32), next(_numbers), repository, branch, commit, self.limits
        )

    async def build(self, order: BuildOrder) -> Ballot:
        """The ballot, once nothing else is left of any build."""
        ballot = await self.runner.build(order)
        await self.runner.settle()
        assert ballot is not None, "only an order to spare may have none"
        return ballot

    async def find(self, order: BuildOrder) -> BuildResult:
        """The finding, once nothing else is left; an abstention fails the test with its reason."""
        ballot = await self.runner.build(order)
        await self.runner.settle()
        assert isinstance(ballot, BuildResult), ballot
        return ballot

    def log(self, order: BuildOrder) -> str:
        return self.runner.log_path(order.build, order.opened).read_text(errors="replace")

    def state(self, order: BuildOrder) -> str:
        return self.runner.state(order.build, order.opened)


BuilderMaker = Callable[..., Awaitable[Builder]]


@pytest_asyncio.fixture
async def make_builder() -> AsyncIterator[BuilderMaker]:
    """A started build runner: `await make_builder(config, **limits)`; closed at the end."""
    made: list[Builder] = []

    async def make(
        config: NodeConfig,
        cluster_id: bytes | None = None,
        is_contradicted: IsContradicted = lambda key, own: False,
        **limits: Any,
    ) -> Builder:
        cluster = cluster_id or secrets.token_bytes(32)
        defaults: dict[str, Any] = {
            "build_seconds_max": 180,
            "memory_bytes": 64 * 2**20,
            "workspace_bytes": 64 * 2**20,
            "home_bytes": 16 * 2**20,
            "temporary_bytes": 64 * 2**20,
        }
        runner = BuildRunner(
            config=config,
            cluster_id=cluster,
            version="test",
            is_contradicted=is_contradicted,
        )
        allowed = Limits(**(defaults | limits))
        await runner.start(allowed)
        made.append(Builder(runner, cluster, allowed))
        return made[-1]

    yield make
    for builder in made:
        await builder.runner.close()


def things_on(engine: docker.DockerClient) -> dict[str, str | None]:
    """All containers, images, networks and volumes, by id, with the cluster of their label."""
    listed = (
        *engine.api.containers(all=True),
        *engine.api.images(all=True),
        *engine.api.networks(),
        *(engine.api.volumes()["Volumes"] or ()),
    )
    return {
        entry.get("Id") or entry["Name"]: (entry.get("Labels") or {}).get(CLUSTER_LABEL)
        for entry in listed
    }


def things_of(engine: docker.DockerClient, cluster_id: bytes) -> set[str]:
    """The ids of everything on the engine that carries a cluster's label."""
    return {thing for thing, owner in things_on(engine).items() if owner == cluster_id.hex()}


def made_by(engine: docker.DockerClient, image: str) -> str:
    """The instructions that an image was made by; "" where there is no such image."""
    try:
        layers = engine.api.history(image)  # type: ignore[no-untyped-call]
    except docker.errors.APIError:
        return ""
    return " ".join(str(layer["CreatedBy"]) for layer in layers)


def images_made_by(engine: docker.DockerClient, word: str) -> set[str]:
    """The ids of all images with this word in one of their instructions, whatever their labels."""
    ids = [image["Id"] for image in engine.api.images(all=True)]
    return {image_id for image_id in ids if word in made_by(engine, image_id)}


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Wait for a condition; how many seconds it took. Fails the test where it does not come."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    while not await asyncio.to_thread(condition):
        waited = loop.time() - began_at
        assert waited < seconds, "the condition did not come true in time"
        await asyncio.sleep(pause_seconds(waited))
    return loop.time() - began_at


def processes_in(folder: Path) -> dict[int, str]:
    """The commands of the processes at work in a folder or below, be it removed or not.

    Those that a build started are there, whoever their parent is by now.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # one that has ended meanwhile, or waits to be collected, is nowhere at work
            with contextlib.suppress(OSError):
                place = os.readlink(entry / "cwd").removesuffix(" (deleted)")
                if Path(place).is_relative_to(folder):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode().strip()
    return found


def end_processes_in(folder: Path) -> dict[int, str]:
    """Kill those of `processes_in`, so that a failing test leaves none either; which they were."""
    found = processes_in(folder)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


class Room:
    """A repository, a builder and the engine that they use.

    local_images: more that its configurations allow.
    """

    def __init__(
        self,
        engine: docker.DockerClient,
        image: str,
        repository: GitRepository,
        make_config: ConfigMaker,
        make_builder: BuilderMaker,
    ) -> None:
        self.engine = engine
        self.image = image
        self.repository = repository
        self.make_builder = make_builder
        self.local_images: list[str] = []
        self._make_config = make_config

    def make_config(self, *urls: str | RepositoryEntry, **settings: Any) -> NodeConfig:
        """A node's configuration, as the fixture of that name makes it."""
        return self._make_config(*urls, local_images=tuple(self.local_images), **settings)

    async def run(
        self, *commands: str, limits: dict[str, object] | None = None, **more: object
    ) -> tuple[ResultKey, str]:
        """Run commands as a pipeline: what is compared, and the log."""
        text = pipeline(self.image, *commands, **more)
        return await self.run_files({".pbft-ci.yml": text}, limits)

    async def run_files(
        self, files: dict[str, str | bytes], limits: dict[str, object] | None = None
    ) -> tuple[ResultKey, str]:
        """Run a commit with these files, and check that the engine has nothing of it any more."""
        builder = await self.make_builder(self.make_config(self.repository.url), **(limits or {}))
        order = builder.order(self.repository.url, self.repository.commit(files))
        finding = await builder.find(order)
        assert not await asyncio.to_thread(things_of, self.engine, builder.cluster_id)
        was_run = finding.compared.outcome is not Outcome.PIPELINE_INVALID
        assert not was_run or finding.evidence.build_milliseconds > 0
        return finding.compared, builder.log(order)


@pytest.fixture
def room(
    docker_engine: docker.DockerClient,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> Room:
    return Room(docker_engine, base_image, repository, make_config, make_builder)


@pytest.fixture
def make_checkout() -> Iterator[CheckoutMaker]:
    """A started Checkout for a configuration."""
    with ThreadPoolExecutor(4) as threads:

        def make(config: NodeConfig, asked_again_seconds: float = 0.0) -> Checkout:
            checkout = Checkout(config, threads, asked_again_seconds=asked_again_seconds)
            checkout.start()
            return checkout

        yield make


@pytest.fixture
def checkout(
    repository: GitRepository, make_config: ConfigMaker, make_checkout: CheckoutMaker
) -> Checkout:
    """A Checkout that lists the repository and asks once."""
    return make_checkout(make_config(repository.url))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "tree.tar"


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Four running replicas."""
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name)
    yield network
    await network.close()


@pytest.fixture
async def client(network: Network) -> AsyncIterator[Client]:
    """An HTTP client of node0, the primary."""
    async with TestClient(TestServer(server_of(network, "node0").application())) as client:
        yield client
