"""client.views.build_times: the parts of a build's time, and that they are all of it."""

import pytest

from ci.operations import Outcome
from client.storage.archive import StateRecord
from client.views.build_times import building_seconds, span, time_parts, total_seconds
from client.views.build_view import BuildView, build_view
from tests.ci.builders import FAILED, OPERATOR, PASSED, World
from tests.client.views.test_build_view import decided, record

# what the ballots of the builders say: 12 ms of checkout, 345 ms of building
BUILT = 0.357


def view(received: float, signed: float, opened: float, *, decided_at: float) -> BuildView:
    _, build, statement, ballots = decided([PASSED, PASSED, PASSED, FAILED])
    found = record(
        build=build,
        statement=statement,
        received_at=received,
        signed_at=signed,
        opened_at=opened,
        decided_at=decided_at,
    )
    return build_view(found, ballots, [])


@pytest.mark.parametrize(
    ("moments", "seconds", "longest"),
    [
        ((0.0, 1.0, 1.5, 44.5), (1.0, 0.5, BUILT, 43.0 - BUILT), "decided"),
        ((0.0, 60.0, 60.1, 60.6), (60.0, 0.1, BUILT, 0.5 - BUILT), "queued"),
        ((0.0, 0.1, 0.2, 0.6), (0.1, 0.1, BUILT, 0.4 - BUILT), "built"),
        # the replicas' clocks run faster than the gateway's
        ((0.0, 0.0, 0.0, 0.1), (0.0, 0.0, 0.1, 0.0), "built"),
        # a clock that was set back
        ((9.0, 5.0, 6.0, 7.0), (0.0, 1.0, BUILT, 1.0 - BUILT), "ordered"),
    ],
)
def test_each_part_has_its_own_time_and_the_longest_is_marked(
    moments: tuple[float, float, float, float], seconds: tuple[float, ...], longest: str
) -> None:
    *begin, end = moments
    parts = time_parts(view(*begin, decided_at=end))
    assert [part.name for part in parts] == ["queued", "ordered", "built", "decided"]
    assert [part.seconds for part in parts] == pytest.approx(seconds)
    assert [part.name for part in parts if part.is_longest] == [longest]
    assert sum(part.percent for part in parts) == pytest.approx(100)
    assert parts[-1].begin + parts[-1].percent == pytest.approx(100)


def test_of_what_is_not_known_nothing_is_shown() -> None:
    _, build, _, ballots = decided([PASSED] * 4)
    open_build = build_view(record(build=build, opened_at=1.0), ballots, [])
    assert (time_parts(open_build), building_seconds(open_build)) == ((), None)
    assert total_seconds(open_build) is None
    assert total_seconds(view(1.0, 2.0, 3.0, decided_at=44.0)) == 43.0


def test_a_short_time_is_in_milliseconds() -> None:
    assert (span(0.357), span(1.0), span(61)) == ("357 ms", "1.0 s", "1 min 01 s")


def test_a_replica_without_a_ballot_on_a_cancelled_build_builds_no_more() -> None:
    world = World()
    build = world.open(1)
    world.cancel(build, OPERATOR)
    statement = world.find_statement(build)
    assert statement is not None
    states = [StateRecord("replica-1", "building: test", 1.0, None)]
    shown = build_view(record(build=build, statement=statement), [], [], states=states)
    assert shown.verdict is not None
    assert shown.verdict.outcome == Outcome.CANCELLED
    assert shown.replicas[0].state == "cancelled"
