"""node.sandboxes.containers.engine_watch: a build that an engine ended with itself is no result."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import docker
import pytest

from ci.operations import Abstain, BuildResult, Outcome
from node.sandboxes.containers.engine_watch import EngineWatch, HeldConnection
from node.work.infrastructure_error import InfrastructureError
from scripts.base_image import EXAMPLE_IMAGE, import_busybox
from scripts.docker_engine import daemon_command, ping
from tests.node.conftest import (
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
    until,
)
from tests.waiting import block_until

# What systemd does with a socket of its own: the third descriptor, and two variables.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Held:
    """A connection that stands until the test says otherwise."""

    def __init__(self) -> None:
        self.is_up = True
        self.is_closed = False

    def stands(self) -> bool:
        return self.is_up

    def close(self) -> None:
        self.is_closed = True


class Engine:
    """Answers with connections; when it is replaced, those before end."""

    def __init__(self) -> None:
        self.made: list[Held] = []
        self.is_down = False
        self.watch = EngineWatch(self._hold)

    async def _hold(self) -> HeldConnection:
        if self.is_down:
            raise InfrastructureError("no answer")
        self.made.append(Held())
        return cast("HeldConnection", self.made[-1])

    def replace(self) -> None:
        for held in self.made:
            held.is_up = False


async def test_builds_share_a_connection_while_it_stands() -> None:
    engine = Engine()
    first = await engine.watch.begin()
    assert await engine.watch.begin() == first
    assert len(engine.made) == 1
    assert await engine.watch.is_same(first)
    assert [held.is_closed for held in engine.made] == [True, False]
    engine.watch.close()
    assert engine.made[-1].is_closed


async def test_another_engine_is_not_the_same_however_often_it_is_asked() -> None:
    engine = Engine()
    first = await engine.watch.begin()
    engine.replace()
    assert not await engine.watch.is_same(first)
    assert not await engine.watch.is_same(first)
    second = await engine.watch.begin()
    assert await engine.watch.is_same(second)
    # an engine that was replaced between two builds
    engine.replace()
    third = await engine.watch.begin()
    assert await engine.watch.is_same(third)
    assert len({first, second, third}) == 3


async def test_an_engine_that_does_not_answer_proves_nothing() -> None:
    engine = Engine()
    first = await engine.watch.begin()
    engine.is_down = True
    with pytest.raises(InfrastructureError):
        await engine.watch.is_same(first)
    # it hung, and is the same
    engine.is_down = False
    assert await engine.watch.is_same(first)


async def test_a_connection_gives_way_to_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is between may end one that is held for long; the engine is the same all the time."""
    monkeypatch.setattr("node.sandboxes.containers.engine_watch.RENEW_SECONDS", 0.0)
    engine = Engine()
    first = await engine.watch.begin()
    keeping = asyncio.create_task(engine.watch.keep(lambda: True))
    await until(lambda: len(engine.made) > 2)
    engine.made[0].is_up = False
    assert await engine.watch.is_same(first)
    engine.is_down = True
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert keeping.cancelled()


class Activated:
    """An engine behind a socket that outlives it, as Debian's docker.socket."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder = folder
        self._output = output
        self.host = f"unix://{folder}/docker.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"{folder}/docker.sock")
        self._socket.listen(128)
        self.start()

    def start(self) -> None:
        number = self._socket.fileno()
        command = daemon_command("dockerd", self._folder, "overlay2", has_networks=False)
        options = [o if not o.startswith("--host=") else "--host=fd://" for o in command]
        with self._output.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ACTIVATE, str(number), *options],
                env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                pass_fds=(number,),
                stdout=stream,
                stderr=stream,
            )

    def wait(self) -> None:
        block_until(
            lambda: self._process.poll() is not None or ping(self.host) is None,
            "the engine answers",
        )
        assert self._process.poll() is None, self._output.read_text()[-2000:]

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def close(self) -> None:
        self.end()
        self._socket.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Activated]:
    if os.geteuid() != 0:
        pytest.skip("only root can start an engine")
    # not below tmp_path: the path of a socket has at most 104 characters
    folder = Path(tempfile.mkdtemp(prefix="e."))
    made = Activated(folder, tmp_path / "dockerd.txt")
    try:
        made.wait()
        with closing(docker.DockerClient(base_url=made.host, timeout=60)) as client:
            import_busybox(client, EXAMPLE_IMAGE)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.docker
async def test_an_engine_that_is_restarted_beneath_its_socket_makes_no_build_red(
    engine: Activated,
    make_builder: BuilderMaker,
    make_config: ConfigMaker,
    repository: GitRepository,
) -> None:
    """Its containers end with 143. With an engine that stays, 143 is what the step found."""
    config = make_config(repository.url, docker_host=engine.host, abstain_after_seconds=0)
    builder = await make_builder(config)
    text = pipeline(EXAMPLE_IMAGE, "echo begun", "sleep 600")
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    building = asyncio.create_task(builder.runner.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    await until(lambda: path.exists() and "\nbegun\n" in path.read_text())
    await asyncio.to_thread(engine.end)
    engine.start()
    ballot = await building
    await builder.runner.settle()
    assert isinstance(ballot, Abstain), ballot
    assert "the Docker engine was restarted meanwhile" in ballot.reason
    text = pipeline(EXAMPLE_IMAGE, "exit 143")
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    found = await builder.find(order)
    assert isinstance(found, BuildResult)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 143)
