"""A disk that was set back without showing it: what others prove with our own forgotten word."""

import pytest

from pbft.core import RECOVER_AGE_WINDOWS
from pbft.messages import Checkpoint, Commit, Status, ViewChange
from tests.paper.test_recovery import lose_disk
from tests.pbft.checks import check_safety
from tests.pbft.world import Disk, World

STATE = bytes(31) + b"\x02"
SENT_BACK = "a message of our own, sent back to us"


def _forget(world: World, name: str) -> None:
    """Its disk is what it was on the first day."""
    world.crash(name)
    world.disks[name] = Disk()
    world.start(name)
    world.connect(name)


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
    assert [(told["kind"], told["sequence"]) for told in world.told("r2", "forgot")] == [
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
    assert [told["kind"] for told in world.told("r2", "forgot")] == ["CHECKPOINT"]
    check_safety(world)


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
    votes = world.core("r0").stable.checkpoints
    assert {signed.signer for signed in votes} == {"r0", "r1", "r2"}
    _forget(world, "r2")
    world.under_way.clear()
    change = ViewChange(1, 2, (*votes[first:], *votes[:first]), (), 0)
    world.give("r2", world.sign("r0", change))
    assert world.core("r2").certified.sequence == 2


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
    assert {signed.signer for signed in world.core("r3").stable.checkpoints} == {"r0", "r1", "r2"}
    lose_disk(world, "r2")
    since = len(world.sent)
    world.deliver()
    for _ in range(12):
        world.tick()
        world.deliver()
        if not world.core("r2").nonce:
            break
        # Somebody is further below, and is sent the certificate.
        world.give("r2", world.sign("r3", Status(0, True, 0, 0, 3)))
        own = [m for m in world.sent[since:] if m.sender == "r2" == m.envelope.signed.signer]
        assert not any(isinstance(m.payload, Checkpoint) for m in own)
    assert not world.core("r2").nonce
    assert world.told("r2", "forgot") == []
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
