"""OSDI'99, section 4.4, "View Changes": VIEW-CHANGE, what it says and when it is accepted."""

from collections.abc import Callable

import msgspec
import pytest

from pbft.core import Settings
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Signed,
    ViewChange,
)
from pbft.ports import CheckpointRecord, SavedMessage
from tests.pbft.checks import check_safety
from tests.pbft.forge import (
    FALSE,
    certificate,
    drive_into_view,
    drive_into_view_change,
    new_view,
    prepare_at,
    proof,
    view_change,
    with_bad_signature,
)
from tests.pbft.world import World

SETTINGS = Settings(view_change_seconds=4.0, view_change_seconds_max=32.0)


def small() -> World:
    return World(checkpoint_interval=2, window=4)


# --- the whole of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [4, 7])
def test_the_view_changes_when_the_primary_is_gone(replicas: int) -> None:
    """4.4: liveness although the primary fails; and it comes back as a backup."""
    world = World(replicas, settings=SETTINGS)
    world.ask(1, b"one")
    world.deliver()
    world.crash("r0")
    world.ask(2, b"two")
    world.run(8)
    assert len(world.client_output.accepted) == 2
    assert {replica.core.view for replica in world.replicas.values()} == {1}
    assert {tuple(a.operations) for n, a in world.applications.items() if n != "r0"} == {
        (b"one", b"two")
    }
    world.start("r0")
    world.connect("r0")
    world.run(4)
    assert {replica.core.view for replica in world.replicas.values()} == {1}
    assert set(world.executed().values()) == {world.core("r1").executed}
    check_safety(world)


def test_two_primaries_in_a_row_are_gone() -> None:
    """4.4: the next view is changed to when the new primary fails as well."""
    world = World(7, settings=SETTINGS)
    world.crash("r0")
    world.crash("r1")
    world.ask(1, b"one")
    world.run(20)
    assert len(world.client_output.accepted) == 1
    assert {replica.core.view for replica in world.replicas.values()} == {2}
    check_safety(world)


@pytest.mark.parametrize("lost", [ViewChange, NewView, PrePrepare, Prepare, Commit])
def test_a_view_change_in_which_everything_of_one_type_is_lost_once(lost: type) -> None:
    """4.4: messages of a view change are sent again until they are answered."""
    world = World(settings=SETTINGS)
    world.ask(1, b"one")
    world.deliver()
    world.crash("r0")
    world.ask(2, b"two")
    for _ in range(9):
        world.tick()
        world.drop(lambda m: isinstance(m.payload, lost))
        world.deliver(lambda m: not isinstance(m.payload, lost))
    world.under_way.clear()
    world.run(30)
    assert len(world.client_output.accepted) == 2
    check_safety(world)


# --- leaving a view -----------------------------------------------------------------------------


def leave(world: World, name: str = "r1") -> ViewChange:
    """Its timer expires: a request of a client was not executed in time."""
    world.give(name, world.request(1, b"waits", "other"))
    world.handle_timer(name, world.settings.view_change_seconds)
    return world.said(name, ViewChange)[-1]


def test_view_change_says_view_checkpoint_and_what_was_prepared() -> None:
    """<VIEW-CHANGE, v+1, n, C, P, i>: here with nothing stable and nothing prepared."""
    world = World()
    assert leave(world) == ViewChange(1, 0, (), (), 1)


def test_view_change_holds_a_certificate_for_each_prepared_number_above_n() -> None:
    """P holds, for each m prepared at i above n, the PRE-PREPARE and 2f matching PREPAREs."""
    world = World()
    digests = {n: prepare_at(world, "r1", n, b"%d" % n) for n in (1, 3)}
    _, accepted_only, body = world.pre_prepare(2, [world.request(2, b"2")])
    world.give("r1", accepted_only, body)
    message = leave(world)
    assert message.prepared == tuple(
        certificate(world, n, digest, backups=(1, 2)) for n, digest in digests.items()
    )


def test_view_change_reports_what_was_executed_but_is_not_stable() -> None:
    """Others may not have executed it: prepared is what counts."""
    world = World()
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    message = leave(world)
    assert [p.pre_prepare for p in message.prepared] == [
        world.pre_prepare(n, [world.request(n, b"%d" % n)])[1] for n in (1, 2)
    ]


def test_view_change_has_the_stable_checkpoint_and_its_proof() -> None:
    """n is the last stable checkpoint at i, C 2f+1 CHECKPOINTs that prove it."""
    world = small()
    for timestamp in (1, 2, 3):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    message = leave(world)
    assert message.stable == 2
    assert message.certificate == world.core("r1").checkpoints.stable.checkpoints
    assert len(message.certificate) == 3
    assert len(message.prepared) == 1


def test_view_change_reports_the_highest_view_in_which_a_number_was_prepared() -> None:
    """P has one element per number; a later view's certificate takes the place of an earlier."""
    world = World()
    prepare_at(world, "r2", 1, b"first")
    drive_into_view(world, "r2", 1)
    again = prepare_at(world, "r2", 1, b"second", view=1)
    drive_into_view_change(world, "r2", 3)
    (prepared,) = world.said("r2", ViewChange)[-1].prepared
    assert prepared == certificate(world, 1, again, view=1, backups=(2, 0))


def test_view_change_keeps_an_older_certificate_where_the_new_view_prepared_nothing() -> None:
    """What was prepared in view 0 is still reported when view 1 came to nothing."""
    world = World()
    digest = prepare_at(world, "r2", 1, b"first")
    drive_into_view_change(world, "r2", 1)
    drive_into_view_change(world, "r2", 3)
    (prepared,) = world.said("r2", ViewChange)[-1].prepared
    assert prepared == certificate(world, 1, digest, backups=(2, 1))


def test_view_change_is_saved_before_it_is_sent_and_survives_a_restart() -> None:
    """What was said is on disk: the replica does not come back into the view that it left."""
    world = World()
    prepare_at(world, "r1", 1, b"x")
    message = leave(world)
    assert world.disks["r1"].records[-1] == SavedMessage(world.sign("r1", message))
    world.crash("r1")
    world.start("r1")
    assert (world.core("r1").view, world.core("r1").has_entered) == (1, False)
    assert world.core("r1").views.changes[1].message == message


@pytest.mark.parametrize("is_entered", [False, True])
def test_the_view_survives_a_new_base_and_a_restart(is_entered: bool) -> None:
    """A checkpoint becomes stable after it left: the older records go, its word stays."""
    world = small()
    world.ask(1, b"1")
    world.deliver()
    world.ask(2, b"2")
    world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    certificate_messages = [m for m in world.under_way if isinstance(m.payload, Checkpoint)]
    world.under_way.clear()
    if is_entered:
        drive_into_view(world, "r3", 1)
    else:
        drive_into_view_change(world, "r3", 1)
    for message in certificate_messages:
        world.deliver_one(message)
    assert world.core("r3").low == 2
    assert isinstance(world.disks["r3"].records[0], CheckpointRecord)
    world.crash("r3")
    world.start("r3")
    core = world.core("r3")
    assert (core.view, core.has_entered, core.low) == (1, is_entered, 2)


def test_a_replica_that_left_takes_no_part_in_the_view_any_more() -> None:
    """It stops accepting messages other than CHECKPOINT, VIEW-CHANGE and NEW-VIEW."""
    world = World()
    digest = prepare_at(world, "r1", 1, b"x")
    leave(world)
    said = [*world.said("r1", Prepare), *world.said("r1", Commit)]
    _, signed, body = world.pre_prepare(2, [world.request(2, b"y")])
    for refused in (signed, world.prepare(2, digest, 2)):
        assert "while in view 1" in world.refuse("r1", refused, body)
    _, signed, body = world.pre_prepare(2, [world.request(2, b"y")], view=1, replica=1)
    reason = world.refuse("r1", world.prepare(2, digest, 2, 1))
    assert "has not begun" in reason
    assert [*world.said("r1", Prepare), *world.said("r1", Commit)] == said
    world.give("r1", world.checkpoint(8, FALSE, 2))
    assert world.core("r1").checkpoints.votes.vote_of(8, 2) is not None


def test_commits_of_the_view_that_was_left_still_decide() -> None:
    """Deviation: `strong` COMMITs of one view are proof enough in any view and status."""
    world = World()
    digest = prepare_at(world, "r1", 1, b"x")
    leave(world)
    for replica in (0, 2):
        world.give("r1", world.commit(1, digest, replica))
    assert world.executed()["r1"] == 1
    assert not world.core("r1").has_entered
    world.give("r1", new_view(world, 2, [view_change(world, i, 2) for i in (0, 2, 3)]))
    assert world.executed()["r1"] == 1
    check_safety(world)


def test_requests_are_kept_while_the_view_changes_and_proposed_by_the_new_primary() -> None:
    """4.4: nothing that a client asked for is lost with the primary."""
    world = World(settings=SETTINGS)
    world.crash("r0")
    for name in ("r1", "r2", "r3"):
        world.give(name, world.request(1, b"before"))
    for _ in range(4):
        world.tick()
    world.give("r1", world.request(2, b"during"))
    assert world.said("r1", PrePrepare) == []
    world.deliver()
    assert {tuple(world.applications[n].operations) for n in world.replicas} == {
        (b"before", b"during")
    }


# --- VIEW-CHANGE at the others: each clause alone -----------------------------------------------


def right(world: World, **changes: object) -> Signed:
    """A good VIEW-CHANGE of r2 with a stable checkpoint and two prepared numbers, changed so."""
    fields: dict[str, object] = {
        "view": 3,
        "stable": 8,
        "certificate": proof(world, 8),
        "prepared": (certificate(world, 9), certificate(world, 12, view=2)),
        "replica": 2,
    }
    return world.sign("r2", ViewChange(**{**fields, **changes}))  # type: ignore[arg-type]


def test_the_view_change_that_the_clauses_are_tried_on_is_accepted() -> None:
    """So what each case below changes is what it is refused for."""
    world = World()
    world.give("r1", right(world))
    assert world.refusals("r1") == []
    assert world.core("r1").views.changes[2].prepared == ((9, 0, FALSE), (12, 2, FALSE))
    assert world.core("r1").view == 0, "one of n is not f+1"


def test_view_change_refused_with_a_bad_signature() -> None:
    """All messages are signed."""
    world = World()
    assert world.refuse("r1", with_bad_signature(right(world))) == "bad signature"


def test_view_change_refused_that_names_another_replica() -> None:
    """i is the one who signed it."""
    world = World()
    assert "not the replica" in world.refuse("r1", right(world, replica=3))


@pytest.mark.parametrize("view", [1, 2])
def test_view_change_refused_for_a_view_that_is_entered_or_left(view: int) -> None:
    """A view is changed to once; docs/TRAPS.md 5: nothing old moves anybody back."""
    world = World()
    drive_into_view(world, "r1", 2)
    assert "left or entered" in world.refuse("r1", view_change(world, 2, view))
    world = World()
    drive_into_view_change(world, "r1", 3)
    assert "left or entered" in world.refuse("r1", view_change(world, 2, view))


def test_a_view_change_that_came_before_or_is_older_than_its_senders_last_does_nothing() -> None:
    """Of each replica the one for the highest view counts."""
    world = World()
    world.give("r1", right(world))
    for signed in (right(world), view_change(world, 2, 1), view_change(world, 2, 2)):
        output = world.give("r1", signed)
        assert (output.records, output.messages, output.events) == ([], [], [])
    assert world.core("r1").views.changes[2].message.view == 3
    world.give("r1", view_change(world, 2, 4))
    assert world.core("r1").views.changes[2].message.view == 4


def test_another_view_change_for_the_same_view_is_refused_and_proves_a_lie() -> None:
    """A correct replica says one VIEW-CHANGE for a view."""
    world = World()
    world.give("r1", right(world))
    output = world.give("r1", right(world, prepared=()))
    assert "another VIEW-CHANGE" in world.refusals("r1")[-1]
    (evidence,) = output.evidence
    assert (evidence.replica, evidence.first, evidence.second) == (
        2,
        right(world),
        right(world, prepared=()),
    )
    assert world.core("r1").views.changes[2].signed == right(world)


CERTIFICATES: dict[str, tuple[Callable[[World], tuple[Signed, ...]], str]] = {
    "nothing": (lambda w: (), "too few replicas"),
    "2f replicas": (lambda w: proof(w, 8, replicas=(0, 1)), "too few replicas"),
    "one replica twice": (lambda w: proof(w, 8, replicas=(0, 1, 1)), "a replica twice"),
    "2f+1 and one of them again": (lambda w: proof(w, 8, replicas=(0, 1, 2, 1)), "a replica twice"),
    "another number": (lambda w: proof(w, 16), "holds something else"),
    "one of another number": (
        lambda w: (*proof(w, 8, replicas=(0, 1)), w.checkpoint(16, FALSE, 2)),
        "holds something else",
    ),
    "two digests": (
        lambda w: (*proof(w, 8, replicas=(0, 1)), w.checkpoint(8, bytes(32), 2)),
        "too few replicas",
    ),
    "2f+1 and one that differs": (
        lambda w: (*proof(w, 8), w.checkpoint(8, bytes(32), 3)),
        "too few replicas",
    ),
    "a forged one": (
        lambda w: (*proof(w, 8, replicas=(0, 1)), with_bad_signature(w.checkpoint(8, FALSE, 3))),
        "does not hold",
    ),
    "in another's name": (
        lambda w: (*proof(w, 8, replicas=(0, 1)), w.sign("r2", Checkpoint(8, FALSE, 3))),
        "holds something else",
    ),
    "votes": (lambda w: tuple(w.commit(8, FALSE, i) for i in range(3)), "holds something else"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_view_change_refused_whose_checkpoint_is_not_proved(case: str) -> None:
    """C: 2f+1 valid CHECKPOINTs or more, of distinct replicas, for n, with one digest."""
    world = World()
    made, reason = CERTIFICATES[case]
    assert reason in world.refuse("r1", right(world, certificate=made(world)))


def test_view_change_refused_that_proves_the_genesis() -> None:
    """There is nothing to prove at 0, and one encoding of saying so."""
    world = World()
    signed = right(world, stable=0, certificate=proof(world, 8), prepared=())
    assert "certificate for the genesis" in world.refuse("r1", signed)


def changed(world: World, **changes: object) -> PreparedCertificate:
    good = certificate(world, 9)
    return msgspec.structs.replace(good, **changes)


PREPARED: dict[str, tuple[Callable[[World], PreparedCertificate], str]] = {
    "too few backups": (lambda w: certificate(w, 9, backups=(1,)), "too few backups"),
    "no backups": (lambda w: certificate(w, 9, backups=()), "too few backups"),
    "one backup twice": (lambda w: certificate(w, 9, backups=(1, 1)), "a backup twice"),
    "each backup twice": (lambda w: certificate(w, 9, backups=(1, 2, 1, 2)), "more PREPAREs than"),
    "a backup more": (lambda w: certificate(w, 9, backups=(1, 2, 3)), "more PREPAREs than"),
    "the primary's PREPARE": (lambda w: certificate(w, 9, backups=(0, 1)), "PREPAREs of backups"),
    "COMMITs": (
        lambda w: changed(w, prepares=tuple(w.commit(9, FALSE, i) for i in (1, 2))),
        "PREPAREs of backups",
    ),
    "a PREPARE of another view": (
        lambda w: changed(w, prepares=(w.prepare(9, FALSE, 1), w.prepare(9, FALSE, 2, 1))),
        "different things",
    ),
    "a PREPARE of another number": (
        lambda w: changed(w, prepares=(w.prepare(9, FALSE, 1), w.prepare(10, FALSE, 2))),
        "different things",
    ),
    "a PREPARE of another digest": (
        lambda w: changed(w, prepares=(w.prepare(9, FALSE, 1), w.prepare(9, bytes(32), 2))),
        "different things",
    ),
    "a forged PREPARE": (
        lambda w: changed(
            w, prepares=(w.prepare(9, FALSE, 1), with_bad_signature(w.prepare(9, FALSE, 2)))
        ),
        "does not hold",
    ),
    "a PREPARE in another's name": (
        lambda w: changed(
            w, prepares=(w.prepare(9, FALSE, 2), w.sign("r2", Prepare(0, 9, FALSE, 3)))
        ),
        "PREPAREs of backups",
    ),
    "a PREPARE of a stranger": (
        lambda w: changed(
            w, prepares=(w.prepare(9, FALSE, 2), w.sign("r9", Prepare(0, 9, FALSE, 9)))
        ),
        "PREPAREs of backups",
    ),
    "no PRE-PREPARE": (lambda w: changed(w, pre_prepare=w.prepare(9, FALSE, 1)), "without a PRE-"),
    "a PRE-PREPARE of a backup": (
        lambda w: changed(w, pre_prepare=w.sign("r2", PrePrepare(0, 9, FALSE, 2))),
        "not the primary's",
    ),
    "a forged PRE-PREPARE": (
        lambda w: changed(w, pre_prepare=with_bad_signature(certificate(w, 9).pre_prepare)),
        "does not hold",
    ),
    "of the view itself": (lambda w: certificate(w, 9, view=3), "not earlier"),
    "of a later view": (lambda w: certificate(w, 9, view=4), "not earlier"),
    "at the checkpoint": (lambda w: certificate(w, 8), "outside the window"),
    "below the checkpoint": (lambda w: certificate(w, 1), "outside the window"),
    "above the window": (lambda w: certificate(w, 25), "outside the window"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_view_change_refused_with_a_certificate_that_does_not_hold(case: str) -> None:
    """P: a valid PRE-PREPARE and just 2f matching, valid PREPAREs of different backups, not one
    more: n < n' <= H."""
    world = World(checkpoint_interval=8, window=16)
    made, reason = PREPARED[case]
    assert reason in world.refuse("r1", right(world, prepared=(made(world),)))
    assert reason in world.refuse(
        "r1", right(world, prepared=(made(world), certificate(world, 26)))
    ), "also as one of several"


@pytest.mark.parametrize("numbers", [(12, 9), (9, 9)])
def test_view_change_refused_with_numbers_out_of_order_or_twice(numbers: tuple[int, int]) -> None:
    """One element per number: two for one number could be weighed differently by two primaries."""
    world = World()
    prepared = tuple(certificate(world, n, bytes([i] * 32)) for i, n in enumerate(numbers))
    assert "out of order" in world.refuse("r1", right(world, prepared=prepared))


def test_the_last_number_of_the_window_may_be_prepared() -> None:
    """h < n <= H: the edge."""
    world = World(checkpoint_interval=8, window=16)
    world.give("r1", right(world, prepared=(certificate(world, 24),)))
    assert world.core("r1").views.changes[2].prepared == ((24, 0, FALSE),)


def test_all_replicas_may_prove_a_checkpoint() -> None:
    """C: 2f+1 suffice; whoever heard of more has them all in it."""
    world = World()
    proved = proof(world, 8, replicas=(0, 1, 2, 3))
    world.give("r1", right(world, certificate=proved))
    assert world.core("r1").views.changes[2].message.certificate == proved


def test_a_view_change_teaches_a_stable_checkpoint() -> None:
    """4.4: a replica obtains what it is missing: C proves a checkpoint that it did not see."""
    world = World()
    world.give("r1", right(world, certificate=proof(world, 8, replicas=(0, 2, 3))))
    assert world.core("r1").checkpoints.certified.sequence == 8
    assert world.emitted("r1", "behind") == [{"certified": 8, "executed": 0}]
