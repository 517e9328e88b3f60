"""OSDI'99, sections 4.2 and 5, batching: what the primary keeps for a moment, and what never.

The paper's primary proposes at once. Ours keeps what the application says that nobody waits for
(docs/decisions/0017), for a time that is short beside what its backups wait.
"""

import pytest

from pbft.core import Settings
from pbft.messages import PrePrepare, Recover, ViewChange
from pbft.normal_case import KEPT_REQUESTS_MAX
from tests.pbft.forge import drive_into_view, view_change
from tests.pbft.world import MAY_WAIT, World

DELAY = 0.25
SETTINGS = Settings(batch_delay_seconds=DELAY, view_change_seconds=4.0, status_seconds=100.0)


def made(settings: Settings = SETTINGS) -> World:
    """A world some time after its beginning: no STATUS is due for long."""
    world = World(settings=settings, window=64, checkpoint_interval=32)
    for name in world.names:
        world.handle_timer(name)
    return world


def given(world: World, timestamp: int, operation: bytes = MAY_WAIT, primary: str = "r0") -> float:
    """Hand the primary a client's request; the seconds until it is to be woken up."""
    output = world.give(primary, world.request(timestamp, operation))
    assert output.deadline is not None
    return output.deadline - world.now


def proposed(world: World, primary: str = "r0") -> int:
    """How many numbers the primary has given."""
    return len(world.said(primary, PrePrepare))


def batches(world: World) -> list[int]:
    """How many requests each executed batch has."""
    return [int(str(details["requests"])) for details in world.emitted("r1", "executed")]


def test_without_a_delay_everything_is_proposed_at_once() -> None:
    world = made(Settings(status_seconds=100.0))
    given(world, 1)
    assert proposed(world) == 1


def test_what_nobody_waits_for_is_kept_and_proposed_when_its_time_is_over() -> None:
    world = made()
    assert given(world, 1) == pytest.approx(DELAY)
    assert proposed(world) == 0
    world.handle_timer("r0", DELAY - 0.01)
    assert proposed(world) == 0
    world.handle_timer("r0", 0.01)
    world.deliver()
    assert batches(world) == [1]


def test_the_time_runs_from_the_first_that_is_kept() -> None:
    world = made()
    given(world, 1)
    world.now += 0.2
    assert given(world, 2) == pytest.approx(DELAY - 0.2)
    world.handle_timer("r0", DELAY - 0.2)
    world.deliver()
    assert batches(world) == [2]


def test_what_is_kept_goes_in_one_batch_with_what_somebody_waits_for() -> None:
    world = made()
    given(world, 1)
    given(world, 2)
    given(world, 3, b"now")
    assert proposed(world) == 1
    world.deliver()
    assert batches(world) == [3]
    assert world.core("r0").timers.batch_due is None


def test_what_comes_later_has_its_own_time() -> None:
    world = made()
    given(world, 1)
    given(world, 2, b"now")
    world.deliver()
    world.now += 10.0
    assert given(world, 3) == pytest.approx(DELAY)
    assert proposed(world) == 1


def test_many_are_worth_a_batch() -> None:
    world = made()
    for timestamp in range(1, KEPT_REQUESTS_MAX + 1):
        given(world, timestamp)
    assert proposed(world) == 0
    given(world, KEPT_REQUESTS_MAX + 1)
    assert proposed(world) == 1


def test_a_request_to_recover_is_not_kept_nor_what_it_needs() -> None:
    """The null requests up to the T of one that recovers are waited for by it."""
    world = made()
    given(world, 1)
    world.give("r0", world.sign("r3", Recover(b"n" * 32, 3, 0)))
    assert proposed(world) == 1
    world.deliver()
    assert batches(world)[0] == 2
    before = proposed(world)
    given(world, 2)
    assert proposed(world) == before + 1


def test_a_full_pipeline_keeps_nothing_and_wakes_nobody() -> None:
    world = made(Settings(batch_delay_seconds=DELAY, pipeline_depth=1, status_seconds=100.0))
    given(world, 1, b"now")
    assert given(world, 2) > DELAY
    world.deliver()
    assert batches(world) == [1], "it is kept from when it could go"
    world.handle_timer("r0", DELAY)
    world.deliver()
    assert batches(world) == [1, 1]


def test_a_backup_keeps_nothing_and_waits_as_ever() -> None:
    world = made()
    assert given(world, 1, primary="r1") == pytest.approx(SETTINGS.view_change_seconds / 2)
    assert proposed(world, "r1") == 0


def test_who_is_no_primary_any_more_keeps_nothing_and_the_next_one_does() -> None:
    world = made()
    given(world, 1)
    assert world.core("r0").timers.batch_due is not None
    drive_into_view(world, "r0")
    assert world.core("r0").timers.batch_due is None
    for replica in (2, 3):
        world.give("r1", view_change(world, replica, 1))
    assert world.core("r1").has_entered
    before = proposed(world, "r1")
    world.give("r1", world.request(1, MAY_WAIT))
    assert proposed(world, "r1") == before
    world.handle_timer("r1", DELAY)
    assert proposed(world, "r1") == before + 1


def test_nobody_leaves_a_view_for_what_is_kept() -> None:
    """A quarter of the backups' wait at most: no setting makes a primary look like a silent one."""
    world = made()
    for timestamp in range(1, 20):
        for name in world.names:
            world.give(name, world.request(timestamp, MAY_WAIT))
        for name in world.names:
            world.handle_timer(name, DELAY / 4)
        world.deliver()
    assert sum(batches(world)) == 19
    assert all(not world.said(name, ViewChange) for name in world.names)
    with pytest.raises(AssertionError):
        made(Settings(batch_delay_seconds=1.01, view_change_seconds=4.0))
