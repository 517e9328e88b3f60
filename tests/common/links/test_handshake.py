"""Both ends of a link prove themselves, the dialler first, and a proof serves for one link."""

import msgspec
import pytest

from common.configuration.keys import SigningKey
from common.links.handshake import PROOF_SECONDS, Handshakes, Leaves, LinkRefused
from pbft.authentication import Identity
from pbft.genesis import FORMAT_VERSION, Cluster, Genesis, Member

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "r1", "client")}


def cluster_of(window: int = 256, epoch: int = 0) -> Cluster:
    r0 = Member("r0", KEYS["r0"].public_key, ("replica",))
    others = tuple(Member(name, KEYS[name].public_key, ("gateway",)) for name in ("r1", "client"))
    cluster = Cluster(Genesis(FORMAT_VERSION, (r0,), others, 128, window, 256, b""))
    cluster.epoch = epoch
    return cluster


def end(name: str, cluster: Cluster | None = None) -> Handshakes:
    return Handshakes(Identity(cluster or cluster_of(), name, KEYS[name].sign))


def test_both_ends_know_each_other_after_four_messages() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    peer, proof = r0.accept(dialling.proof, 5.1)
    assert peer == "r1"
    r1.complete(dialling, proof)


def test_a_proof_counts_once() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    r0.accept(dialling.proof, 5.0)
    with pytest.raises(LinkRefused, match="used before"):
        r0.accept(dialling.proof, 5.0)
    assert r0.accept(r1.answer(r0.offer(5.0), "r0").proof, 5.0)[0] == "r1"


def test_a_proof_that_comes_late_does_not_count() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    with pytest.raises(LinkRefused, match="took longer"):
        r0.accept(dialling.proof, 5.1 + PROOF_SECONDS)


def test_a_challenge_of_another_life_does_not_count() -> None:
    r1 = end("r1")
    dialling = r1.answer(end("r0").offer(5.0), "r0")
    with pytest.raises(LinkRefused, match="another challenge"):
        end("r0").accept(dialling.proof, 5.0)


def test_nobody_signs_for_who_has_proved_nothing() -> None:
    """The reflection: what r0 asks of "r1" cannot be had of r1, who signs as an acceptor, too."""
    r0, r1 = end("r0"), end("r1")
    asked = r0.offer(5.0)
    # r1's own challenge, proved by nobody who has a key: there is nothing to answer with
    assert asked != r1.offer(5.0)
    dialling = end("client").answer(r1.offer(5.0), "r1")
    _, signed_by_r1 = r1.accept(dialling.proof, 5.0)
    with pytest.raises(LinkRefused):
        r0.accept(signed_by_r1, 5.0)
    with pytest.raises(LinkRefused):
        r1.accept(dialling.proof, 5.0)
    with pytest.raises(LinkRefused, match="somebody else"):
        r0.accept(dialling.proof, 5.0)


@pytest.mark.parametrize(
    "field", ["role", "dialler", "acceptor", "dialler_challenge", "acceptor_challenge"]
)
def test_each_field_is_part_of_the_acceptors_proof(field: str) -> None:
    """A proof for another handshake is none for this one."""
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    _, proof = r0.accept(dialling.proof, 5.0)
    other = {"role": "acceptor", "dialler": "client", "acceptor": "client"}.get(field, bytes(32))
    hello = msgspec.structs.replace(dialling.hello, **{field: other})
    if field == "role":
        proof = dialling.proof
        hello = dialling.hello
    with pytest.raises(LinkRefused):
        r1.complete(msgspec.structs.replace(dialling, hello=hello), proof)


def test_a_proof_for_another_cluster_is_none() -> None:
    mine, theirs = cluster_of(), cluster_of(window=512)
    assert mine.id != theirs.id
    with pytest.raises(LinkRefused, match="another cluster"):
        end("r1", theirs).answer(end("r0", mine).offer(5.0), "r0")


def test_a_proof_of_another_epoch_is_none() -> None:
    r0, r1 = end("r0"), end("r1", cluster_of(epoch=1))
    with pytest.raises(LinkRefused, match="did not prove"):
        r0.accept(r1.answer(r0.offer(5.0), "r0").proof, 5.0)


LEAVES = Leaves(dialler=b"d" * 32, acceptor=b"a" * 32)


def test_over_tls_both_ends_know_each_other_too() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0", LEAVES)
    peer, proof = r0.accept(dialling.proof, 5.1, LEAVES)
    assert peer == "r1"
    r1.complete(dialling, proof)


@pytest.mark.parametrize(
    ("signed_for", "came_over"),
    [
        (LEAVES, Leaves(b"x" * 32, LEAVES.acceptor)),
        (LEAVES, Leaves(LEAVES.dialler, b"x" * 32)),
        (LEAVES, Leaves(LEAVES.acceptor, LEAVES.dialler)),
        (LEAVES, None),
        (None, LEAVES),
    ],
    ids=["another dialler's", "another acceptor's", "swapped", "without TLS", "made without TLS"],
)
def test_a_proof_is_bound_to_both_certificates(
    signed_for: Leaves | None, came_over: Leaves | None
) -> None:
    """Who passes proofs on between two TLS connections shows another certificate in each."""
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0", signed_for)
    with pytest.raises(LinkRefused, match=r"another TLS connection|not the words"):
        r0.accept(dialling.proof, 5.0, came_over)
