"""The message log: predicates over a slot, and what is forgotten."""

from pbft.log import Batch, MessageLog, Slot
from pbft.messages import Commit, Prepare
from pbft.quorums import quorums_for
from tests.pbft.world import World

A, B = bytes(32), bytes(31) + b"\x01"
WORLD = World()
QUORUMS = quorums_for(4)


def with_prepares(slot: Slot, digest: bytes, *replicas: int) -> None:
    for replica in replicas:
        slot.prepares[replica] = (Prepare(0, 1, digest, replica), WORLD.prepare(1, digest, replica))


def with_commits(slot: Slot, digest: bytes, *replicas: int) -> None:
    for replica in replicas:
        slot.commits[replica] = (Commit(0, 1, digest, replica), WORLD.commit(1, digest, replica))


def test_prepared_needs_an_accepted_digest_and_enough_prepares_for_it() -> None:
    slot = Slot(1)
    with_prepares(slot, A, 1, 2)
    assert not slot.prepared(QUORUMS)
    slot.accepted = B
    assert not slot.prepared(QUORUMS)
    slot.accepted = A
    assert slot.prepared(QUORUMS)
    assert slot.matching_prepares() == [WORLD.prepare(1, A, 1), WORLD.prepare(1, A, 2)]
    with_prepares(slot, B, 2)
    assert not slot.prepared(QUORUMS)


def test_without_an_accepted_digest_no_prepare_matches() -> None:
    slot = Slot(1)
    with_prepares(slot, A, 1, 2, 3)
    assert slot.matching_prepares() == []


def test_a_slot_is_committed_by_strong_commits_for_one_digest() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1)
    with_commits(slot, B, 2)
    assert slot.committed_digest(QUORUMS) is None
    with_commits(slot, A, 3)
    assert slot.committed_digest(QUORUMS) == A
    assert len(slot.matching_commits(A)) == 3
    assert slot.matching_commits(B) == [WORLD.commit(1, B, 2)]


def test_committed_local_needs_the_body_of_that_digest() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1, 2)
    message, signed, body = WORLD.pre_prepare(1, [WORLD.request(1, b"x")])
    slot.batches[B] = Batch(message, signed, body, ())
    assert not slot.committed_local(QUORUMS)
    slot.batches[A] = Batch(message, signed, body, ())
    assert slot.committed_local(QUORUMS)


def test_one_replica_alone_is_prepared_by_its_own_word() -> None:
    slot = Slot(1)
    alone = quorums_for(1)
    assert not slot.prepared(alone)
    slot.accepted = A
    assert slot.prepared(alone)


def test_the_log_makes_finds_orders_and_forgets_slots() -> None:
    log = MessageLog()
    for sequence in (5, 1, 3):
        assert log.slot(sequence) is log.slot(sequence)
    assert log.find(2) is None
    assert log.find(3) is log.slot(3)
    assert [slot.sequence for slot in log.above(0)] == [1, 3, 5]
    assert [slot.sequence for slot in log.above(3)] == [5]
    log.forget_up_to(3)
    assert [slot.sequence for slot in log.above(0)] == [5]
    assert len(log) == 1
