"""client.gateway.schedules: one build for each time, whatever ends the gateway in between."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.operations import Delivery, Event
from client.gateway.build_changes import CannotChange
from client.gateway.resolve import FoundCommit, NoSuchBranch, Resolution, Unreachable
from client.gateway.schedules import AHEAD_MINUTES_MAX, Schedules
from client.gateway.write_queue import QueueFull
from client.gateway.writes import Due
from client.storage.build_request import BuildRequest, Submitted
from client.storage.database import Database, StorageFailed
from client.storage.due_times import DueTimes
from common.repositories.repository_config import GatewayRepository
from common.repositories.schedule import Schedule
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Network, Running, run_gateway

URL = "https://example.org/r.git"
NIGHTLY = Schedule("nightly", "main", "17 3 * * *")
KEY = (URL, "main", "nightly")
COMMIT = "c" * 40
DAY = 24 * 60
# 03:17 of some day, in minutes since 1970
DUE = 20_000 * DAY + 3 * 60 + 17


class Orders:
    """A gateway that keeps what it accepts in the database, in one commit with the time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due_times = DueTimes(database)
        self.found: Resolution = FoundCommit(COMMIT)
        self.is_full = False
        self.orders: list[BuildRequest] = []

    async def find_commit(self, request: BuildRequest) -> Resolution:
        return self.found

    async def order(self, request: BuildRequest, *, due: Due | None = None) -> Submitted:
        assert due is not None
        if self.is_full:
            raise QueueFull("too many")
        await self.pass_over(due)
        self.orders.append(request)
        return Submitted(bytes(32), is_new=True)

    async def pass_over(self, due: Due) -> None:
        with self._database.transaction():
            self._due_times.note((due.repository, due.branch, due.name), due.minute)


class Gateway:
    """Schedules over a database, at a time that the test says."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.orders = Orders(database)
        self.minute = 0
        self.schedules = Schedules(
            self.orders, DueTimes(database), clock=lambda: self.minute * 60.0 + 5
        )

    def look(self, minute: int) -> bool:
        self.minute = minute
        return asyncio.run(self.schedules.look(URL, NIGHTLY))

    @property
    def dealt_with(self) -> int | None:
        return DueTimes(self.database).last(KEY)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path, b"c" * 32, "client")
    yield opened
    opened.close()


def test_a_schedule_that_is_new_builds_nothing_of_the_past(database: Database) -> None:
    gateway = Gateway(database)
    assert gateway.look(DUE + 5)
    assert gateway.orders.orders == []
    assert gateway.look(DUE + DAY - 1)
    assert gateway.orders.orders == []
    assert gateway.look(DUE + DAY)
    (order,) = gateway.orders.orders
    assert (order.branch, order.commit, order.event, order.ref) == (
        "main",
        COMMIT,
        Event.CRON,
        None,
    )
    assert order.schedule == "nightly"
    assert order.delivery is not None
    assert order.delivery.forge == "cron"


def test_each_time_is_one_build_however_often_it_is_looked_at(database: Database) -> None:
    gateway = Gateway(database)
    for minute in (DUE - 1, DUE, DUE, DUE + 1, DUE + DAY, DUE + DAY):
        assert gateway.look(minute)
    deliveries = [order.delivery for order in gateway.orders.orders]
    assert len(deliveries) == 2
    assert deliveries[0] != deliveries[1]


def test_what_was_missed_is_one_build_and_not_again_after_another_start(
    database: Database,
) -> None:
    assert Gateway(database).look(DUE - 1)
    late = Gateway(database)
    assert late.look(DUE + 7 * DAY + 60)
    assert len(late.orders.orders) == 1
    assert late.dealt_with == DUE + 7 * DAY
    again = Gateway(database)
    assert again.look(DUE + 7 * DAY + 61)
    assert again.orders.orders == []


def test_two_gateways_make_one_delivery_of_one_time(tmp_path: Path) -> None:
    deliveries: list[Delivery | None] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        database = Database(tmp_path / name, b"c" * 32, name)
        gateway = Gateway(database)
        gateway.look(DUE - len(name))
        gateway.look(DUE + len(deliveries))
        deliveries.append(gateway.orders.orders[0].delivery)
        database.close()
    assert deliveries[0] == deliveries[1]


def test_a_time_waits_for_the_git_server_and_for_room(database: Database) -> None:
    gateway = Gateway(database)
    assert gateway.look(DUE - 1)
    gateway.orders.found = Unreachable("away")
    assert not gateway.look(DUE)
    gateway.orders.found = FoundCommit(COMMIT)
    gateway.orders.is_full = True
    assert not gateway.look(DUE + 1)
    assert gateway.dealt_with == DUE - 1
    gateway.orders.is_full = False
    assert gateway.look(DUE + 2)
    assert len(gateway.orders.orders) == 1
    assert gateway.dealt_with == DUE


def test_without_its_branch_a_time_passes(database: Database) -> None:
    gateway = Gateway(database)
    gateway.look(DUE - 1)
    gateway.orders.found = NoSuchBranch()
    assert gateway.look(DUE)
    assert (gateway.orders.orders, gateway.dealt_with) == ([], DUE)


def test_a_clock_that_was_years_ahead_does_not_end_the_schedule(database: Database) -> None:
    gateway = Gateway(database)
    gateway.look(DUE + 10 * 365 * DAY)
    gateway.look(DUE - 1)
    assert gateway.dealt_with == DUE - 1
    gateway.look(DUE)
    assert len(gateway.orders.orders) == 1
    # a little ahead it is a clock that was put right: the time was dealt with
    gateway.look(DUE - AHEAD_MINUTES_MAX)
    gateway.look(DUE)
    assert len(gateway.orders.orders) == 1


async def test_the_gateway_notes_a_time_in_the_commit_that_accepts_its_build(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, due_times = (REPOSITORY, "main", "nightly"), DueTimes(running.database)
    request = BuildRequest(
        REPOSITORY,
        "main",
        COMMIT,
        event=Event.CRON,
        delivery=Delivery("cron", bytes(32)),
        schedule="nightly",
    )

    def fail(*values: object) -> bool:
        raise StorageFailed("full")

    with monkeypatch.context() as patched:
        patched.setattr(running.archive, "add", fail)
        with pytest.raises(StorageFailed):
            await running.gateway.order(request, due=Due(*key, 7))
    assert due_times.last(key) is None
    await running.gateway.order(request, due=Due(*key, 7))
    assert due_times.last(key) == 7
    await running.gateway.pass_over(Due(*key, 9))
    assert due_times.last(key) == 9
    # noted again, as after a kill, it is the same build
    assert not (await running.gateway.order(request, due=Due(*key, 10))).is_new


async def test_what_was_never_asked_for_is_not_done_again(running: Running) -> None:
    """Nobody knows any more which schedule was due."""
    request = BuildRequest(
        REPOSITORY,
        "main",
        COMMIT,
        event=Event.CRON,
        delivery=Delivery("cron", bytes(32)),
        schedule="nightly",
    )
    build = (await running.gateway.order(request, "skipped by hand")).build
    with pytest.raises(CannotChange, match="schedule"):
        await running.gateway.rebuild(build)


async def test_schedules_of_one_branch_do_not_supersede_each_other(
    network: Network, tmp_path: Path
) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: None
    configured = [GatewayRepository(REPOSITORY, supersede=True)]
    running = await run_gateway(network, tmp_path, configured=configured)
    builds = []
    for number, name in enumerate(("nightly", "weekly", "nightly")):
        delivery = Delivery("cron", bytes([number]) * 32)
        request = BuildRequest(
            REPOSITORY, "main", COMMIT, event=Event.CRON, delivery=delivery, schedule=name
        )
        builds.append((await running.gateway.order(request)).build)
    records = [record_of(running, build) for build in builds]
    assert [record.withdrawn is not None for record in records] == [True, False, False]
    await running.close()


def test_it_keeps_the_schedules_of_the_configuration_that_holds(database: Database) -> None:
    async def run() -> list[str | None]:
        orders = Orders(database)
        for name in ("old", "new"):
            await orders.pass_over(Due(URL, "main", name, DUE - 1))
        schedules = Schedules(orders, DueTimes(database), clock=lambda: DUE * 60.0)
        entries = [
            GatewayRepository(URL, schedules=(Schedule(name, "main", "17 3 * * *"),))
            for name in ("old", "new")
        ]
        schedules.use_repositories(entries[:1])
        schedules.use_repositories(entries[1:])
        await until(lambda: bool(orders.orders))
        await schedules.close()
        return [order.schedule for order in orders.orders]

    assert asyncio.run(run()) == ["new"]
