"""A replica's debts are paid once, whatever stops in between."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci.limits import Limits
from ci.operations import Abstain, Outcome
from node.ballots import BALLOT
from node.debts import owed_builds
from tests.node.house import NAMES, House, finding
from tests.waiting import wait_until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Four running replicas."""
    house = House(tmp_path)
    for name in NAMES:
        house.start(name)
    yield house
    await house.close()


async def _decided(house: House, verdicts: int = 1) -> None:
    await wait_until(
        lambda: all(house.verdicts(name) == verdicts for name in house.runtimes),
        f"{verdicts} verdicts on all",
    )


async def _closed(house: House) -> None:
    await wait_until(
        lambda: not any(a.open_builds() for a in house.applications.values()), "closed builds"
    )


async def test_every_replica_builds_and_casts_one_ballot(house: House) -> None:
    house.submit()
    await _decided(house)
    await _closed(house)
    for name in NAMES:
        assert len(house.executors[name].asked) == 1
        ballots = house.stores[name].ballots(house.executors[name].asked[0].build)
        assert [replica for _, replica, _ in ballots] == list(NAMES)
    assert len({a.ledger_head for a in house.applications.values()}) == 1


async def test_a_liar_is_outvoted(tmp_path: Path) -> None:
    house = House(tmp_path)
    for name in NAMES:
        house.start(name, fault="lying" if name == "node3" else None)
    house.submit()
    await _decided(house)
    entry = house.stores["node0"].ledger_entries(1, 10)[0].body
    assert b'"outcome":"passed"' in entry
    await house.close()


async def test_a_build_under_way_is_owed_again_after_a_restart(house: House) -> None:
    house.executors["node2"].allowed.clear()
    house.submit()
    await wait_until(lambda: bool(house.executors["node2"].asked), "the build to begin")
    await house.stop("node2")
    assert len(house.executors["node2"].cancelled) == 1
    house.executors["node2"].allowed.set()
    house.start("node2")
    await _decided(house)
    await _closed(house)
    assert len(house.executors["node2"].asked) == 2


async def test_a_ballot_that_was_saved_is_sent_again_and_not_built_again(house: House) -> None:
    house.cut.add("node2")
    house.submit()
    await wait_until(lambda: all(house.verdicts(n) for n in NAMES if n != "node2"), "verdicts")
    house.cut.clear()
    store = house.stores["node2"]
    await wait_until(lambda: bool(house.executors["node2"].asked), "node2 to hear of it")
    order = house.executors["node2"].asked[0]
    await wait_until(
        lambda: store.own_request(BALLOT, order.build, order.opened) is not None, "its ballot"
    )
    await house.stop("node2")
    house.start("node2")
    await _closed(house)
    assert len(house.executors["node2"].asked) == 1


async def test_a_dispute_ends_by_itself(house: House) -> None:
    for number, name in enumerate(NAMES):
        house.executors[name].ballot = finding(Outcome.FAILED, number + 1)
    house.submit()
    await _decided(house)
    assert b'"outcome":"disputed"' in house.stores["node0"].ledger_entries(1, 1)[0].body


async def test_a_build_that_nobody_finishes_is_disputed_at_its_deadline(tmp_path: Path) -> None:
    house = House(tmp_path, Limits(deadline_seconds=1))
    for name in NAMES:
        house.start(name)
        house.executors[name].ballot = Abstain("no disk")
    house.executors["node0"].allowed.clear()
    house.submit()
    await _decided(house)
    assert b'"outcome":"disputed"' in house.stores["node0"].ledger_entries(1, 1)[0].body
    await house.close()


async def test_owed_builds_are_the_oldest_first_and_without_those_cast(house: House) -> None:
    for executor in house.executors.values():
        executor.allowed.clear()
    for number in range(1, 5):
        house.submit(number)
    application = house.applications["node1"]
    await wait_until(lambda: len(application.open_builds()) == 4, "four open builds")
    builds = application.open_builds()
    owed = owed_builds(builds, "node1", lambda key: key[0] == next(iter(builds)))
    assert [key[0] for key in owed] == list(builds)[1:]
    assert [order.opened for order in owed.values()] == sorted(o.opened for o in owed.values())
