"""Builds on two real engines in one swarm, one of which is reached over TLS and loses its power."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ci.limits import Limits
from ci.operations import Abstain, BuildResult, Outcome
from common.configuration.config import NodeConfig
from driver.ports import BuildOrder
from node.sandboxes.containers import swarm
from node.sandboxes.containers.docker_engine import BUILD_LABEL
from node.sandboxes.containers.swarm_check import check_swarm
from scripts.swarm_machines import Machine, join_swarm, running_machines
from tests.node.conftest import (
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
    things_of,
    until,
)
from tests.node.git_servers import self_signed
from tests.node.sandboxes.containers.test_services import ASK, SERVER

IMAGE = "pbft-ci-swarm:local"

pytestmark = [
    pytest.mark.docker,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces for two machines need root"),
]

HARDENED = (
    'test "$(grep -c NoNewPrivs:.1 /proc/self/status)" = 1',
    "! grep -q eth /proc/net/dev",
    "! touch /bin/x",
)


@pytest.fixture(scope="module")
def tls_folder() -> Iterator[Path]:
    """With one certificate for both ends of a connection, under its own authority."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate, key = self_signed(folder)
        shutil.copy(certificate, folder / "cert.pem")
        key.rename(folder / "key.pem")
        yield folder


@pytest.fixture(scope="module")
def machines(tls_folder: Path) -> Iterator[list[Machine]]:
    """The manager at its socket, the worker over TLS."""
    with running_machines(IMAGE, 2, tls_folder) as made:
        join_swarm(made)
        yield made


def builds_on(machine: Machine) -> list[str]:
    """The containers of builds on a machine's engine, but for those of tasks."""
    listed = machine.client.api.containers(filters={"label": BUILD_LABEL})
    return [container["Id"] for container in listed]


def reserved_on(machine: Machine) -> list[object]:
    return machine.client.api.services()  # type: ignore[no-untyped-call, no-any-return]


def log_so_far(builder: Builder, order: BuildOrder) -> str:
    path = builder.runner.log_path(order.build, order.opened)
    return path.read_text(errors="replace") if path.exists() else ""


async def test_builds_on_a_swarm(
    machines: list[Machine],
    tls_folder: Path,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One network of engines for all of it: they take longer to start than builds to run."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        # else they count instead of the certificate of the folder
        monkeypatch.delenv(name, raising=False)
    manager, worker = machines
    assert worker.host.startswith("tcp://")

    def config(**more: object) -> NodeConfig:
        return make_config(
            repository.url,
            local_images=(IMAGE,),
            executor="swarm",
            docker_host=manager.host,
            docker_tls_folder=tls_folder,
            swarm_image=IMAGE,
            **{
                "swarm_workers": {machine.name: machine.host for machine in machines},
                "abstain_after_seconds": 60,
                **more,
            },
        )

    def commit(*commands: str, **more: object) -> str:
        return repository.commit({".pbft-ci.yml": pipeline(IMAGE, *commands, **more)})

    # isolated as on a single engine, with what it made
    builder = await make_builder(config())
    commands = (*HARDENED, "echo made > file")
    order = builder.order(repository.url, commit(*commands, artifacts=["file"]))
    found = await builder.find(order)
    assert found.compared.exit_code == 0, builder.log(order)
    assert [artifact.path for artifact in found.compared.artifacts] == ["file"]
    assert not reserved_on(manager)

    # services, and each cell of a matrix, which has a worker of its own; over TLS, too
    _set_availability(manager, manager, "pause")
    web = {"name": "web", "image": IMAGE, "command": [*SERVER], "ready": {"port": 8000}}
    matrix = {"CASE": ["one", "two"]}
    order = builder.order(
        repository.url, commit(ASK, 'echo "in $CASE"', services=[web], matrix=matrix)
    )
    found = await builder.find(order)
    log = builder.log(order)
    assert found.compared.exit_code == 0, log
    assert log.count(f"worker {worker.name}") == len(matrix["CASE"]), log
    assert not reserved_on(manager)
    assert not things_of(worker.client, builder.cluster_id)
    _set_availability(manager, manager, "active")

    # what `check` shows of it
    table = {
        each.subject: each
        for each in await asyncio.to_thread(check_swarm, config(), Limits(), b"c" * 32)
    }
    for machine in machines:
        assert table[f"{machine.name}: worker"].text == "ready, active"
    swapped = {one.name: two.host for one, two in zip(machines, reversed(machines), strict=True)}
    crossed = config(swarm_workers=swapped)
    wrong = await asyncio.to_thread(check_swarm, crossed, Limits(), b"c" * 32)
    assert sum("is the engine of another node" in each.text for each in wrong) == 2

    # a worker that is drained gives its build to the other one, and a cancel leaves nothing
    _set_availability(manager, manager, "pause")
    order = builder.order(repository.url, commit("sleep 600"))
    building = asyncio.create_task(builder.build(order))
    await until(lambda: "+ sleep 600" in log_so_far(builder, order))
    _set_availability(manager, manager, "active")
    _set_availability(manager, worker, "drain")
    await until(lambda: log_so_far(builder, order).count("+ sleep 600") == 2)
    assert f"worker {worker.name} is being drained" in builder.log(order)
    building.cancel()
    await asyncio.wait({building})
    await builder.runner.settle()
    assert not reserved_on(manager)
    for machine in machines:
        assert not things_of(machine.client, builder.cluster_id)

    _set_availability(manager, worker, "active")

    # all processes of a worker are told to end, as when it goes down: no red build
    _set_availability(manager, manager, "pause")
    order = builder.order(repository.url, commit("echo begun; test -e go || sleep 600"))
    building = asyncio.create_task(builder.build(order))
    await until(lambda: "\nbegun\n" in log_so_far(builder, order))
    _set_availability(manager, manager, "active")
    for process in worker.processes_of_containers():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    await until(lambda: log_so_far(builder, order).count("\nbegun\n") == 2)
    assert "infrastructure error: the build did not pass, and worker" in builder.log(order)
    building.cancel()
    await asyncio.wait({building})
    await builder.runner.settle()

    # another replica of the cluster is refused
    other = await make_builder(config(name="node1"), builder.cluster_id)
    ballot = await other.build(other.order(repository.url, commit("true")))
    assert isinstance(ballot, Abstain)
    assert "replica node0 of this cluster uses this swarm" in ballot.reason

    # what no worker has room for waits, and is no result
    with monkeypatch.context() as patch:
        patch.setattr(swarm, "PENDING_SECONDS_MAX", 1.0)
        huge = await make_builder(config(abstain_after_seconds=1), memory_bytes=2**45)
        ballot = await huge.build(huge.order(repository.url, commit("true")))
        assert isinstance(ballot, Abstain)
        assert "no worker of the swarm took the build" in ballot.reason
        assert "insufficient resources" in ballot.reason
        assert not reserved_on(manager)

    # a worker that dies in mid-build: built anew on the other one
    _set_availability(manager, manager, "pause")
    waiting = ("echo begun", "until test -e go; do sleep 0.1; done", "exit 7")
    order = builder.order(repository.url, commit(*waiting))
    building = asyncio.create_task(builder.build(order))
    await until(lambda: f"worker {worker.name}" in log_so_far(builder, order))
    await until(lambda: "\nbegun\n" in log_so_far(builder, order))
    _set_availability(manager, manager, "active")
    worker.kill()
    await until(lambda: f"worker {manager.name}" in builder.log(order))
    await until(lambda: builder.log(order).count("\nbegun\n") == 2)
    for container in builds_on(manager):
        _touch_in(manager, container)
    ballot = await building
    await builder.runner.settle()
    assert isinstance(ballot, BuildResult), ballot
    assert (ballot.compared.outcome, ballot.compared.exit_code) == (Outcome.FAILED, 7)
    assert "infrastructure error" in builder.log(order)
    assert not reserved_on(manager)
    assert not things_of(manager.client, builder.cluster_id)


def _set_availability(manager: Machine, machine: Machine, availability: str) -> None:
    """Whether a machine takes further tasks, and keeps those that it has."""
    nodes = manager.client.nodes.list()
    node = next(n for n in nodes if n.attrs["Description"]["Hostname"] == machine.name)
    node.update({**node.attrs["Spec"], "Availability": availability})


def _touch_in(machine: Machine, container: str) -> None:
    """Make the file that a build waits for, in the containers that have its workspace."""
    api = machine.client.api
    asked = api.exec_create(container, ["touch", "/workspace/go"])
    api.exec_start(asked["Id"])
