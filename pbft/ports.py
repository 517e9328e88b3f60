"""All that the core needs of the world, and all that it gives back.

`Output` is an ordering contract, after etcd raft's Ready: the shell handles its fields in the
order in which they stand. If saving fails, nothing after it may happen: the shell keeps the
Output, feeds nothing to the core, and tries to save again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from pbft.messages import Digest, Envelope, PreparedCertificate, Request, Signed

# message -> 64-byte signature by this process's own key
Sign = Callable[[bytes], bytes]
# (public key, message, signature) -> does it hold? Never raises.
Verify = Callable[[bytes, bytes, bytes], bool]


class DeferredReply(msgspec.Struct, frozen=True):
    """A later answer to a request that was executed before: a build's verdict for its requester."""

    client: str
    timestamp: int
    request_digest: bytes
    # kind, subject and result: as in pbft.messages.Reply
    kind: str
    subject: bytes
    result: bytes
    # what the replica signs apart and puts into `Reply.attestation`; empty: nothing
    to_sign: bytes = b""


class Applied(msgspec.Struct, frozen=True):
    """What applying one operation gave.

    `kind`, `subject`, `result` go into the reply; `entries` are appended to the application's
    ledger, in order; `deferred` are the later replies to earlier requests. `successor`: the
    configuration (`Cluster.configuration`, 32 bytes) of the next epoch, if this operation decides
    that there will be one; else empty. It is given once in an epoch.
    """

    kind: str
    subject: bytes = b""
    result: bytes = b""
    entries: tuple["Entry", ...] = ()
    deferred: tuple[DeferredReply, ...] = ()
    successor: bytes = b""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the hash-chained ledger; `head` is the chain's digest after it."""

    index: int
    body: bytes
    head: bytes


class Application(Protocol):
    """The replicated state machine: deterministic, instant, no IO."""

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        """Apply one ordered operation. Never raises: what cannot be done has kind `refused`."""

    def find_deferred(
        self, request: Request, request_digest: bytes
    ) -> "DeferredReply | Refusal | None":
        """The later answer to an executed request; None: there is none; Refusal: it is not known.

        It may read the ledger (through what the shell handed in); `apply` may not.
        """

    def may_delay(self, requests: Sequence[Request]) -> bool:
        """Whether nobody waits for what these requests, ordered together now, would bring about.

        Only a primary asks, about when it orders them: it changes nothing, and replicas may differ.
        """

    def end_epoch(self) -> tuple["Entry", ...]:
        """The last number of this epoch was executed: end what cannot go on in the next one.

        The entries are appended to the ledger, in order. Nobody is answered: clients ask again in
        the next epoch, with the numbers 1, 2, 3 ... anew.
        """

    def parts(self) -> dict[str, bytes]:
        """The whole replicated state as named parts, each bounded and deterministic."""

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """Replace the state by these parts, as `parts` gave them."""


# --- records: what must be on disk before anything is sent -------------------------------------


class SavedMessage(msgspec.Struct, frozen=True, array_like=True, tag="message"):
    """A message of the log: one we said, or one that proves what we said."""

    signed: Signed


class SavedBody(msgspec.Struct, frozen=True, array_like=True, tag="body"):
    """The body of an accepted PRE-PREPARE, found again by its digest.

    A faulty primary may order one body under several numbers: it is kept for the highest of them.
    """

    sequence: int
    digest: Digest
    body: bytes


class SavedPrepared(msgspec.Struct, frozen=True, array_like=True, tag="prepared"):
    """The certificate behind a COMMIT of ours: what a VIEW-CHANGE has to report (4.4)."""

    certificate: PreparedCertificate


class Executed(msgspec.Struct, frozen=True, array_like=True, tag="executed"):
    """The batch with this digest is executed; after a restart it is executed again.

    `commits` decided it: for peers that missed them.
    """

    sequence: int
    digest: Digest
    commits: tuple[Signed, ...]


class SavedRecovery(msgspec.Struct, frozen=True, array_like=True, tag="recovery"):
    """We lost what we said and ask to take part again, by this nonce; empty: we do again."""

    nonce: bytes


class SavedEntry(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    """A ledger entry, kept for ever, apart from the other records."""

    entry: Entry


class CheckpointRecord(msgspec.Struct, frozen=True, array_like=True, tag="base"):
    """The start of a new generation of records: the state at a stable checkpoint.

    All older records (but ledger entries) may be deleted in the same transaction, and bodies of
    sequence numbers up to `kept_above`: what is still needed follows as records of this Output.
    """

    sequence: int
    kept_above: int
    certificate: tuple[Signed, ...]
    parts: dict[str, bytes]


Record = (
    SavedMessage
    | SavedBody
    | SavedPrepared
    | SavedRecovery
    | Executed
    | SavedEntry
    | CheckpointRecord
)

# --- the rest of the output ---------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """One message to one member by name, or to all other replicas (`to` is None)."""

    to: str | None
    envelope: Envelope


class ExecutedRequest(msgspec.Struct, frozen=True):
    """One request was executed here: what was asked, by whom, and what it gave."""

    sequence: int
    signed: Signed
    request: Request
    applied: Applied


class Event(msgspec.Struct, frozen=True):
    """A log event: logs, metrics, the dashboard and golden traces print these."""

    name: str
    details: dict[str, str | int | None]


class Refusal(msgspec.Struct, frozen=True):
    """A message that was not accepted, and why. Another's fault is a value, not an exception."""

    reason: str


SENT_BACK = Refusal("a message of our own, sent back to us")


class Evidence(msgspec.Struct, frozen=True, array_like=True):
    """Two messages that one correct replica never signs both: proof of misbehaviour."""

    replica: int
    first: Signed
    second: Signed


class Output(msgspec.Struct, kw_only=True):
    """What one turn of the core asks of its shell: the order of the fields is the contract."""

    # 1. Durable: both are saved in one transaction, before anything below is done.
    # What this replica has to remember of what it sends, in the order in which it is restored.
    records: list[Record] = []
    # Proofs that another replica contradicted itself. They are kept for people: no turn needs them.
    evidence: list[Evidence] = []

    # 2. To send, once 1 is on disk. Messages may be lost, so a crash from here on does no harm.
    messages: list[Send] = []

    # 3. To apply: what was executed in this turn, in order. The core has applied it to the
    # application already; the shell follows it (pending builds, ballots, metrics).
    executed: list[ExecutedRequest] = []

    # 4. To emit: log events. Nothing depends on them.
    events: list[Event] = []

    # 5. To arm: when `Replica.handle_timer` is due, on the clock that `now` is read from. It
    # replaces the deadline of earlier Outputs. None, from `restore` alone: the timer stays.
    deadline: float | None = None
