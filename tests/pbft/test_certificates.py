"""Checkpoint votes, how they are counted and bounded, certificates, the digest of the state."""

from itertools import permutations

import msgspec
import pytest

from pbft.authentication import Authenticator
from pbft.certificates import CheckpointVotes, check_prepared, check_stable, state_digest
from pbft.codec import digest_of
from pbft.messages import Checkpoint
from pbft.ports import Refusal
from pbft.quorums import quorums_for
from tests.pbft.forge import certificate, proof
from tests.pbft.world import World, verify

A, B = bytes(32), bytes(31) + b"\x01"
WORLD = World(7)


def votes(replicas: int = 4, kept: int = 3) -> CheckpointVotes:
    return CheckpointVotes(quorums_for(replicas), kept)


def add(into: CheckpointVotes, sequence: int, digest: bytes, *replicas: int) -> None:
    for replica in replicas:
        into.add(Checkpoint(sequence, digest, replica), WORLD.checkpoint(sequence, digest, replica))


def test_a_certificate_is_strong_votes_with_one_digest() -> None:
    kept = votes()
    add(kept, 2, A, 0, 1)
    add(kept, 2, B, 2)
    assert kept.certificate(2) is None
    add(kept, 2, A, 3)
    certificate = kept.certificate(2)
    assert certificate is not None
    assert (certificate.sequence, certificate.digest) == (2, A)
    assert sorted(signed.signer for signed in certificate.checkpoints) == ["r0", "r1", "r3"]


def test_votes_of_other_numbers_do_not_count() -> None:
    kept = votes()
    add(kept, 2, A, 0, 1)
    add(kept, 4, A, 2)
    assert kept.certificate(2) is None
    assert kept.certificate(6) is None


def test_a_replica_counts_with_its_last_word_once() -> None:
    kept = votes()
    add(kept, 2, A, 0, 0, 0, 1)
    assert kept.certificate(2) is None
    add(kept, 2, B, 1)
    add(kept, 2, A, 2)
    assert kept.certificate(2) is None
    said = kept.vote_of(2, 1)
    assert said is not None
    assert said[0].digest == B
    assert kept.vote_of(2, 3) is None


def test_of_each_replica_the_few_that_arrived_last_are_kept() -> None:
    kept = votes(kept=3)
    add(kept, 2, A, 0, 1)
    for sequence in range(100, 200, 2):
        add(kept, sequence, B, 0)
    assert len(kept.own_above(0, 0)) == 3
    assert kept.vote_of(2, 0) is None
    assert kept.vote_of(2, 1) is not None, "it evicts its own only"
    add(kept, 2, A, 0, 2)
    assert kept.certificate(2) is not None, "and is still counted when it is sent again"


def test_saying_the_same_again_does_not_evict() -> None:
    kept = votes(kept=2)
    add(kept, 2, A, 0)
    add(kept, 4, A, 0)
    add(kept, 4, B, 0)
    assert kept.vote_of(2, 0) is not None


def test_what_is_at_or_below_a_stable_checkpoint_is_forgotten() -> None:
    kept = votes()
    for sequence in (2, 4, 6):
        add(kept, sequence, A, 0, 1, 2)
    kept.forget_up_to(4)
    assert kept.certificate(2) is None
    assert kept.certificate(4) is None
    assert kept.certificate(6) is not None
    assert kept.own_above(1, 0) == [WORLD.checkpoint(6, A, 1)]


def test_own_above_is_in_order_of_the_numbers() -> None:
    kept = votes()
    for sequence in (6, 2, 4):
        add(kept, sequence, A, 1)
    assert kept.own_above(1, 2) == [WORLD.checkpoint(n, A, 1) for n in (4, 6)]


def refusal(found: object) -> str:
    """Why it was refused; empty where it was not."""
    return found.reason if isinstance(found, Refusal) else ""


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_prepared_certificate_has_just_as_many_prepares_as_it_needs(replicas: int) -> None:
    """Whatever is beyond that makes the NEW-VIEW larger that it ends up in."""
    world = World(replicas)
    cluster, authenticator = world.cluster, Authenticator(world.cluster, verify)
    needed = list(range(1, 1 + cluster.quorums.prepares))
    for backups, reason in (
        (needed, ""),
        (needed * 2, "more PREPAREs than"),
        ([*needed, needed[-1] + 1], "more PREPAREs than"),
        (needed[:-1], "too few backups"),
        ([*needed[:-1], needed[0]], "a backup twice"),
    ):
        found = check_prepared(certificate(world, 3, backups=backups), cluster, authenticator)
        assert reason in refusal(found)
        assert bool(reason) == isinstance(found, Refusal)


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_checkpoint_certificate_has_no_replica_twice_and_may_have_each(replicas: int) -> None:
    world = World(replicas)
    cluster, authenticator = world.cluster, Authenticator(world.cluster, verify)
    strong = list(range(cluster.quorums.strong))
    for voters, reason in (
        (strong, ""),
        (list(range(replicas)), ""),
        ([*strong, strong[-1]], "a replica twice"),
        (strong * 2, "a replica twice"),
        (strong[:-1], "too few replicas"),
    ):
        found = check_stable(proof(world, 8, B, voters), 8, cluster, authenticator=authenticator)
        assert reason in refusal(found)
        assert bool(reason) == isinstance(found, Refusal)


def test_a_certificate_of_our_own_is_accepted_with_all_the_votes_that_are_here() -> None:
    kept = votes(7)
    add(kept, 8, A, *range(7))
    own = kept.certificate(8)
    assert own is not None
    assert len(own.checkpoints) == 7
    authenticator = Authenticator(WORLD.cluster, verify)
    assert check_stable(own.checkpoints, 8, WORLD.cluster, authenticator=authenticator) == A


def test_the_state_digest_is_a_root_over_the_parts() -> None:
    parts = {"b": b"2", "a": b"1", "c": b""}
    leaves = [(name, digest_of(parts[name])) for name in "abc"]
    assert state_digest(parts) == digest_of(b"pbft-ci state\0" + msgspec.msgpack.encode(leaves))


def test_the_state_digest_does_not_depend_on_the_order_of_insertion() -> None:
    items = [("a", b"1"), ("b", b"2"), ("c", b"3")]
    assert len({state_digest(dict(order)) for order in permutations(items)}) == 1


def test_the_state_digest_changes_with_every_part_and_name() -> None:
    digests = [
        state_digest(parts)
        for parts in (
            {},
            {"a": b""},
            {"a": b"1"},
            {"b": b"1"},
            {"a": b"1", "b": b""},
            {"a": b"", "b": b"1"},
            {"ab": b"1"},
        )
    ]
    assert len(set(digests)) == len(digests)
