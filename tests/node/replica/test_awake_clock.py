"""The clock of a replica counts only the time in which its process ran."""

from node.replica.awake_clock import GRACE_SECONDS, STALL_SECONDS, AwakeClock


def test_it_is_the_systems_clock_while_nothing_stalls() -> None:
    clock = AwakeClock()
    assert [clock.read(time, time + 1) for time in (5.0, 5.5, 7.0)] == [5.0, 5.5, 7.0]
    assert clock.monotonic(8.0) == 8.0
    assert clock.read(8.0 + STALL_SECONDS, 8.0) == 8.0 + STALL_SECONDS


def test_what_was_slept_through_does_not_count() -> None:
    clock = AwakeClock()
    assert clock.read(5.0, 5.9) == 5.0
    assert clock.read(65.0, 5.9) == 5.0
    # It stands still for a moment, so that links are read before a deadline passes.
    assert clock.read(65.0 + GRACE_SECONDS / 2, 5.9) == 5.0
    assert clock.read(65.0 + GRACE_SECONDS + 0.5, 5.9) == 5.5
    assert clock.monotonic(5.9) == 65.0 + GRACE_SECONDS + 0.9


def test_it_never_goes_back_and_stalls_add_up() -> None:
    clock = AwakeClock()
    shown = [clock.read(time, 0.0) for time in (1.0, 1.1, 50.0, 50.3, 99.0, 99.3)]
    assert shown == sorted(shown)
    assert shown[-1] < 2.0


def test_a_deadline_that_passed_long_ago_is_no_stall() -> None:
    clock = AwakeClock()
    assert clock.read(100.0, 1.0) == 100.0
    assert clock.read(100.2, 1.0) == 100.2
