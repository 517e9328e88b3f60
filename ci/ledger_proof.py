"""That `strong` replicas had the same ledger up to an entry: a checkpoint's certificate opened up.

A CHECKPOINT signs the root over the leaves of the replicated state (4.3); the ledger's length and
head are one of its parts. So the certificate, the leaves and that one part prove the head.
"""

from collections.abc import Mapping

import msgspec

from ci.state_partitions import LEDGER_PART, CorruptState, ledger_position
from pbft.authentication import Authenticator
from pbft.certificates import check_stable, leaves_digest, state_leaves
from pbft.codec import digest_of
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Refusal, Verify


class LedgerProof(msgspec.Struct, frozen=True):
    """sequence: the checkpoint's. leaves: (name, SHA-256) of each part of the state."""

    sequence: int
    checkpoints: tuple[Signed, ...]
    leaves: tuple[tuple[str, bytes], ...]
    ledger_part: bytes


class ProvedLedger(msgspec.Struct, frozen=True):
    """The ledger's length and head (32 bytes) at a checkpoint, and the replicas that signed it."""

    sequence: int
    index: int
    head: bytes
    replicas: tuple[str, ...]


def ledger_proof(
    sequence: int, checkpoints: tuple[Signed, ...], parts: Mapping[str, bytes]
) -> LedgerProof:
    """The proof, from a stable checkpoint's certificate and the parts of its state."""
    return LedgerProof(sequence, checkpoints, state_leaves(parts), parts[LEDGER_PART])


def check_ledger_proof(
    proof: LedgerProof, cluster: Cluster, verify: Verify
) -> ProvedLedger | Refusal:
    """What the proof proves to somebody who trusts this genesis, or why nothing."""
    authenticator = Authenticator(cluster, verify)
    digest = check_stable(proof.checkpoints, proof.sequence, cluster, authenticator=authenticator)
    if isinstance(digest, Refusal):
        return digest
    if leaves_digest(proof.leaves) != digest:
        return Refusal("the leaves' root is not the certified digest")
    if (LEDGER_PART, digest_of(proof.ledger_part)) not in proof.leaves:
        return Refusal("the ledger's part has not its leaf's digest")
    try:
        index, head = ledger_position({LEDGER_PART: proof.ledger_part})
    except CorruptState as error:
        return Refusal(str(error))
    signed_by = {signed.signer for signed in proof.checkpoints}
    names = tuple(name for name in cluster.replica_names if name in signed_by)
    return ProvedLedger(proof.sequence, index, head, names)
