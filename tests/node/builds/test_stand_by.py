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
from tests.node.local_network import NAMES, Network, finding
from tests.waiting import wait_until

MINIMAL = Limits(executors="minimal")


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Four running replicas, whose build runners wait to be allowed."""
    network = Network(tmp_path, MINIMAL)
    for name in NAMES:
        network.runners[name].allowed.clear()
        network.start(name)
    yield network
    await network.close()


async def _drawn(network: Network) -> tuple[list[str], str]:
    """The executors of the build that is asked for, and who stands by; the three are building."""
    network.submit()
    await wait_until(
        lambda: sum(bool(e.asked) for e in network.runners.values()) >= 3, "three to build"
    )
    (build,) = network.applications["node0"].open_builds().values()
    (stand_by,) = set(NAMES) - set(build.executors)
    return list(build.executors), stand_by


async def _decided(network: Network) -> bytes:
    await wait_until(
        lambda: all(network.verdicts(name) for name in network.runtimes), "the verdict"
    )
    return network.stores["node0"].ledger.entries(1, 1)[0].body


async def test_three_build_and_the_fourth_does_not(network: Network) -> None:
    executors, stand_by = await _drawn(network)
    (build,) = network.applications[stand_by].open_builds().values()
    assert state_of(build, stand_by, "none") == STAND_BY
    assert state_of(build, executors[0], "none") == "none"
    assert state_of(build, stand_by, "building") == "building"
    waiting = msgspec.structs.replace(build, is_approved=False)
    assert state_of(waiting, stand_by, "none") == "none"
    for name in executors:
        network.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(network)
    await wait_until(
        lambda: not any(a.open_builds() for a in network.applications.values()), "a closed build"
    )
    assert network.runners[stand_by].asked == []
    assert state_of(None, stand_by, "none") == "none"


async def test_the_fourth_takes_over_from_one_that_lies(network: Network) -> None:
    executors, stand_by = await _drawn(network)
    network.runners[executors[0]].ballot = finding(Outcome.FAILED, 1)
    for name in executors[:2]:
        network.runners[name].allowed.set()
    await wait_until(lambda: bool(network.runners[stand_by].asked), "the fourth to begin")
    network.runners[executors[2]].allowed.set()
    network.runners[stand_by].allowed.set()
    assert b'"outcome":"passed"' in await _decided(network)


async def test_the_fourth_takes_over_from_one_that_abstains(network: Network) -> None:
    executors, stand_by = await _drawn(network)
    network.runners[executors[0]].ballot = Abstain("no disk")
    network.runners[executors[0]].allowed.set()
    await wait_until(lambda: bool(network.runners[stand_by].asked), "the fourth to begin")
    for name in NAMES:
        network.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(network)


async def test_the_fourth_takes_over_from_one_that_is_dead(tmp_path: Path) -> None:
    network = Network(tmp_path, MINIMAL, stand_by_seconds=0.5)
    for name in NAMES:
        network.runners[name].allowed.clear()
        network.start(name)
    executors, stand_by = await _drawn(network)
    await network.stop(executors[0])
    for name in NAMES:
        network.runners[name].allowed.set()
    await wait_until(lambda: all(network.verdicts(n) for n in network.runtimes), "the verdict")
    assert len(network.runners[stand_by].asked) == 1
    await network.close()


async def test_who_stood_by_and_starts_again_sees_that_it_is_needed(network: Network) -> None:
    executors, stand_by = await _drawn(network)
    await network.stop(stand_by)
    network.runners[executors[0]].ballot = Abstain("no disk")
    for name in executors[:2]:
        network.runners[name].allowed.set()
    application = network.applications[executors[1]]
    await wait_until(
        lambda: [len(b.ballots) for b in application.open_builds().values()] == [2], "two ballots"
    )
    network.start(stand_by)
    await wait_until(lambda: bool(network.runners[stand_by].asked), "the fourth to begin")
    for name in NAMES:
        network.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(network)


async def test_a_build_that_was_begun_goes_on_after_the_verdict(network: Network) -> None:
    executors, stand_by = await _drawn(network)
    for name in NAMES:
        network.runners[name].ballot = finding(Outcome.FAILED, 1)
    for name in executors[:2]:
        network.runners[name].allowed.set()
    assert b'"outcome":"failed"' in await _decided(network)
    network.runners[executors[2]].allowed.set()
    await wait_until(
        lambda: not any(a.open_builds() for a in network.applications.values()), "a closed build"
    )
    assert b'"type":"late_ballot"' in network.stores["node0"].ledger.entries(2, 1)[0].body
    assert network.runners[stand_by].asked == []


async def test_two_build_where_the_pipeline_asks_for_weak_agreement(tmp_path: Path) -> None:
    network = Network(tmp_path, Limits(executors="minimal", weak_agreement_allowed=True))
    for name in NAMES:
        network.runners[name].allowed.clear()
        network.runners[name].ballot = finding(agreement=Agreement.WEAK)
        network.start(name)
    executors, stand_by = await _drawn(network)
    spare = [n for n in NAMES if any(order.is_spare for order in network.runners[n].asked)]
    assert spare == [executors[2]], "the third of three"
    network.runners[spare[0]].stands_by = True
    network.runners[spare[0]].allowed.set()
    await wait_until(lambda: network.runners[spare[0]].left == 1, "the third to read the pipeline")
    for name in executors[:2]:
        network.runners[name].allowed.set()
    assert b'"outcome":"passed"' in await _decided(network)
    await asyncio.sleep(0)
    assert len(network.runners[spare[0]].asked) == 1, "it does not begin again"
    assert network.runners[stand_by].asked == []
    await network.close()
