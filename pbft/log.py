"""The message log: a slot per sequence number, with the votes kept by replica.

The rule: one voice is one vote by construction. PRE-PREPARE and PREPAREs are those of the
current view; what was prepared or decided in any view stays with the slot until a checkpoint.
"""

from collections.abc import Iterable

import msgspec

from pbft.codec import digest_of
from pbft.messages import Commit, Prepare, PreparedCertificate, PrePrepare, Recover, Request, Signed
from pbft.ports import Executed, SavedMessage, SavedPrepared
from pbft.quorums import Quorums

# The body of the null request is empty: a batch without requests (4.4, "null").
NULL_BODY = b""
NULL_REQUEST = digest_of(NULL_BODY)

# COMMITs of one replica for one slot that are kept, of different views; the newest to arrive stay.
COMMIT_VIEWS_KEPT = 4

# Requests count from 1.
RECOVER_NUMBER = 0


class OrderedRequest(msgspec.Struct, frozen=True):
    """A request (or a replica's RECOVER) inside a batch, decoded and checked once."""

    request: Request | Recover
    signed: Signed
    digest: bytes

    @property
    def key(self) -> tuple[str, int]:
        """Whose and which it is; a RECOVER has no number."""
        request = self.request
        timestamp = request.timestamp if isinstance(request, Request) else RECOVER_NUMBER
        return (self.signed.signer, timestamp)


class Batch(msgspec.Struct, frozen=True):
    """A verified body: its digest, its bytes, and the requests in it."""

    digest: bytes
    body: bytes
    requests: tuple[OrderedRequest, ...]


NULL_BATCH = Batch(NULL_REQUEST, NULL_BODY, ())


class Proposal(msgspec.Struct, frozen=True):
    """The one PRE-PREPARE of the current view that this replica holds for a slot."""

    message: PrePrepare
    signed: Signed


class Prepared(msgspec.Struct, frozen=True):
    """What this replica prepared, in the highest view in which it did, and the proof."""

    view: int
    digest: bytes
    certificate: PreparedCertificate


class Decided(msgspec.Struct, frozen=True):
    """What `strong` COMMITs of one view decided, and the proof."""

    digest: bytes
    commits: tuple[Signed, ...]


class Slot:
    """What is known about one sequence number."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        # Of the current view; `accepted` is set once the body is here, verified and saved.
        self.proposal: Proposal | None = None
        self.accepted: bytes | None = None
        self.prepares: dict[int, tuple[Prepare, Signed]] = {}
        # By replica, then by view: COMMITs of any view decide.
        self.commits: dict[int, dict[int, tuple[Commit, Signed]]] = {}
        # Over all views.
        self.prepared: Prepared | None = None
        self.decided: Decided | None = None
        self.batches: dict[bytes, Batch] = {NULL_REQUEST: NULL_BATCH}
        # What was saved about this slot, in order, to be saved again after a new checkpoint record.
        self.records: list[SavedMessage | SavedPrepared | Executed] = []

    def leave_view(self) -> None:
        """Forget the votes of a view that ended; what they proved stays."""
        self.proposal = None
        self.accepted = None
        self.prepares = {}

    def is_prepared(self, quorums: Quorums) -> bool:
        """The paper's prepared(m, v, n, i): the PRE-PREPARE and 2f matching PREPAREs (4.2)."""
        return self.accepted is not None and len(self.matching_prepares()) >= quorums.prepares

    def matching_prepares(self) -> list[Signed]:
        """The PREPAREs that bear the digest of the accepted PRE-PREPARE, by distinct backups."""
        return [s for vote, s in self.prepares.values() if vote.digest == self.accepted]

    def commit_of(self, replica: int, view: int) -> Commit | None:
        """That replica's COMMIT of that view, where it is kept."""
        vote = self.commits.get(replica, {}).get(view)
        return vote[0] if vote else None

    def add_commit(self, message: Commit, signed: Signed, quorums: Quorums) -> None:
        """Keep a checked COMMIT; decide the slot if it completes `strong` of one view and digest.

        The paper's committed-local also asks for prepared here; `strong` COMMITs imply that f+1
        correct replicas are prepared, so they suffice without a vote of one's own (catch-up).
        """
        views = self.commits.setdefault(message.replica, {})
        views.pop(message.view, None)
        views[message.view] = (message, signed)
        if len(views) > COMMIT_VIEWS_KEPT:
            del views[next(iter(views))]
        if self.decided is None:
            matching = self.matching_commits(message.view, message.digest)
            if len(matching) >= quorums.strong:
                self.decided = Decided(message.digest, tuple(matching))

    def matching_commits(self, view: int, digest: bytes) -> list[Signed]:
        """The COMMITs of that view with that digest, by distinct replicas."""
        return [
            views[view][1]
            for views in self.commits.values()
            if view in views and views[view][0].digest == digest
        ]

    def committed_local(self) -> bool:
        """Whether the batch is decided and its body is here, so that it can be executed."""
        return self.decided is not None and self.decided.digest in self.batches

    def missing_bodies(self) -> list[bytes]:
        """The digests whose bodies this slot waits for."""
        wanted = []
        if self.decided is not None:
            wanted.append(self.decided.digest)
        if self.proposal is not None:
            wanted.append(self.proposal.message.digest)
        return [digest for digest in dict.fromkeys(wanted) if digest not in self.batches]


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
