"""What the correct replicas of one run have said and executed so far: the checkers' memory."""

import hashlib

import msgspec

from pbft.messages import Signed
from pbft.ports import Entry, ExecutedRequest

Slot = tuple[int, int]
Claim = tuple[int, int, bytes]


class ExecutedBatch(msgspec.Struct, frozen=True):
    """What executing one sequence number did, on every correct replica."""

    digest: bytes
    requests: tuple[ExecutedRequest, ...]


def effect_digest(requests: list[ExecutedRequest]) -> bytes:
    """One digest over everything that an execution did."""
    hasher = hashlib.sha256()
    for executed in requests:
        applied = executed.applied
        for data in (executed.signed.payload, applied.kind.encode(), applied.result):
            hasher.update(len(data).to_bytes(8, "big"))
            hasher.update(data)
        for reply in applied.deferred:
            hasher.update(reply.result)
    return hasher.digest()


class History:
    """Voices are bits: bit i stands for correct replica i."""

    def __init__(self) -> None:
        # (message type, replica, view, sequence) -> what was said
        self.said: dict[tuple[str, int, int, int], bytes] = {}
        # (view, sequence, digest) -> who recorded PRE-PREPARE or PREPARE / sent COMMIT
        self.agreed: dict[Claim, int] = {}
        self.committed_by: dict[Claim, int] = {}
        # (view, sequence) -> the digest that somebody prepared
        self.prepared: dict[Slot, bytes] = {}
        # sequence -> (the first view in which f+1 sent COMMIT, digest)
        self.committed: dict[int, tuple[int, bytes]] = {}
        # view -> who recorded VIEW-CHANGE to it
        self.view_changes: dict[int, int] = {}
        # replica -> sequence -> the highest view in which it sent COMMIT
        self.own_commits: dict[int, dict[int, int]] = {}
        # sequence -> state digest, who said it in a CHECKPOINT
        self.states: dict[int, bytes] = {}
        self.checkpoints: dict[tuple[int, bytes], int] = {}
        self.executed: dict[int, ExecutedBatch] = {}
        self.valid_bodies: dict[bytes, None] = {}
        self.batch_digests: dict[int, bytes] = {}
        # (client, timestamp) -> (sequence, index in its batch), and what it gave
        self.positions: dict[tuple[str, int], tuple[int, int]] = {}
        self.results: dict[tuple[str, int], ExecutedRequest] = {}
        self.ledger: list[Entry] = []
        # (replica, its life, payload) -> how often that request was handed on
        self.forwarded: dict[tuple[str, int, bytes], int] = {}
        # replica -> the highest number that it voted on, ever and before its disk was damaged
        self.voted_up_to: dict[str, int] = {}
        self.lost_up_to: dict[str, int] = {}
        # payloads that correct members really asked for
        self.issued: dict[bytes, None] = {}
        # the last position of all requests that were answered, by time of asking others
        self.answered_up_to: tuple[int, int] = (0, 0)
        self.asked_after: dict[tuple[str, int], tuple[int, int]] = {}

    def issue(self, signed: Signed) -> None:
        """A correct member asks for this."""
        self.issued[signed.payload] = None
