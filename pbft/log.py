"""The message log: a slot per sequence number, with the votes kept by replica.

The rule: one voice is one vote by construction, and a replica's first vote for a slot stands.
"""

from collections.abc import Iterable

import msgspec

from pbft.messages import Commit, Prepare, PrePrepare, Request, Signed
from pbft.ports import Executed, SavedMessage
from pbft.quorums import Quorums


class OrderedRequest(msgspec.Struct, frozen=True):
    """A request inside a batch, decoded and checked once."""

    request: Request
    signed: Signed
    digest: bytes


class Batch(msgspec.Struct, frozen=True):
    """A PRE-PREPARE of the primary together with the verified body that its digest covers."""

    pre_prepare: PrePrepare
    signed: Signed
    body: bytes
    requests: tuple[OrderedRequest, ...]


class Slot:
    """What is known about one sequence number in one view."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        # The digest that this replica accepted a PRE-PREPARE for; it never changes in a view.
        self.accepted: bytes | None = None
        self.prepares: dict[int, tuple[Prepare, Signed]] = {}
        self.commits: dict[int, tuple[Commit, Signed]] = {}
        # By digest: the accepted batch and, should that differ, the committed one.
        self.batches: dict[bytes, Batch] = {}
        # What was saved about this slot, in order, to be saved again after a new base.
        self.records: list[SavedMessage | Executed] = []

    def prepared(self, quorums: Quorums) -> bool:
        """The paper's prepared(m, v, n, i): the PRE-PREPARE and 2f matching PREPAREs (4.2)."""
        return self.accepted is not None and len(self.matching_prepares()) >= quorums.prepares

    def matching_prepares(self) -> list[Signed]:
        """The PREPAREs that bear the digest of the accepted PRE-PREPARE, by distinct backups."""
        return [s for vote, s in self.prepares.values() if vote.digest == self.accepted]

    def committed_digest(self, quorums: Quorums) -> bytes | None:
        """The digest for which `strong` replicas sent COMMIT, if there is one.

        The paper's committed-local also asks for prepared here; `strong` COMMITs imply that f+1
        correct replicas are prepared, so they suffice without a vote of one's own (catch-up).
        """
        counts: dict[bytes, int] = {}
        for vote, _ in self.commits.values():
            counts[vote.digest] = counts.get(vote.digest, 0) + 1
        return next((d for d, count in counts.items() if count >= quorums.strong), None)

    def committed_local(self, quorums: Quorums) -> bool:
        """Whether the batch is decided and its body is here, so that it can be executed."""
        digest = self.committed_digest(quorums)
        return digest is not None and digest in self.batches

    def matching_commits(self, digest: bytes) -> list[Signed]:
        """The COMMITs that bear this digest, by distinct replicas."""
        return [signed for vote, signed in self.commits.values() if vote.digest == digest]


class MessageLog:
    """The slots above the low water mark."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}

    def slot(self, sequence: int) -> Slot:
        """The slot of that number, made if need be. The caller checks the water marks."""
        slot = self._slots.get(sequence)
        if slot is None:
            slot = self._slots[sequence] = Slot(sequence)
        return slot

    def find(self, sequence: int) -> Slot | None:
        """The slot of that number, if anything is known about it."""
        return self._slots.get(sequence)

    def above(self, sequence: int) -> Iterable[Slot]:
        """The slots above that number, in order."""
        return (self._slots[n] for n in sorted(self._slots) if n > sequence)

    def forget_up_to(self, sequence: int) -> None:
        """Garbage collection below a stable checkpoint (4.3)."""
        self._slots = {n: slot for n, slot in self._slots.items() if n > sequence}

    def __len__(self) -> int:
        return len(self._slots)
