"""OSDI'99, section 4.5.2, "Liveness": when a replica leaves a view, and how long it waits."""

import pytest

from pbft.core import Settings
from pbft.log import NULL_REQUEST
from pbft.messages import Request, Signed, Status, ViewChange
from tests.pbft.checks import check_safety
from tests.pbft.forge import drive_into_view, drive_into_view_change, new_view, view_change
from tests.pbft.world import Message, World

WAIT = 4.0
SETTINGS = Settings(
    view_change_seconds=WAIT, view_change_seconds_max=20.0, status_seconds=1.0, pipeline_depth=4
)


def made(replicas: int = 4, **sizes: int) -> World:
    return World(replicas, settings=SETTINGS, **sizes)  # type: ignore[arg-type]


def views(world: World) -> set[int]:
    return {replica.core.view for replica in world.replicas.values()}


def wait(world: World, name: str, seconds: float, step: float = 0.25) -> None:
    """Let time pass for one replica in small steps."""
    for _ in range(round(seconds / step)):
        world.handle_timer(name, step)


def left(world: World, name: str) -> list[int]:
    """The views for which it said VIEW-CHANGE."""
    return [message.view for message in world.said(name, ViewChange)]


def order(world: World, sequence: int, requests: list[Signed], view: int = 0) -> None:
    """Have a batch decided at every replica that is up, whatever the primary wants."""
    primary = world.cluster.primary(view)
    message, signed, body = world.pre_prepare(sequence, requests, view=view, replica=primary)
    for name in list(world.replicas):
        if name != world.names[primary]:
            world.give(name, signed, body)
        for replica in range(len(world.names)):
            if world.names[replica] != name:
                world.give(name, world.commit(sequence, message.digest, replica, view))


# --- the timer of a request ---------------------------------------------------------------------


def test_a_backup_waits_for_what_it_knows_of_and_leaves_when_the_time_is_over() -> None:
    """4.4: a backup starts a timer when it receives a request and the timer is not running."""
    world = made()
    world.handle_timer("r1", 100.0)
    output = world.give("r1", world.request(1, b"x"))
    assert output.deadline == world.core("r1").peers.status_due
    wait(world, "r1", WAIT - 0.25)
    assert left(world, "r1") == []
    wait(world, "r1", 0.25)
    assert left(world, "r1") == [1]


def test_the_deadline_of_the_output_is_the_first_thing_to_do() -> None:
    """The shell arms one timer: for STATUS, for forwarding at half time, for leaving."""
    world = World(settings=Settings(view_change_seconds=WAIT, status_seconds=100.0))
    world.handle_timer("r1", 10.0)
    assert world.give("r1", world.request(1, b"x")).deadline == 10.0 + WAIT / 2
    assert world.handle_timer("r1", WAIT / 2).deadline == 10.0 + WAIT
    world.handle_timer("r1", WAIT / 2)
    assert left(world, "r1") == [1]


def test_nothing_pending_no_timer() -> None:
    """4.4: the timer stops when there is nothing to wait for; docs/TRAPS.md 14b."""
    world = made()
    world.ask(1, b"x")
    world.deliver()
    for name in world.names:
        world.give(name, world.request(1, b"x"))
        wait(world, name, 5 * WAIT)
        assert left(world, name) == []


def test_a_primary_judges_itself_after_twice_the_time() -> None:
    """The others judge it first; but they may be in other views, unable to say so (seed 100795)."""
    world = made()
    world.give("r0", world.request(1, b"x"))
    wait(world, "r0", 2 * WAIT - 0.25)
    assert left(world, "r0") == []
    wait(world, "r0", 0.25)
    assert left(world, "r0") == [1]


def test_only_the_lowest_number_of_a_client_is_timed_and_a_backlog_deposes_nobody() -> None:
    """A client with 20 requests is served one each 3 s: slow, but each in its time."""
    world = made(client_window=32)
    for timestamp in range(1, 21):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
    for timestamp in range(1, 13):
        wait(world, "r1", 3.0)
        order(world, timestamp, [world.request(timestamp, b"%d" % timestamp)])
    assert left(world, "r1") == []
    assert world.executed()["r1"] == 12
    wait(world, "r1", WAIT)
    assert left(world, "r1") == [1], "and then it is not served any more"


def test_serving_others_censors_nobody() -> None:
    """4.5.2, docs/TRAPS.md 14c: the primary orders one client's requests and never the other's."""
    world = made(client_window=64)
    world.give("r1", world.request(1, b"censored", "other"))
    for timestamp in range(1, 9):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
        order(world, timestamp, [world.request(timestamp, b"%d" % timestamp)])
        wait(world, "r1", 0.5)
    assert world.executed()["r1"] == 8
    assert left(world, "r1") == [1]


def test_serving_higher_numbers_of_the_same_client_censors_no_lower_one() -> None:
    """The lowest is timed, whatever is executed above it."""
    world = made(client_window=64)
    for timestamp in range(1, 10):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
    for timestamp in range(2, 10):
        order(world, timestamp - 1, [world.request(timestamp, b"%d" % timestamp)])
        wait(world, "r1", 0.5)
    assert left(world, "r1") == [1]


def test_null_requests_are_no_service() -> None:
    """A primary that fills the numbers with nothing is deposed in time."""
    world = made()
    world.give("r1", world.request(1, b"x"))
    for sequence in range(1, 9):
        for replica in (0, 2, 3):
            world.give("r1", world.commit(sequence, NULL_REQUEST, replica))
        wait(world, "r1", 0.5)
    assert world.executed()["r1"] == 8
    assert left(world, "r1") == [1]


def test_two_operations_under_one_number_cause_no_view_change() -> None:
    """A client that signs two: either one executed clears the number, whatever the digest."""
    world = made()
    for index, name in enumerate(world.names):
        world.give(name, world.request(1, b"%d" % (index % 2)))
    world.run(3)
    for name in world.names:
        for variant in (0, 1):
            world.give(name, world.request(1, b"%d" % variant))
    world.run(20)
    assert views(world) == {0}
    assert all(len(replica.core.pending) == 0 for replica in world.replicas.values())


def test_many_numbers_signed_twice_cause_no_view_change() -> None:
    """And it goes on, for as long as the client likes."""
    world = made(client_window=8)
    for timestamp in range(1, 25):
        for index, name in enumerate(world.names):
            world.give(name, world.request(timestamp, b"%d" % (index // 2)))
        world.run(1)
    world.run(20)
    assert views(world) == {0}
    assert set(world.executed().values()) == {max(world.executed().values())}
    check_safety(world)


def test_a_view_that_was_entered_gets_its_full_time() -> None:
    """The wait is counted from the entering of the view, not from the request's arrival."""
    world = made()
    world.give("r2", world.request(1, b"x"))
    wait(world, "r2", WAIT - 0.5)
    drive_into_view(world, "r2", 1)
    wait(world, "r2", WAIT - 0.25)
    assert left(world, "r2") == []
    wait(world, "r2", 0.25)
    assert left(world, "r2") == [2]


def test_a_replica_that_is_behind_does_not_judge() -> None:
    """What it waits for may be executed already; it fetches, and does not accuse."""
    world = made()
    world.give("r3", world.request(1, b"x"))
    for replica in (0, 1, 2):
        world.give("r3", world.checkpoint(8, bytes(32), replica))
    wait(world, "r3", 3 * WAIT)
    assert left(world, "r3") == []


def test_a_replica_that_is_behind_does_not_judge_before_it_fetches_either() -> None:
    """From the moment when it knows of a checkpoint above what it executed."""
    world = World(settings=Settings(view_change_seconds=WAIT, status_seconds=100.0))
    world.handle_timer("r3")
    world.give("r3", world.request(1, b"x"))
    for replica in (0, 1, 2):
        world.give("r3", world.checkpoint(8, bytes(32), replica))
    output = world.handle_timer("r3", 2 * WAIT)
    assert world.core("r3").transfers.current is None
    assert output.deadline == world.core("r3").peers.status_due
    assert left(world, "r3") == []


def test_a_replica_that_has_caught_up_gives_the_primary_its_full_time() -> None:
    """T7: the requests that it heard of while it was away were served meanwhile."""
    world = made(client_window=64)
    for timestamp in range(1, 12):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or isinstance(m.payload, Request))
    lost = [m for m in world.under_way if m.receiver == "r3"]
    world.under_way.clear()
    for message in lost:
        if type(message.payload).__name__ == "Checkpoint":
            world.deliver_one(message)
    assert world.core("r3").checkpoints.certified.sequence == 8
    wait(world, "r3", 2 * WAIT)
    world.deliver()
    world.tick(0.25)
    world.deliver()
    assert world.core("r3").executed >= 8
    world.handle_timer("r3")
    assert left(world, "r3") == []
    world.run(3)
    assert set(world.executed().values()) == {11}
    assert left(world, "r3") == []


# --- forwarding ---------------------------------------------------------------------------------


def forwarded(world: World, since: int = 0) -> list[Message]:
    return [
        m for m in world.sent[since:] if isinstance(m.payload, Request) and m.sender in world.names
    ]


def test_a_request_is_handed_on_to_the_primary_once_at_half_its_time() -> None:
    """4.4: the primary may not have heard of it; a view change for one lost message is dear."""
    world = made()
    world.give("r1", world.request(1, b"x"))
    wait(world, "r1", WAIT / 2 - 0.25)
    assert forwarded(world) == []
    wait(world, "r1", 1.0)
    assert [(m.sender, m.receiver) for m in forwarded(world)] == [("r1", "r0")]
    world.deliver()
    assert world.executed()["r1"] == 1
    assert left(world, "r1") == []


def test_a_request_is_handed_on_once_however_many_lower_numbers_go_before_it() -> None:
    """4.4: once per view, whatever else its client asks for meanwhile."""
    world = made()
    world.give("r1", world.request(3, b"3"))
    wait(world, "r1", WAIT / 2)
    for sequence, timestamp in ((1, 1), (2, 2)):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
        wait(world, "r1", WAIT / 2)
        order(world, sequence, [world.request(timestamp, b"%d" % timestamp)])
        world.under_way.clear()
    wait(world, "r1", 0.75 * WAIT)
    assert [m.payload.timestamp for m in forwarded(world)] == [3, 1, 2]  # type: ignore[union-attr]
    wait(world, "r1", WAIT / 4)
    assert left(world, "r1") == [1], "it is timed all the same"


def test_a_request_is_handed_on_again_to_the_next_primary() -> None:
    """The next view's primary may not have heard of it either."""
    world = made()
    world.give("r2", world.request(1, b"x"))
    wait(world, "r2", WAIT / 2)
    world.under_way.clear()
    drive_into_view(world, "r2", 1)
    wait(world, "r2", WAIT / 2)
    assert [m.receiver for m in forwarded(world)] == ["r0", "r1"]


def test_a_forwarded_request_is_never_forwarded_again() -> None:
    """docs/SIMULATION.md, invariant 29: replicas of different views play no ping-pong with it."""
    world = made()
    drive_into_view(world, "r0", 1)
    drive_into_view(world, "r1", 4)
    # r0 believes in r1 now, r1 in r0, r2 and r3 still in r0.
    assert [world.core(n).primary for n in world.names] == [1, 0, 0, 0]
    world.give("r2", world.request(1, b"x"))
    for _ in range(round(WAIT / 0.25) - 1):
        world.now += 0.25
        for name in world.names:
            world.handle_timer(name)
        world.deliver(lambda m: isinstance(m.payload, Request))
    senders = [m.sender for m in forwarded(world)]
    assert len(senders) == len(set(senders)) <= 3


def test_the_memory_of_what_was_forwarded_is_bounded() -> None:
    """T4: one entry per request that waited, for ever, is a leak."""
    world = made(client_window=256, checkpoint_interval=8, window=16)
    for timestamp in range(1, 41):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
        wait(world, "r1", WAIT / 2, step=WAIT / 2)
        order(world, timestamp, [world.request(timestamp, b"%d" % timestamp)])
        world.under_way.clear()
    assert len(forwarded(world)) >= 10
    assert len(world.core("r1").timers.forwarded) <= len(world.clients)


# --- the timer of a view change -----------------------------------------------------------------


def test_the_timer_of_a_view_change_starts_with_strong_view_changes_and_not_before() -> None:
    """4.5.2, first: wait for 2f+1 VIEW-CHANGEs for v+1 before timing it; docs/TRAPS.md 14a."""
    world = made()
    world.give("r2", world.request(1, b"x"))
    wait(world, "r2", WAIT)
    world.give("r2", view_change(world, 0, 1))
    wait(world, "r2", 5 * WAIT)
    assert left(world, "r2") == [1], "with two of three it waits for ever"
    world.give("r2", view_change(world, 3, 1))
    wait(world, "r2", WAIT - 0.25)
    assert left(world, "r2") == [1]
    wait(world, "r2", 0.25)
    assert left(world, "r2") == [1, 2]


def test_those_that_went_further_count_for_the_timer() -> None:
    """Otherwise two groups that left for different views wait for each other for ever (F3)."""
    world = made()
    world.give("r0", view_change(world, 2, 2))
    world.give("r0", view_change(world, 3, 5))
    assert left(world, "r0") == [2]
    wait(world, "r0", WAIT)
    assert left(world, "r0") == [2, 3]


def test_the_wait_doubles_for_each_view_that_fails_up_to_a_cap() -> None:
    """4.5.2: T, 2T, 4T ...; docs/TRAPS.md 14a: and is capped."""
    world = made(7)
    for other in (2, 3, 4, 5):
        world.give("r0", view_change(world, other, 1))
    waits = []
    since = world.now
    for view in range(2, 7):
        while world.core("r0").view < view:
            world.handle_timer("r0", 0.5)
            assert world.now - since < 100
        waits.append(world.now - since)
        since = world.now
        for other in (2, 3, 4, 5):
            world.give("r0", view_change(world, other, view))
    assert waits == [WAIT, 2 * WAIT, 4 * WAIT, 20.0, 20.0]


def test_the_wait_comes_down_again_with_progress() -> None:
    """docs/TRAPS.md 14a, d: nobody can drive the timeout up and then lead slowly."""
    world = made(client_window=64)
    world.core("r1").timers.timeout = 20.0
    world.core("r1").timers.has_progressed = False
    for timestamp in range(1, 5):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    assert world.core("r1").timers.timeout == WAIT
    world.give("r1", world.request(5, b"waits"))
    wait(world, "r1", WAIT)
    assert left(world, "r1") == [1]
    assert world.core("r1").timers.timeout == WAIT, "the first failure after progress costs T"


def test_two_faulty_primaries_and_then_service_leave_the_wait_where_it_was() -> None:
    """The whole run: views 0 and 1 fail, view 2 serves."""
    world = made(7, client_window=64)
    world.crash("r0")
    world.crash("r1")
    for timestamp in range(1, 6):
        world.ask(timestamp, b"%d" % timestamp)
        world.run(15)
    assert len(world.client_output.accepted) == 5
    assert views(world) == {2}
    assert {replica.core.timers.timeout for replica in world.replicas.values()} == {WAIT}


# --- joining ------------------------------------------------------------------------------------


def test_a_single_replica_drags_nobody_along() -> None:
    """docs/TRAPS.md 5, twin: f replicas may be faulty, however far the view that they name."""
    world = made()
    for view in (1, 2, 7, 2**62):
        world.give("r1", view_change(world, 3, view))
    wait(world, "r1", 3 * WAIT)
    assert (world.core("r1").view, left(world, "r1")) == (0, [])


@pytest.mark.parametrize("replicas", [4, 7])
def test_f_plus_1_replicas_are_joined_at_the_smallest_view_that_they_name(replicas: int) -> None:
    """4.5.2, second: f+1 VIEW-CHANGEs for views above one's own: the smallest, at once."""
    world = made(replicas)
    others = range(2, 2 + world.cluster.quorums.weak)
    named = [9, 3, 6][: world.cluster.quorums.weak]
    for index, view in zip(others, named, strict=True):
        assert left(world, "r1") == []
        world.give("r1", view_change(world, index, view))
    assert left(world, "r1") == [3]


def test_views_at_or_below_ones_own_do_not_count_for_joining() -> None:
    """Only views greater than the current one."""
    world = made()
    drive_into_view_change(world, "r1", 4)
    world.give("r1", view_change(world, 0, 7))
    assert left(world, "r1") == [4]
    world.give("r1", view_change(world, 2, 6))
    assert left(world, "r1") == [4, 6]


def test_a_join_lets_everybody_leave_who_waits_for_nothing() -> None:
    """Two of four have a request pending; the others join them, and the view changes."""
    world = made()
    world.crash("r0")
    for name in ("r2", "r3"):
        world.give(name, world.request(1, b"x"))
    world.run(10)
    assert views(world) == {1}
    assert set(world.executed().values()) == {1}
    assert world.emitted("r1", "view_change")[0]["reason"] == "f+1 replicas left"


def test_a_replica_that_left_alone_does_not_stop_the_others_and_executes_with_them() -> None:
    """One that was deaf for a while waits in its next view; COMMITs reach it there."""
    world = made(client_window=64)
    world.give("r3", world.request(1, b"never", "other"))
    wait(world, "r3", WAIT)
    assert left(world, "r3") == [1]
    world.under_way.clear()
    for timestamp in range(1, 20):
        world.ask(timestamp, b"%d" % timestamp)
        world.run(1)
    assert {world.core(n).view for n in ("r0", "r1", "r2")} == {0}
    assert len(set(world.executed().values())) == 1
    assert len(world.client_output.accepted) == 19
    world.crash("r0")
    world.ask(20, b"20")
    world.run(10)
    assert len(world.client_output.accepted) == 20
    assert views(world) == {1}
    check_safety(world)


# --- an unevenly received view change -----------------------------------------------------------


def test_a_view_change_that_was_heard_unevenly_ends_without_any_traffic() -> None:
    """docs/TRAPS.md 16: some links lose VIEW-CHANGEs, timers fire, nobody asks anything more."""
    world = made()
    world.ask(1, b"x")
    world.drop(lambda m: m.receiver == "r0")
    world.crash("r0")
    for _ in range(24):
        world.tick()
        world.drop(
            lambda m: (
                isinstance(m.payload, ViewChange | Status)
                and (m.sender, m.receiver) in {("r1", "r2"), ("r3", "r1"), ("r2", "r3")}
            )
        )
        world.deliver()
    world.run(20)
    assert len(world.client_output.accepted) == 1
    assert len(views(world)) == 1
    check_safety(world)


def test_a_new_view_that_was_lost_is_sent_again() -> None:
    """r3 missed it and stays in the view change, until a STATUS of its tells r1."""
    world = made()
    changes = [view_change(world, i, 1) for i in (0, 1, 2)]
    for name in ("r0", "r2"):
        world.give(name, new_view(world, 1, changes))
    drive_into_view_change(world, "r3", 1)
    world.give("r0", world.sign("r3", Status(1, False, 0, 0, 3)))
    world.deliver(lambda m: m.receiver == "r3")
    assert (world.core("r3").view, world.core("r3").has_entered) == (1, True)


def test_being_behind_for_a_moment_at_each_checkpoint_gives_the_primary_no_more_time() -> None:
    """T9: the primary decides who hears it last; it could censor by making each one wait anew."""
    world = made(checkpoint_interval=2, window=32, client_window=64)
    world.give("r1", world.request(1, b"censored", "other"))
    moments = 0
    for sequence in range(1, 13):
        wait(world, "r1", 0.5)
        message, signed, body = world.pre_prepare(
            sequence, [world.request(sequence, b"%d" % sequence)]
        )
        for name in ("r0", "r2", "r3", "r1"):
            if name == "r1" and sequence % 2 == 0:
                # The certificate of the others is here before r1 executes.
                for replica in (0, 2, 3):
                    digest = world.core("r2").checkpoints.snapshots[sequence][0]
                    world.give("r1", world.checkpoint(sequence, digest, replica))
                moments += (
                    world.core("r1").checkpoints.certified.sequence > world.core("r1").executed
                )
            if name != "r0":
                world.give(name, signed, body)
            for replica in range(4):
                if world.names[replica] != name:
                    world.give(name, world.commit(sequence, message.digest, replica))
    assert moments >= 3
    assert left(world, "r1") == [1]
