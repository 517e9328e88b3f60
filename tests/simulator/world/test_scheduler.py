"""Events happen in order of time, and of scheduling where times are equal."""

from simulator.world.clock import Clock
from simulator.world.scheduler import SECOND, Scheduler


def test_events_come_in_order() -> None:
    scheduler = Scheduler()
    seen: list[str] = []
    scheduler.at(20, seen.append, "late")
    scheduler.at(10, seen.append, "first")
    scheduler.at(10, seen.append, "second")
    while scheduler.step():
        pass
    assert seen == ["first", "second", "late"]
    assert (scheduler.now, scheduler.events) == (20, 3)


def test_what_is_late_happens_now() -> None:
    scheduler = Scheduler()
    times: list[int] = []
    scheduler.at(50, lambda: scheduler.at(10, lambda: times.append(scheduler.now)))
    while scheduler.step():
        pass
    assert times == [50]


def test_a_clock_never_shows_less_than_what_a_timer_waited_for() -> None:
    clock = Clock(rate=0.7, start_seconds=3.3)
    for wanted in (3.5, 4.0, 1000.1):
        assert clock.seconds(clock.when(wanted, 0)) >= wanted


def test_a_jump_moves_a_clock_forward() -> None:
    clock = Clock(rate=2.0)
    clock.jump(5.0, SECOND)
    assert clock.seconds(2 * SECOND) == 9.0
