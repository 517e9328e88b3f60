"""With `executors: minimal` three of four nodes build, and the fourth only where it is needed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ci.executors import STAND_BY
from ci.limits import Limits
from ci.operations import Abstain, Agreement, Outcome
from node.web.build_states import state_of
from tests.node.house import NAMES, House, finding
from tests.waiting import wait_until

MINIMAL = Limits(executors="minimal")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Four running replicas, whose build runners wait to be allowed."""
    house = House(tmp_path, MINIMAL)
    for name in NAMES:
        house.runners[name].allowed.clear()
        house.start(name)
    yield house
    await house.close()


async def _drawn(house: House) -> tuple[list[str], str]:
    """The executors of the build that is asked for, and who stands by; the three are building."""
    house.submit()
    await wait_until(
        lambda: sum(bool(e.asked) for e in house.runners.values()) >= 3, "three to build"
    )
    (build,) = house.applications["node0"].open_builds().values()
    (stand_by,) = set(NAMES) - set(build.executors)
    return list(build.executors), stand_by


async def _decided(house: House) -> bytes:
    await wait_until(lambda: all(house.verdicts(name) for name in house.runtimes), "the verdict")
    return house.stores["node0"].ledger.entries(1, 1)[0].body


async def test_three_build_and_the_fourth_does_not(house: House) -> None:
    executors, stand_by = await _drawn(house)
    (build,) = house.applications[stand_by].open_builds().values()
    assert state_of(build, stand_by, "none") == STAND_BY
    assert state_of(build, executors[0], "none") == "none"
    assert state_of(build, stand_by, "building") == "building"
    waiting = msgspec.structs.replace(build, is_approved=False)
    assert state_of(waiting, stand_by, "none") == "none"
    for name in executors:
        house.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(house)
    await wait_until(
        lambda: not any(a.open_builds() for a in house.applications.values()), "a closed build"
    )
    assert house.runners[stand_by].asked == []
    assert state_of(None, stand_by, "none") == "none"


async def test_the_fourth_takes_over_from_one_that_lies(house: House) -> None:
    executors, stand_by = await _drawn(house)
    house.runners[executors[0]].ballot = finding(Outcome.FAILED, 1)
    for name in executors[:2]:
        house.runners[name].allowed.set()
    await wait_until(lambda: bool(house.runners[stand_by].asked), "the fourth to begin")
    house.runners[executors[2]].allowed.set()
    house.runners[stand_by].allowed.set()
    assert b'"outcome":"passed"' in await _decided(house)


async def test_the_fourth_takes_over_from_one_that_abstains(house: House) -> None:
    executors, stand_by = await _drawn(house)
    house.runners[executors[0]].ballot = Abstain("no disk")
    house.runners[executors[0]].allowed.set()
    await wait_until(lambda: bool(house.runners[stand_by].asked), "the fourth to begin")
    for name in NAMES:
        house.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(house)


async def test_the_fourth_takes_over_from_one_that_is_dead(tmp_path: Path) -> None:
    house = House(tmp_path, MINIMAL, stand_by_seconds=0.5)
    for name in NAMES:
        house.runners[name].allowed.clear()
        house.start(name)
    executors, stand_by = await _drawn(house)
    await house.stop(executors[0])
    for name in NAMES:
        house.runners[name].allowed.set()
    await wait_until(lambda: all(house.verdicts(n) for n in house.runtimes), "the verdict")
    assert len(house.runners[stand_by].asked) == 1
    await house.close()


async def test_who_stood_by_and_starts_again_sees_that_it_is_needed(house: House) -> None:
    executors, stand_by = await _drawn(house)
    await house.stop(stand_by)
    house.runners[executors[0]].ballot = Abstain("no disk")
    for name in executors[:2]:
        house.runners[name].allowed.set()
    application = house.applications[executors[1]]
    await wait_until(
        lambda: [len(b.ballots) for b in application.open_builds().values()] == [2], "two ballots"
    )
    house.start(stand_by)
    await wait_until(lambda: bool(house.runners[stand_by].asked), "the fourth to begin")
    for name in NAMES:
        house.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(house)


async def test_a_build_that_was_begun_goes_on_after_the_verdict(house: House) -> None:
    executors, stand_by = await _drawn(house)
    for name in NAMES:
        house.runners[name].ballot = finding(Outcome.FAILED, 1)
    for name in executors[:2]:
        house.runners[name].allowed.set()
    assert b'"outcome":"failed"' in await _decided(house)
    house.runners[executors[2]].allowed.set()
    await wait_until(
        lambda: not any(a.open_builds() for a in house.applications.values()), "a closed build"
    )
    assert b'"type":"late_ballot"' in house.stores["node0"].ledger.entries(2, 1)[0].body
    assert house.runners[stand_by].asked == []


async def test_two_build_where_the_pipeline_asks_for_weak_agreement(tmp_path: Path) -> None:
    house = House(tmp_path, Limits(executors="minimal", weak_agreement_allowed=True))
    for name in NAMES:
        house.runners[name].allowed.clear()
        house.runners[name].ballot = finding(agreement=Agreement.WEAK)
        house.start(name)
    executors, stand_by = await _drawn(house)
    spare = [n for n in NAMES if any(order.is_spare for order in house.runners[n].asked)]
    assert spare == [executors[2]], "the third of three"
    house.runners[spare[0]].stands_by = True
    house.runners[spare[0]].allowed.set()
    await wait_until(lambda: house.runners[spare[0]].left == 1, "the third to read the pipeline")
    for name in executors[:2]:
        house.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(house)
    await asyncio.sleep(0)
    assert len(house.runners[spare[0]].asked) == 1, "it does not begin again"
    assert house.runners[stand_by].asked == []
    await house.close()
