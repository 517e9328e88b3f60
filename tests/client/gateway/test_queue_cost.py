"""What one webhook and one scrape cost the database does not grow with the queue or the history.

Counted is SQLite's own work: the steps of its virtual machine, which are the same on any machine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Event
from client.storage.archive import Archive
from client.storage.build_request import BuildRequest
from common.repositories.repository_config import GatewayRepository
from tests.client.running_network import REPOSITORY, Network, Running, run_gateway

FEW = 20
MANY = 1000
# Which way a B-tree splits moves the count a little.
GROWTH_MAX = 1.5


def steps(running: Running, work: Callable[[], object]) -> int:
    """How many steps SQLite makes for that."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    connection = running.database._connection
    connection.set_progress_handler(count, 1)
    try:
        work()
    finally:
        connection.set_progress_handler(None, 1)
    return counted


def queue(running: Running, first: int, count: int) -> None:
    """That many builds more, straight into the queue: half of them of strangers."""
    gateway, database = running.gateway, running.database
    with database.transaction():
        for number in range(first, first + count):
            build = identity = number.to_bytes(32, "big")
            wanted = BuildRequest(
                REPOSITORY,
                f"b{number}",
                "c" * 40,
                event=Event.PULL_REQUEST if number % 2 else Event.PUSH,
                needs_approval=bool(number % 2),
            )
            running.archive.add(build, wanted, float(number))
            gateway._outbox.add_build(identity, build, wanted)


@pytest.fixture
async def running(network: Network, tmp_path: Path) -> Running:
    configured = [GatewayRepository(REPOSITORY, open_builds_max=1, supersede=True)]
    running = await run_gateway(network, tmp_path, configured=configured)
    assert running.gateway.task is not None
    running.gateway.task.cancel()
    return running


async def test_a_turn_costs_the_same_however_long_the_queue_is(running: Running) -> None:
    gateway, database = running.gateway, running.database
    allocator, outbox = gateway._allocator, gateway._outbox

    def turn(number: int) -> None:
        with database.transaction():
            build = (10**6 + number).to_bytes(32, "big")
            wanted = BuildRequest(REPOSITORY, "master", f"{number:040x}")
            running.archive.add(build, wanted, 0.0)
            outbox.add_build(build, build, wanted)
            gateway._changes.supersede(build, wanted)
            allocator.allocate_ready(0.0)
            gateway._write_queue.note_unfinished(outbox)
            assert gateway._write_queue.unfinished == outbox.tally().total

    queue(running, 0, FEW)
    turn(1)  # gives the network all that it takes
    few = steps(running, lambda: turn(2))
    queue(running, FEW, MANY)
    turn(3)
    many = steps(running, lambda: turn(4))
    assert len(outbox.unfinished()) == FEW + MANY + 1, "each newer push superseded the last one"
    assert many <= GROWTH_MAX * few
    await running.close()


async def test_nothing_is_read_through_on_a_reconnect_or_a_scrape(running: Running) -> None:
    gateway = running.gateway

    def look(archive: Archive) -> dict[str, Any]:
        gateway.on_connected("node0")
        return {**archive.counts(), "building": archive.count("building")}

    queue(running, 0, FEW)
    few = steps(running, lambda: look(running.archive))
    queue(running, FEW, MANY)
    many = steps(running, lambda: look(running.archive))
    assert look(running.archive)["open"] == FEW + MANY
    assert many <= GROWTH_MAX * few
    await running.close()
