"""client.network.ballot_times: who is slow, and whom verdicts waited for, by real ledgers."""

import msgspec
import pytest

from ci.operations import Abstain, Ballot, BuildResult
from client.network.ballot_times import (
    BUILDS_TOLD,
    OTHER_REASONS,
    REASONS_MAX,
    ReplicaTimes,
)
from tests.ci.builders import FAILED, PASSED, World
from tests.client.network.test_dissent import history_of


def in_seconds(result: BuildResult, seconds: float) -> BuildResult:
    took = msgspec.structs.replace(
        result.evidence, checkout_milliseconds=0, build_milliseconds=round(1000 * seconds)
    )
    return msgspec.structs.replace(result, evidence=took)


def times_of(world: World) -> list[ReplicaTimes]:
    history = history_of(world.ledger)
    copied = history.copy().times
    found = [history.times.of(world.replica(index)) for index in range(4)]
    assert found == [copied.of(world.replica(index)) for index in range(4)]
    return found


def test_the_slow_one_is_told_though_its_ballot_is_late() -> None:
    world = World()
    for identity in range(1, BUILDS_TOLD + 3):
        build = world.open(identity)
        for index, seconds in enumerate((1.0, 2.0, 3.0, 8.0)):
            world.cast(build, index, in_seconds(PASSED, seconds))
    first, second, third, late = times_of(world)
    # beside the middle one of the three that the verdict rests on
    assert [one.against_others for one in (first, second, third, late)] == [0.5, 1, 1.5, 4]
    assert late.seconds == (8.0,) * BUILDS_TOLD
    # `passed` takes three: with the third ballot it is reached
    assert [one.completed for one in (first, second, third, late)] == [0, 0, third.verdicts, 0]


def test_a_dissenters_time_moves_nobody_elses() -> None:
    world = World()
    build = world.open(1)
    world.cast(build, 0, in_seconds(FAILED, 0.001))
    for index in (1, 2, 3):
        world.cast(build, index, in_seconds(PASSED, 2.0))
    found = times_of(world)
    assert [one.against_others for one in found[1:]] == [1, 1, 1]
    assert found[0].against_others == pytest.approx(0.0005)
    assert [one.completed for one in found] == [0, 0, 0, 1]


def test_a_dispute_waited_for_nobody() -> None:
    world = World()
    build = world.open(1)
    unable = Abstain("no disk")
    cast: tuple[Ballot, ...] = (PASSED, FAILED, unable, unable)
    for index, ballot in enumerate(cast):
        world.cast(build, index, ballot)
    found = times_of(world)
    assert {(one.verdicts, one.against_others) for one in found} == {(0, None)}
    assert found[2].abstention_reasons == {"no disk": 1}


def test_reasons_are_counted_by_their_first_words_and_bounded() -> None:
    world = World()
    reasons = [
        "git: /a is gone",
        "git: /b is gone",
        *(f"{number}\x1b: x" for number in range(REASONS_MAX + 5)),
    ]
    for identity, reason in enumerate(reasons):
        build = world.open(identity)
        world.cast(build, 0, Abstain(reason))
        for index in (1, 2, 3):
            world.cast(build, index, PASSED)
    told = times_of(world)[0].abstention_reasons
    assert told["git"] == 2
    assert told[OTHER_REASONS] == 6
    assert len(told) == REASONS_MAX + 1
    assert all(reason.isprintable() for reason in told)
