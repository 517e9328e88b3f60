"""The arena: hostile builds beside a neighbour's on one node, and a look at the host afterwards."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from ci.operations import Abstain, BuildResult, ResultKey
from tests.node.conftest import (
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    base_image,
    docker_engine,
    make_builder,
    make_config,
    pipeline,
    repository,
    room,
    things_of,
)
from tests.waiting import block_until

__all__ = [
    "base_image",
    "docker_engine",
    "make_builder",
    "make_config",
    "repository",
    "room",
]

Files = dict[str, str | bytes]

# Writes, reads back and counts for a while: a build that is starved or disturbed does not pass.
NEIGHBOUR = (
    "i=0; while [ $i -lt 12 ]; do echo $i >>kept; head -c 100000 /dev/zero >f$i; sleep 0.1;"
    " i=$((i+1)); done",
    'test "$(cat f* | wc -c) $(tail -n 1 kept)" = "1200000 11"',
    "echo the neighbour is well",
)
# of a hostile build, unless a test says otherwise; small, so that floods are over soon
LIMITS = {
    "build_seconds_max": 120,
    "pids_max": 64,
    "memory_bytes": 64 * 2**20,
    "workspace_bytes": 32 * 2**20,
    "home_bytes": 8 * 2**20,
    "temporary_bytes": 8 * 2**20,
    "log_bytes_max": 256 * 1024,
}


SECRET = "the secret of the host\n"


@dataclass(frozen=True)
class Order:
    """A commit to build. url: None for the arena's repository."""

    commit: str
    branch: str = "main"
    url: str | None = None


@dataclass(frozen=True)
class Result:
    """What a hostile build came to. ballot: a finding, or why there is none."""

    ballot: BuildResult | Abstain
    log: str

    @property
    def compared(self) -> ResultKey:
        """What was found; an abstention fails the test with its reason."""
        assert isinstance(self.ballot, BuildResult), (self.ballot, self.log)
        return self.ballot.compared

    @property
    def words(self) -> tuple[str, int | None]:
        """Outcome and exit code."""
        return str(self.compared.outcome), self.compared.exit_code


class Arena:
    """One node with two places, an engine that others use too, and repositories."""

    def __init__(
        self,
        engine: docker.DockerClient,
        image: str,
        folder: Path,
        repository: GitRepository,
        make_config: ConfigMaker,
        make_builder: BuilderMaker,
    ) -> None:
        self.engine = engine
        self.image = image
        self.folder = folder
        self.repository = repository
        self.make_config = make_config
        self.make_builder = make_builder
        self.neighbour = GitRepository(folder / "neighbour")
        self.secret = folder / "secret-of-the-host"
        self.secret.write_text(SECRET)

    def pipeline(self, *commands: str, **more: object) -> str:
        """The text of a pipeline file that runs these in the image of the tests."""
        return pipeline(self.image, *commands, **more)

    async def run(self, *commands: str, files: Files | None = None, **more: object) -> Result:
        """Commands of a pipeline, in a commit with these files."""
        text = self.pipeline(*commands, **more)
        return await self.run_files((files or {}) | {".pbft-ci.yml": text})

    async def run_files(self, files: Files, links: dict[str, str] | None = None) -> Result:
        """A commit with these files and symbolic links."""
        return await self.run_commit(self.repository.commit(files, links))

    async def run_commit(self, commit: str, **limits: object) -> Result:
        """One commit on the branch main."""
        (result,) = await self.run_all([Order(commit)], **limits)
        return result

    async def run_all(self, orders: Sequence[Order], **limits: object) -> list[Result]:
        """Build all of these at once, beside the neighbour's; then look for what is left."""
        mounts = mounted()
        config = self.make_config(
            self.repository.url,
            self.neighbour.url,
            builds_at_once=len(orders) + 1,
            abstain_after_seconds=1,
        )
        builder = await self.make_builder(config, **(LIMITS | limits))
        quiet = self.neighbour.commit({".pbft-ci.yml": self.pipeline(*NEIGHBOUR)})
        hostile = [
            builder.order(each.url or self.repository.url, each.commit, each.branch)
            for each in orders
        ]
        asked = (*hostile, builder.order(self.neighbour.url, quiet))
        *ballots, neighbour = await asyncio.gather(*(builder.build(order) for order in asked))
        # what is left of a build is removed behind its ballot
        await builder.runner.settle()
        assert isinstance(neighbour, BuildResult), neighbour
        assert neighbour.compared.exit_code == 0, builder.log(asked[-1])
        assert "\nthe neighbour is well\n" in builder.log(asked[-1])
        names = {order.build.hex() for order in hostile}
        await asyncio.to_thread(self._look, builder, mounts, names)
        results: list[Result] = []
        for order, ballot in zip(hostile, ballots, strict=True):
            log = builder.log(order)
            size = builder.runner.log_path(order.build, order.opened).stat().st_size
            assert size <= builder.limits.log_bytes_max
            assert "root:x:0:0" not in log
            assert SECRET not in log
            results.append(Result(ballot, log))
        return results

    def _look(self, builder: Builder, mounts: set[str], builds: set[str]) -> None:
        """Nothing is left: on the engine, of processes, mounts and files."""
        cluster_id = builder.cluster_id
        assert not things_of(self.engine, cluster_id)
        # One that is being ended may have much memory to give back.
        block_until(
            lambda: not any(processes_of(build) for build in builds), "the end of all processes"
        )
        assert not {mount for mount in mounted() - mounts if cluster_id.hex()[:8] in mount}
        folders = self.folder / "data" / "builds"
        left = {path.name for folder in folders.iterdir() for path in folder.iterdir()}
        assert left <= {"log", "log-times", "commits", "artifacts"}, left
        assert self.secret.read_text() == SECRET
        # what a command of an attacker would have made
        assert not list(self.folder.rglob("owned"))


def processes_of(build: str) -> list[int]:
    """The processes on this machine whose environment names this build."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        # gone meanwhile, or somebody else's
        with contextlib.suppress(OSError):
            if f"PBFTCI_BUILD={build}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def mounted() -> set[str]:
    """What is mounted on this machine, as its lines."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def arena(
    docker_engine: docker.DockerClient,
    base_image: str,
    tmp_path: Path,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> Arena:
    return Arena(docker_engine, base_image, tmp_path, repository, make_config, make_builder)


@pytest.fixture
def tripwire() -> Iterator[Callable[[], int]]:
    """A server on every address of this machine: its port, and how many called, when asked.

    The function gives the number of connections so far; its attribute `port` the port.
    """
    calls: list[object] = []
    server = socket.create_server(("", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = server.accept()
                calls.append(address)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()

    def count() -> int:
        return len(calls)

    count.port = server.getsockname()[1]  # type: ignore[attr-defined]  # described above
    yield count
    # close alone does not wake who waits in accept
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def addresses() -> list[str]:
    """The addresses of this machine beyond loopback, as far as routes tell."""
    found = {"127.0.0.1"}
    for target in ("192.0.2.1", "172.17.0.1", "10.255.255.255"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            with contextlib.suppress(OSError):
                probe.connect((target, 9))
            found.add(probe.getsockname()[0])
    return sorted(found - {"0.0.0.0"})


def is_root() -> bool:
    """Whether other users' processes can be looked into."""
    return os.geteuid() == 0
