"""Proof of misbehaviour: what two messages prove to anybody who has the genesis."""

import itertools

import pytest

from pbft.evidence import check_evidence
from pbft.genesis import Cluster
from pbft.messages import AnyMessage, Checkpoint, Commit, Prepare, PrePrepare, Signed, ViewChange
from pbft.ports import Evidence, Refusal
from tests.pbft.forge import (
    FALSE,
    SAID,
    backup_with_pre_prepare,
    certificate,
    new_view,
    view_change,
    with_bad_signature,
)
from tests.pbft.world import World, verify

TRUE = bytes(32)
WORLD = World()

# Two words of r2 that no correct replica says both.
CONTRADICTIONS: dict[str, tuple[AnyMessage, AnyMessage]] = {
    "PRE-PREPARE": (PrePrepare(2, 1, TRUE, 2), PrePrepare(2, 1, FALSE, 2)),
    "PREPARE": (Prepare(0, 1, TRUE, 2), Prepare(0, 1, FALSE, 2)),
    "COMMIT": (Commit(3, 4, TRUE, 2), Commit(3, 4, FALSE, 2)),
    "CHECKPOINT": (Checkpoint(8, TRUE, 2), Checkpoint(8, FALSE, 2)),
    "VIEW-CHANGE": (
        ViewChange(1, 0, (), (), 2),
        ViewChange(1, 0, (), (certificate(WORLD, 1),), 2),
    ),
}

# Two that a correct replica may say.
COMPATIBLE: dict[str, tuple[AnyMessage, AnyMessage]] = {
    "another view": (Prepare(0, 1, TRUE, 2), Prepare(1, 1, FALSE, 2)),
    "another number": (Prepare(0, 1, TRUE, 2), Prepare(0, 2, FALSE, 2)),
    "another type": (Prepare(0, 1, TRUE, 2), Commit(0, 1, FALSE, 2)),
    "a PRE-PREPARE and a PREPARE": (PrePrepare(0, 1, TRUE, 2), Prepare(0, 1, FALSE, 2)),
    "another checkpoint": (Checkpoint(8, TRUE, 2), Checkpoint(16, FALSE, 2)),
    "another view to change to": (ViewChange(1, 0, (), (), 2), ViewChange(2, 0, (), (), 2)),
}


def check(first: Signed, second: Signed) -> Refusal | str:
    return check_evidence(first, second, WORLD.cluster, verify=verify)


def refused(first: Signed, second: Signed) -> str:
    assert isinstance(check(second, first), Refusal)
    result = check(first, second)
    assert isinstance(result, Refusal), result
    return result.reason


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_two_contradicting_words_of_one_replica_are_proof_in_any_order(kind: str) -> None:
    first, second = (WORLD.sign("r2", message) for message in CONTRADICTIONS[kind])
    for pair in ((first, second), (second, first)):
        proved = check(*pair)
        assert not isinstance(proved, Refusal)
        assert proved.startswith("r2 signed two different ")


@pytest.mark.parametrize("kind", COMPATIBLE)
def test_words_about_different_things_prove_nothing(kind: str) -> None:
    first, second = (WORLD.sign("r2", message) for message in COMPATIBLE[kind])
    assert "different things" in refused(first, second)


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_the_same_word_twice_proves_nothing(kind: str) -> None:
    for message in CONTRADICTIONS[kind]:
        signed = WORLD.sign("r2", message)
        assert refused(signed, signed) == "both say the same"


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_forged_word_proves_nothing(kind: str) -> None:
    first, second = (WORLD.sign("r2", message) for message in CONTRADICTIONS[kind])
    assert refused(first, with_bad_signature(second)) == "bad signature"
    stolen = WORLD.sign("r3", CONTRADICTIONS[kind][1])
    assert "not the replica" in refused(first, stolen)
    claimed = Signed("r2", stolen.payload, stolen.signature)
    assert refused(first, claimed) == "bad signature"


def test_words_of_two_replicas_prove_nothing() -> None:
    assert "two different replicas" in refused(
        WORLD.prepare(1, TRUE, 2), WORLD.prepare(1, FALSE, 3)
    )


def test_words_of_another_cluster_or_epoch_prove_nothing() -> None:
    """The same keys may be used in a test cluster."""
    later = Cluster(WORLD.cluster.genesis)
    later.epoch = 1
    for other in (World(7).cluster, later):
        first, second = (WORLD.sign("r2", m, other) for m in CONTRADICTIONS["PREPARE"])
        assert refused(WORLD.sign("r2", CONTRADICTIONS["PREPARE"][0]), second) == "bad signature"
        assert refused(first, second) == "bad signature"


def test_noise_proves_nothing() -> None:
    noise = Signed("r2", b"noise", bytes(64))
    assert refused(noise, WORLD.prepare(1, TRUE, 2)).startswith("malformed")


def test_nothing_but_votes_and_view_changes_can_contradict() -> None:
    """All pairs of messages of all types that one replica may say in its life."""
    proofs = set()
    for one, other in itertools.combinations(SAID, 2):
        proved = check(WORLD.sign("r2", one), WORLD.sign("r2", other))
        if not isinstance(proved, Refusal):
            proofs.add((type(one), type(other)))
    assert proofs == {(Prepare, Prepare)}


# --- what a replica keeps -----------------------------------------------------------------------


def kept(world: World, name: str = "r1") -> list[Evidence]:
    return [evidence for output in world.outputs[name] for evidence in output.evidence]


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_replica_that_hears_both_keeps_both_and_they_are_proof(kind: str) -> None:
    world = World(checkpoint_interval=8, window=16)
    first, second = CONTRADICTIONS[kind]
    if kind == "PRE-PREPARE":
        backup_with_pre_prepare(world)
        _, signed, body = world.pre_prepare(1, [world.request(1, b"another")])
        world.give("r1", signed, body)
    else:
        for message in (first, second):
            world.give("r1", world.sign("r2", message))
    (evidence,) = kept(world)
    assert evidence.replica == (0 if kind == "PRE-PREPARE" else 2)
    proved = check_evidence(evidence.first, evidence.second, world.cluster, verify=verify)
    assert not isinstance(proved, Refusal)
    assert world.emitted("r1", "equivocation") == [{"replica": evidence.replica}]


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_forged_second_word_is_kept_by_nobody(kind: str) -> None:
    world = World(checkpoint_interval=8, window=16)
    first, second = CONTRADICTIONS[kind]
    if kind == "PRE-PREPARE":
        backup_with_pre_prepare(world)
        _, signed, body = world.pre_prepare(1, [world.request(1, b"another")])
        world.refuse("r1", with_bad_signature(signed), body)
    else:
        world.give("r1", world.sign("r2", first))
        world.refuse("r1", with_bad_signature(world.sign("r2", second)))
    assert kept(world) == []


def test_a_view_change_whose_certificates_do_not_hold_is_no_proof_of_a_second_word() -> None:
    """It is refused for what is in it first; what is wrong in itself needs no second message."""
    world = World()
    world.give("r1", view_change(world, 2, 1))
    bad = view_change(world, 2, 1, prepared=[certificate(world, 1, backups=(1,))])
    assert "too few backups" in world.refuse("r1", bad)
    assert kept(world) == []


def test_correct_replicas_give_no_evidence_over_a_whole_run_of_view_changes_and_restarts() -> None:
    world = World(checkpoint_interval=2, window=4)
    for timestamp in range(1, 7):
        world.ask(timestamp, b"%d" % timestamp)
        if timestamp % 3 == 0:
            name = world.names[
                world.cluster.primary(max(r.core.view for r in world.replicas.values()))
            ]
            world.crash(name)
            world.run(8)
            world.start(name)
            world.connect(name)
        world.run(2)
    assert max(replica.core.view for replica in world.replicas.values()) >= 2
    assert len(world.client_output.accepted) == 6
    assert all(kept(world, name) == [] for name in world.names)
    said = {m.envelope.signed.payload: m.envelope.signed for m in world.sent}
    by_signer: dict[str, list[Signed]] = {}
    for signed in said.values():
        by_signer.setdefault(signed.signer, []).append(signed)
    for name in world.names:
        for one, other in itertools.combinations(by_signer[name][:80], 2):
            assert isinstance(check_evidence(one, other, world.cluster, verify=verify), Refusal)


def test_a_second_new_view_for_the_view_that_was_entered_is_kept() -> None:
    """Both may be right in every part, from two sets of VIEW-CHANGEs: a primary signs but one."""
    world = World()
    changes = [view_change(world, replica, 1) for replica in (0, 1, 2, 3)]
    first = new_view(world, 1, changes[:3])
    second = new_view(world, 1, changes[1:])
    world.give("r2", first)
    assert "left or entered" in world.refuse("r2", first)
    assert kept(world, "r2") == []
    assert world.refuse("r2", with_bad_signature(second)) == "bad signature"
    assert kept(world, "r2") == []
    output = world.give("r2", second)
    assert (output.records, world.core("r2").views.new_view) == ([], first)
    assert kept(world, "r2") == [Evidence(1, first, second)]
    proved = check(first, second)
    assert proved == "r1 signed two different NewView messages for view 1"
    assert check(first, first) == Refusal("both say the same")


def test_a_new_view_of_somebody_else_proves_nothing() -> None:
    world = World()
    changes = [view_change(world, replica, 1) for replica in (0, 1, 2)]
    world.give("r2", new_view(world, 1, changes))
    assert "left or entered" in world.refuse("r2", new_view(world, 1, changes, replica=3))
    assert kept(world, "r2") == []
