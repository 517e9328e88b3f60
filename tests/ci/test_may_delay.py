"""Which requests a primary may keep for a moment: ballots that settle nothing, and no others."""

import pytest

from ci.limits import Limits
from ci.operations import (
    Agreement,
    Append,
    Ballot,
    CastBallot,
    Noop,
    Operation,
    ReportDeadline,
    encode_operation,
)
from pbft.messages import Request
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    GATEWAY,
    PASSED,
    World,
    cluster_of,
    decided_build,
    finding,
    submit_build,
)


def asked(world: World, client: str, operation: Operation) -> Request:
    return world.request(client, encode_operation(operation))[0]


def ballot(world: World, build: bytes, index: int, given: Ballot = PASSED) -> Request:
    return asked(world, world.replica(index), CastBallot(build, world.opened(build), given))


def may_delay(world: World, *requests: Request) -> bool:
    before = world.application.parts()
    answer = world.application.may_delay(requests)
    assert world.application.parts() == before
    return answer


def test_ballots_wait_for_the_one_that_settles_their_build(world: World) -> None:
    build = world.open()
    first, second, third = (ballot(world, build, index) for index in range(3))
    assert may_delay(world, first)
    assert may_delay(world, first, second)
    assert not may_delay(world, first, second, third)


def test_those_that_are_ordered_already_count(world: World) -> None:
    build = world.open()
    world.cast(build, 0, PASSED)
    world.cast(build, 1, PASSED)
    assert not may_delay(world, ballot(world, build, 2))
    assert may_delay(world, ballot(world, build, 2, ABSTAIN))


def test_two_red_ballots_settle_a_build(world: World) -> None:
    build = world.open()
    red = [ballot(world, build, index, FAILED) for index in (0, 1)]
    assert may_delay(world, red[0])
    assert not may_delay(world, *red)
    assert may_delay(world, red[0], ballot(world, build, 1, PASSED))


def test_a_ballot_after_which_no_value_can_win_settles_a_build(world: World) -> None:
    build = world.open()
    world.cast(build, 0, ABSTAIN)
    world.cast(build, 1, ABSTAIN)
    assert not may_delay(world, ballot(world, build, 2, ABSTAIN))


def test_weak_agreement_settles_earlier() -> None:
    limits = Limits(weak_agreement_allowed=True)
    world = World(cluster_of(4, limits), limits)
    build = world.open()
    green = finding(agreement=Agreement.WEAK)
    assert may_delay(world, ballot(world, build, 0, green))
    assert not may_delay(world, *(ballot(world, build, index, green) for index in (0, 1)))


def test_a_report_of_the_deadline_counts_with_the_ballots(world: World) -> None:
    build = world.open()
    for index in (0, 1):
        world.report(build, index)
    report = asked(world, world.replica(2), ReportDeadline(build, world.opened(build)))
    assert not may_delay(world, report)
    assert may_delay(world, ballot(world, build, 2))


def test_ballots_after_the_verdict_wait(world: World) -> None:
    build = decided_build(world)
    late = [ballot(world, build, index) for index in (2, 3)]
    assert may_delay(world, *late)


def test_builds_are_counted_apart(world: World) -> None:
    one, other = world.open(1), world.open(2)
    assert may_delay(world, *(ballot(world, build, i) for build in (one, other) for i in (0, 1)))
    third = [ballot(world, one, 2)]
    assert not may_delay(world, *(ballot(world, one, index) for index in (0, 1)), *third)


def test_one_replica_is_one_voice(world: World) -> None:
    build = world.open()
    assert may_delay(world, *(ballot(world, build, 0) for _ in range(4)))


@pytest.mark.parametrize("operation", [Noop(), Append("text"), submit_build(7)])
def test_what_is_no_ballot_does_not_wait(world: World, operation: Operation) -> None:
    build = world.open()
    assert not may_delay(world, ballot(world, build, 0), asked(world, GATEWAY, operation))


def test_what_cannot_be_told_does_not_wait(world: World) -> None:
    """A build that is not open here, or not under that number: its opening may be under way."""
    build = world.open()
    opened = world.opened(build)
    for operation in (CastBallot(b"?" * 32, opened, PASSED), CastBallot(build, opened + 1, PASSED)):
        assert not may_delay(world, asked(world, world.replica(0), operation))
    assert not may_delay(world, world.request(world.replica(0), b"no operation")[0])
