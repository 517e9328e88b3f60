"""The certificate of a checkpoint proves the ledger's head, and nothing else does."""

import msgspec
import pytest

from ci.ledger_proof import LedgerProof, ProvedLedger, check_ledger_proof, ledger_proof
from ci.state_partitions import LEDGER_PART
from pbft.authentication import Identity, sign_message
from pbft.certificates import state_digest
from pbft.codec import digest_of, encode_message
from pbft.messages import Checkpoint, Signed
from pbft.ports import Refusal
from tests.ci.builders import PASSED, World, cluster_of, signing_key, verify

SEQUENCE = 128


def sign(name: str, digest: bytes, world: World, sequence: int = SEQUENCE) -> Signed:
    index = world.cluster.replica_names.index(name)
    message = Checkpoint(sequence, digest, index)
    key = signing_key(name)
    return sign_message(
        message,
        encode_message(message),
        Identity(world.cluster, name, lambda data: key.sign(data).signature),
    )


@pytest.fixture(name="world")
def fixture_world() -> World:
    world = World()
    build = world.open()
    for index in range(3):
        world.cast(build, index, PASSED)
    return world


@pytest.fixture(name="proof")
def fixture_proof(world: World) -> LedgerProof:
    parts = {"epoch": bytes(8), **world.application.parts()}
    digest = state_digest(parts)
    signed = tuple(sign(f"replica-{index}", digest, world) for index in range(3))
    return ledger_proof(SEQUENCE, signed, parts)


def reason(proof: LedgerProof, world: World) -> str:
    proved = check_ledger_proof(proof, world.cluster, verify)
    assert isinstance(proved, Refusal)
    return proved.reason


def test_it_proves_index_and_head(world: World, proof: LedgerProof) -> None:
    proved = check_ledger_proof(proof, world.cluster, verify)
    application = world.application
    names = ("replica-0", "replica-1", "replica-2")
    assert proved == ProvedLedger(
        SEQUENCE, application.ledger_index, application.ledger_head, names
    )


def test_fewer_than_2f_plus_1_prove_nothing(world: World, proof: LedgerProof) -> None:
    two = proof.checkpoints[:2]
    assert "too few" in reason(msgspec.structs.replace(proof, checkpoints=two), world)
    again = (*two, two[0])
    assert "twice" in reason(msgspec.structs.replace(proof, checkpoints=again), world)
    assert reason(msgspec.structs.replace(proof, checkpoints=()), world)


def test_a_signature_that_does_not_hold_proves_nothing(world: World, proof: LedgerProof) -> None:
    spoilt = msgspec.structs.replace(proof.checkpoints[0], signature=bytes(64))
    forged = msgspec.structs.replace(proof, checkpoints=(spoilt, *proof.checkpoints[1:]))
    assert "does not hold" in reason(forged, world)


def test_another_ledger_does_not_fit_the_leaves(world: World, proof: LedgerProof) -> None:
    other = World().application.parts()[LEDGER_PART]
    assert "leaf" in reason(msgspec.structs.replace(proof, ledger_part=other), world)
    leaves = tuple(
        (name, digest_of(other) if name == LEDGER_PART else digest) for name, digest in proof.leaves
    )
    both = msgspec.structs.replace(proof, ledger_part=other, leaves=leaves)
    assert "root" in reason(both, world)


def test_another_checkpoint_or_cluster_is_refused(world: World, proof: LedgerProof) -> None:
    assert reason(msgspec.structs.replace(proof, sequence=SEQUENCE * 2), world)
    proved = check_ledger_proof(proof, cluster_of(7), verify)
    assert isinstance(proved, Refusal)
