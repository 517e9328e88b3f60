"""A build that did not pass while its worker went down is no result, whoever notices that first."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from ci.limits import Limits
from ci.operations import Outcome
from node.sandboxes.containers import swarm_sandbox
from node.sandboxes.containers.swarm import Reservation, Reserver
from node.sandboxes.containers.swarm_sandbox import SwarmSandbox
from node.sandboxes.sandbox import RunResult, Work
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import ConfigMaker

RESERVED = Reservation("service", "node", "task", "worker1")


class Worker:
    """Stands for the sandbox on a worker's engine."""

    outcome = Outcome.FAILED
    # whether the container of the task runs
    is_up = True

    def __init__(self, *arguments: object, **more: object) -> None:
        pass

    async def start(self, limits: Limits) -> None:
        pass

    async def run(self, work: Work) -> RunResult:
        return RunResult(self.outcome, 143)

    async def is_running(self, container: str) -> bool:
        assert container == RESERVED.container
        return self.is_up

    async def remove(self, label: str) -> None:
        pass

    async def close(self) -> None:
        pass


class World(SimpleNamespace):
    """A swarm of one worker. loss: what the manager says of it."""

    sandbox: SwarmSandbox
    loss: str | InfrastructureError | None = None

    async def run(self) -> RunResult:
        log = SimpleNamespace(note=lambda text: None)
        work = SimpleNamespace(label="build-1", log=log, show_state=lambda state: None)
        return await self.sandbox.run(cast("Work", work))


@pytest_asyncio.fixture
async def world(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(loss=None)

    def find_loss(client: object, reservation: Reservation) -> str | None:
        loss = made.loss
        if isinstance(loss, InfrastructureError):
            raise loss
        return loss

    monkeypatch.setattr(swarm_sandbox, "DockerSandbox", Worker)
    monkeypatch.setattr(swarm_sandbox, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(swarm_sandbox, "find_loss", find_loss)
    monkeypatch.setattr(swarm_sandbox, "release", lambda client, service: None)
    for name in ("claim", "release_leftovers"):
        monkeypatch.setattr(Reserver, name, lambda *arguments: None)
    monkeypatch.setattr(Reserver, "reserve", lambda *arguments, **more: RESERVED)
    for name in ("outcome", "is_up"):
        monkeypatch.setattr(Worker, name, getattr(Worker, name))
    config = make_config(
        executor="swarm",
        docker_host="tcp://127.0.0.1:1",
        swarm_image="busybox",
        swarm_workers={"worker1": "tcp://127.0.0.1:1"},
    )
    with ThreadPoolExecutor(4) as threads:
        made.sandbox = SwarmSandbox(config, b"c" * 32, threads=threads, connections_max=2)
        monkeypatch.setattr(made.sandbox._manager, "client", lambda: None)
        yield made
        await made.sandbox.remove("build-1")
        await made.sandbox.close()


async def test_a_red_build_counts_if_its_worker_is_there(world: World) -> None:
    assert (await world.run()).exit_code == 143


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY])
async def test_a_worker_that_ends_a_moment_after_the_build(world: World, outcome: Outcome) -> None:
    """All are told to end, and the build's processes obey first; no manager knows it yet."""
    Worker.outcome = outcome

    def end() -> None:
        Worker.is_up = False

    asyncio.get_running_loop().call_later(swarm_sandbox.SETTLE_SECONDS / 5, end)
    with pytest.raises(InfrastructureError, match="did not pass, and worker worker1 ended the ta"):
        await world.run()


async def test_a_manager_that_knows_the_loss_before_the_worker(world: World) -> None:
    world.loss = "worker worker1 is down"
    with pytest.raises(InfrastructureError, match="did not pass, and worker worker1 is down"):
        await world.run()


@pytest.mark.parametrize("silent", ["worker", "manager"])
async def test_nobody_confirms_that_the_worker_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    async def refuse(self: Any, container: str) -> bool:
        raise InfrastructureError("no answer")

    if silent == "worker":
        monkeypatch.setattr(Worker, "is_running", refuse)
    else:
        world.loss = InfrastructureError("no answer")
    with pytest.raises(InfrastructureError, match="no answer"):
        await world.run()


async def test_a_build_that_passed_counts_though_its_worker_is_gone(world: World) -> None:
    """The worker's engine said so before."""
    Worker.outcome, Worker.is_up, world.loss = Outcome.PASSED, False, "worker worker1 is down"
    assert (await world.run()).outcome is Outcome.PASSED
