"""A disk that was set back without showing it: what others prove with our own forgotten word."""

from collections.abc import Sequence
from typing import TypeGuard

import msgspec
import pytest

from pbft.codec import decode_message
from pbft.core import RECOVER_AGE_WINDOWS, ReplicaStatus
from pbft.log import COMMIT_VIEWS_KEPT
from pbft.messages import Checkpoint, Commit, NewView, Signed, Status, ViewChange
from pbft.ports import CheckpointRecord, Record, SavedMessage
from tests.paper.test_recovery import lose_disk, small, votes
from tests.pbft.checks import check_safety
from tests.pbft.forge import view_change
from tests.pbft.world import Disk, World

STATE = bytes(31) + b"\x02"
SENT_BACK = "a message of our own, sent back to us"


def _forget(world: World, name: str) -> None:
    """Its disk is what it was on the first day."""
    world.crash(name)
    world.disks[name] = Disk()
    world.start(name)
    world.connect(name)


def _is_commit(record: Record) -> TypeGuard[SavedMessage]:
    return isinstance(record, SavedMessage) and isinstance(
        decode_message(record.signed.payload), Commit
    )


def _decided_without_r3(world: World, requests: int) -> None:
    """All certificates are of r0, r1 and r2; r3 comes when all is over, and says nothing of it."""
    world.crash("r3")
    for timestamp in range(1, requests + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    world.start("r3")
    world.connect("r3")
    world.run(8)


def test_it_executes_what_was_committed_with_its_own_forgotten_word() -> None:
    world = World()
    _decided_without_r3(world, 1)
    said = len(world.said("r2", Commit))
    _forget(world, "r2")
    world.run(4)
    assert world.executed() == dict.fromkeys(world.names, 1)
    assert len(world.said("r2", Commit)) == said, "it counts, and is not said again"
    assert [(told["kind"], told["sequence"]) for told in world.emitted("r2", "forgot")] == [
        ("COMMIT", 1)
    ]
    check_safety(world)


def test_it_finds_a_checkpoint_that_is_stable_with_its_own_forgotten_word() -> None:
    world = World(checkpoint_interval=2, window=4)
    _decided_without_r3(world, 6)
    assert world.core("r0").kept_above > 1, "the first slots are collected: it needs the state"
    _forget(world, "r2")
    world.run(8)
    assert world.executed() == dict.fromkeys(world.names, 6)
    assert world.core("r2").low == 6
    assert [told["kind"] for told in world.emitted("r2", "forgot")] == ["CHECKPOINT"]
    check_safety(world)


def test_a_commit_that_later_ones_replaced_counts_and_is_not_called_forgotten() -> None:
    """It was said so many views ago that it is no longer kept as a vote; the disk still has it."""
    world = World()
    world.ask(1, b"1")
    while len(world.said("r3", Commit)) <= COMMIT_VIEWS_KEPT:
        world.deliver(lambda message: not isinstance(message.payload, Commit))
        world.drop(lambda message: isinstance(message.payload, Commit))
        world.tick()
    slot = world.core("r3").log.slot(1)
    (first, *_) = [record.signed for record in world.disks["r3"].records if _is_commit(record)]
    own = decode_message(first.payload)
    assert isinstance(own, Commit)
    assert slot.decided is None
    assert slot.commit_of(3, own.view) is None
    for replica in (0, 1):
        world.give("r3", world.commit(1, own.digest, replica, own.view))
    world.give("r3", first)
    assert slot.decided is not None
    assert world.emitted("r3", "forgot") == []


@pytest.mark.parametrize("name", ["r0", "r1", "r2"])
def test_a_certificate_is_sent_with_the_receivers_own_word_at_its_end(name: str) -> None:
    """Else a liar that takes back its own CHECKPOINT before each answer keeps it incomplete."""
    world = World(checkpoint_interval=2, window=4)
    _decided_without_r3(world, 2)
    _forget(world, name)
    world.under_way.clear()
    world.give("r3", world.sign(name, Status(0, True, 0, 0, world.names.index(name))))
    sent = [m.envelope.signed.signer for m in world.under_way if isinstance(m.payload, Checkpoint)]
    assert set(sent) >= {"r0", "r1", "r2"}
    assert sent[-1] == name


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_view_change_proves_its_checkpoint_in_whatever_order_its_votes_are(first: int) -> None:
    world = World(checkpoint_interval=2, window=4)
    _decided_without_r3(world, 2)
    votes = world.core("r0").checkpoints.stable.checkpoints
    assert {signed.signer for signed in votes} == {"r0", "r1", "r2"}
    _forget(world, "r2")
    world.under_way.clear()
    change = ViewChange(1, 2, (*votes[first:], *votes[:first]), (), 0)
    world.give("r2", world.sign("r0", change))
    assert world.core("r2").checkpoints.certified.sequence == 2


@pytest.mark.parametrize("others", [0, 1])
def test_it_counts_for_nothing_but_the_end_of_a_certificate(others: int) -> None:
    world = World(checkpoint_interval=2, window=4)
    message = world.pre_prepare(1, [world.request(1, b"x")])[0]
    for replica in range(others):
        world.give("r3", world.commit(1, message.digest, replica))
        world.give("r3", world.checkpoint(2, STATE, replica))
    assert world.refuse("r3", world.commit(1, message.digest, 3)) == SENT_BACK
    assert world.refuse("r3", world.checkpoint(2, STATE, 3)) == SENT_BACK
    assert world.refuse("r3", world.prepare(1, message.digest, 3)) == SENT_BACK


def test_while_it_recovers_no_commit_of_its_own_counts() -> None:
    world = World(checkpoint_interval=2, window=4)
    world.replicas["r3"].begin_recovery(bytes(31) + b"n", world.now)
    message = world.pre_prepare(1, [world.request(1, b"x")])[0]
    for replica in (0, 1):
        world.give("r3", world.commit(1, message.digest, replica))
    assert world.refuse("r3", world.commit(1, message.digest, 3)) == SENT_BACK


def test_while_it_recovers_its_own_checkpoint_still_proves_a_state_and_is_not_said_again() -> None:
    """r3 fetched that state and never said it: there is no certificate without r2's own word."""
    world = World(checkpoint_interval=2, window=4)
    _decided_without_r3(world, 4 * RECOVER_AGE_WINDOWS + 2)
    assert {signed.signer for signed in world.core("r3").checkpoints.stable.checkpoints} == {
        "r0",
        "r1",
        "r2",
    }
    lose_disk(world, "r2")
    since = len(world.sent)
    world.deliver()
    for _ in range(12):
        world.tick()
        world.deliver()
        if not world.core("r2").is_recovering:
            break
        # Somebody is further below, and is sent the certificate.
        world.give("r2", world.sign("r3", Status(0, True, 0, 0, 3)))
        own = [m for m in world.sent[since:] if m.sender == "r2" == m.envelope.signed.signer]
        assert not any(isinstance(m.payload, Checkpoint) for m in own)
    assert not world.core("r2").is_recovering
    assert world.emitted("r2", "forgot") == []
    check_safety(world)


def test_nobody_else_can_put_it_there() -> None:
    world = World(checkpoint_interval=2, window=4)
    message = world.pre_prepare(1, [world.request(1, b"x")])[0]
    for replica in (0, 1):
        world.give("r3", world.commit(1, message.digest, replica))
        world.give("r3", world.checkpoint(2, STATE, replica))
    for signed in (
        world.sign("r3", Commit(0, 1, message.digest, 2)),
        world.sign("r3", Checkpoint(2, STATE, 2)),
    ):
        assert "the signer is not the replica" in world.refuse("r3", signed)
    for signed in (world.commit(1, message.digest, 3), world.checkpoint(2, STATE, 3)):
        assert world.refuse("r3", type(signed)("r3", signed.payload, bytes(64))) == "bad signature"


def test_what_is_here_already_does_not_count_twice() -> None:
    world = World(checkpoint_interval=2, window=4)
    world.ask(1, b"1")
    world.deliver(lambda m: not (m.receiver == "r3" and isinstance(m.payload, Commit)))
    world.under_way = [m for m in world.under_way if m.sender == "r0"]
    world.deliver()
    slot = world.core("r3").log.slot(1)
    digest = slot.accepted
    assert digest is not None
    assert len(slot.matching_commits(0, digest)) == 2, "our own, and r0's"
    assert world.refuse("r3", world.commit(1, digest, 3)) == SENT_BACK
    assert world.executed()["r3"] == 0


# --- a NEW-VIEW -----------------------------------------------------------------------------------


def view_1_of_r1() -> tuple[World, Signed]:
    """r1 began view 1, and all are in it, with nothing left to do; its NEW-VIEW."""
    world = small()
    world.ask_each(1, 3)
    world.crash("r0")
    world.ask_each(4, 4)
    world.run(10)
    world.start("r0")
    world.connect("r0")
    world.run(4)
    assert {world.core(name).view for name in world.names} == {1}
    (signed,) = {
        m.envelope.signed: None
        for m in world.sent
        if isinstance(m.payload, NewView) and m.envelope.signed.signer == "r1"
    }
    return world, signed


def view_changes_for_1(world: World) -> dict[str, Signed]:
    """By replica, as they were sent."""
    return {
        m.envelope.signed.signer: m.envelope.signed
        for m in world.sent
        if isinstance(m.payload, ViewChange) and m.payload.view == 1
    }


def forget_new_view(world: World, instead: Sequence[Record] = ()) -> None:
    """r1's disk is set back to before it began view 1."""
    world.crash("r1")
    disk = world.disks["r1"]
    is_new_view = [
        isinstance(r, SavedMessage) and isinstance(decode_message(r.signed.payload), NewView)
        for r in disk.records
    ]
    disk.records = [*disk.records[: is_new_view.index(True)], *instead]
    world.start("r1")


def test_a_forgotten_new_view_makes_its_primary_recover_on_an_idle_cluster() -> None:
    """It is told once, shown few times, and the others leave its view for its RECOVER."""
    world, new_view = view_1_of_r1()
    forget_new_view(world)
    since = len(world.sent)
    world.connect("r1")
    world.run(1)
    assert world.core("r1").status is ReplicaStatus.RECOVERING
    world.run(30)
    assert [told["kind"] for told in world.emitted("r1", "forgot")] == ["NEW-VIEW"]
    shown = [m for m in world.sent[since:] if m.envelope.signed == new_view]
    assert len(shown) <= 2 * len(world.names), "each peer at once, and on a new link"
    assert {world.core(name).status for name in world.names} == {ReplicaStatus.NORMAL}
    assert {world.core(name).view for name in world.names} == {2}
    assert len(set(world.executed().values())) == 1
    world.ask_each(5, 6)
    assert len(world.client_output.accepted) == 6
    check_safety(world)


def test_it_says_nothing_between_the_proof_and_the_end_of_its_recovery() -> None:
    """Also if it is killed at once: that it recovers is on its disk, which has its VIEW-CHANGE."""
    world, new_view = view_1_of_r1()
    forget_new_view(world, [SavedMessage(view_changes_for_1(world)["r1"])])
    assert (world.core("r1").view, world.core("r1").has_entered) == (1, False)
    world.give("r1", new_view)
    assert world.core("r1").status is ReplicaStatus.RECOVERING
    world.crash("r1")
    world.start("r1")
    assert world.core("r1").status is ReplicaStatus.RECOVERING
    assert (world.core("r1").view, world.core("r1").has_entered) == (0, True)
    since = len(world.sent)
    world.connect("r1")
    world.ask(5, b"5")
    for _ in range(30):
        world.tick()
        world.deliver()
        if not world.core("r1").is_recovering:
            break
        assert votes(world, "r1", since) == []
    assert world.core("r1").status is ReplicaStatus.NORMAL
    check_safety(world)


def test_a_new_view_from_before_a_recovery_makes_nobody_mute() -> None:
    """Whoever kept it could else send it again after each recovery."""
    world, new_view = view_1_of_r1()
    lose_disk(world, "r1")
    world.run(30)
    assert world.core("r1").status is ReplicaStatus.NORMAL
    # Set back to before it knew of the view that it is in by now.
    world.crash("r1")
    world.disks["r1"].records = [
        r for r in world.disks["r1"].records if isinstance(r, CheckpointRecord)
    ]
    world.start("r1")
    assert world.core("r1").view == 0
    assert world.refuse("r1", new_view) == SENT_BACK
    assert world.core("r1").status is ReplicaStatus.NORMAL


def test_who_forgot_it_and_began_the_view_otherwise_recovers_when_it_is_shown() -> None:
    """VIEW-CHANGEs that are sent again make it give numbers twice, until then."""
    world, new_view = view_1_of_r1()
    changes = view_changes_for_1(world)
    forget_new_view(world, [SavedMessage(changes["r1"])])
    for signed in (changes["r3"], view_change(world, 0, 1)):
        world.give("r1", signed)
    assert (world.core("r1").view, world.core("r1").has_entered) == (1, True)
    assert world.core("r1").views.new_view not in (None, new_view)
    world.give("r1", new_view)
    assert world.core("r1").status is ReplicaStatus.RECOVERING


def test_a_new_view_that_it_knows_or_that_is_not_right_proves_nothing() -> None:
    world, new_view = view_1_of_r1()
    assert world.refuse("r1", new_view) == SENT_BACK
    message = decode_message(new_view.payload)
    assert isinstance(message, NewView)
    forget_new_view(world)
    bad = msgspec.structs.replace(new_view, signature=bytes(64))
    assert "bad signature" in world.refuse("r1", bad)
    few = world.sign("r1", msgspec.structs.replace(message, view_changes=message.view_changes[:2]))
    assert "too few" in world.refuse("r1", few)
    world.core("r1").views.current = 2
    assert world.refuse("r1", new_view) == SENT_BACK
