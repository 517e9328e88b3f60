"""The message log: predicates over a slot, and what is forgotten."""

from pbft.log import (
    COMMIT_VIEWS_KEPT,
    NULL_REQUEST,
    Batch,
    Decided,
    MessageLog,
    Prepared,
    Proposal,
    Slot,
)
from pbft.messages import Commit, Prepare, PreparedCertificate
from pbft.quorums import quorums_for
from tests.pbft.world import World

A, B = bytes(32), bytes(31) + b"\x01"
WORLD = World()
QUORUMS = quorums_for(4)


def with_prepares(slot: Slot, digest: bytes, *replicas: int) -> None:
    for replica in replicas:
        slot.prepares[replica] = (Prepare(0, 1, digest, replica), WORLD.prepare(1, digest, replica))


def with_commits(slot: Slot, digest: bytes, *replicas: int, view: int = 0) -> None:
    for replica in replicas:
        message = Commit(view, 1, digest, replica)
        slot.add_commit(message, WORLD.commit(1, digest, replica, view), QUORUMS)


def test_prepared_needs_an_accepted_digest_and_enough_prepares_for_it() -> None:
    slot = Slot(1)
    with_prepares(slot, A, 1, 2)
    assert not slot.is_prepared(QUORUMS)
    slot.accepted = B
    assert not slot.is_prepared(QUORUMS)
    slot.accepted = A
    assert slot.is_prepared(QUORUMS)
    assert slot.matching_prepares() == [WORLD.prepare(1, A, 1), WORLD.prepare(1, A, 2)]
    with_prepares(slot, B, 2)
    assert not slot.is_prepared(QUORUMS)


def test_without_an_accepted_digest_no_prepare_matches() -> None:
    slot = Slot(1)
    with_prepares(slot, A, 1, 2, 3)
    assert slot.matching_prepares() == []


def test_a_slot_is_decided_by_strong_commits_for_one_digest() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1)
    with_commits(slot, B, 2)
    assert slot.decided is None
    with_commits(slot, A, 3)
    assert slot.decided == Decided(A, tuple(WORLD.commit(1, A, i) for i in (0, 1, 3)))
    assert slot.matching_commits(0, B) == [WORLD.commit(1, B, 2)]


def test_commits_of_two_views_decide_nothing_together_and_those_of_one_view_do() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1)
    with_commits(slot, A, 2, 3, view=1)
    assert slot.decided is None
    with_commits(slot, A, 0, view=1)
    assert slot.decided is not None
    assert slot.decided.commits == tuple(WORLD.commit(1, A, i, 1) for i in (0, 2, 3))


def test_what_is_decided_stays_decided() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1, 2)
    before = slot.decided
    with_commits(slot, B, 0, 1, 2, view=5)
    assert slot.decided is before


def test_of_one_replica_the_commits_of_few_views_are_kept_and_it_evicts_its_own() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0)
    for view in range(100):
        with_commits(slot, A, 3, view=view)
    assert len(slot.commits[3]) == COMMIT_VIEWS_KEPT
    assert slot.commit_of(3, 99) == Commit(99, 1, A, 3)
    assert slot.commit_of(3, 0) is None
    assert slot.commit_of(0, 0) == Commit(0, 1, A, 0)
    with_commits(slot, A, 3, 1)
    assert slot.decided is not None, "and counts when it is sent again"


def test_committed_local_needs_the_body_of_that_digest() -> None:
    slot = Slot(1)
    with_commits(slot, A, 0, 1, 2)
    _, _, body = WORLD.pre_prepare(1, [WORLD.request(1, b"x")])
    slot.batches[B] = Batch(B, body, ())
    assert not slot.committed_local()
    assert slot.missing_bodies() == [A]
    slot.batches[A] = Batch(A, body, ())
    assert slot.committed_local()
    assert slot.missing_bodies() == []


def test_a_slot_waits_for_the_bodies_of_what_is_proposed_and_of_what_is_decided() -> None:
    slot = Slot(1)
    assert slot.missing_bodies() == []
    message, signed, body = WORLD.pre_prepare(1, [WORLD.request(1, b"x")])
    slot.proposal = Proposal(message, signed)
    with_commits(slot, A, 0, 1, 2)
    assert slot.missing_bodies() == [A, message.digest]
    slot.batches[message.digest] = Batch(message.digest, body, ())
    assert slot.missing_bodies() == [A]


def test_the_null_request_is_never_missing() -> None:
    slot = Slot(1)
    with_commits(slot, NULL_REQUEST, 0, 1, 2)
    assert slot.committed_local()
    assert slot.batches[NULL_REQUEST].requests == ()


def test_leaving_a_view_forgets_its_votes_and_keeps_what_they_proved() -> None:
    slot = Slot(1)
    message, signed, body = WORLD.pre_prepare(1, [WORLD.request(1, b"x")])
    digest = message.digest
    slot.proposal, slot.accepted = Proposal(message, signed), digest
    slot.batches[digest] = Batch(digest, body, ())
    with_prepares(slot, digest, 1, 2)
    with_commits(slot, digest, 0, 1, 2)
    proof = PreparedCertificate(signed, (WORLD.prepare(1, digest, 1),))
    slot.prepared = Prepared(0, digest, proof)
    slot.leave_view()
    assert slot.proposal is None
    assert slot.accepted is None
    assert not slot.prepares
    assert slot.prepared.certificate == proof
    assert slot.committed_local()
    assert slot.commit_of(2, 0) is not None


def test_one_replica_alone_is_prepared_by_its_own_word() -> None:
    slot = Slot(1)
    alone = quorums_for(1)
    assert not slot.is_prepared(alone)
    slot.accepted = A
    assert slot.is_prepared(alone)


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
