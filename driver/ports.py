"""What a driver needs of the world around one replica: its disk, its builder, its links, its log.

The node gives it SQLite, tasks and links; the simulator gives it a disk and builds in virtual
time. There is no clock here: each call takes `now`, seconds of a monotonic clock, as in pbft.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from ci.assignments import Key
from ci.ballots import ReplicaRequest
from ci.executors import StartReason
from ci.ledger_gap import LedgerGap, LedgerPage
from ci.limits import Limits
from ci.operations import Event
from pbft.messages import Signed
from pbft.ports import Record


class SaveFailed(Exception):
    """The disk refuses (full, input/output error): nothing is promised, and it may be repeated."""


class BuildOrder(msgspec.Struct, frozen=True):
    """A build that this replica is to run."""

    # its id
    build: bytes
    # the sequence number that opened it
    opened: int
    # the URL
    repository: str
    branch: str
    # the full id; None if the request says "no such branch"
    commit: str | None
    # those that it was opened under
    limits: Limits
    event: Event = Event.PUSH
    # the full ref that the commit must be on; None: refs/heads/<branch>
    ref: str | None = None
    # if the pipeline asks for weak agreement, other replicas are to build it instead
    is_spare: bool = False
    # which schedule was due; None for all events but cron
    schedule: str | None = None
    # without caches
    is_cold: bool = False

    @property
    def key(self) -> Key:
        """The build's id, and the sequence number that opened it."""
        return (self.build, self.opened)


# --- the disk -----------------------------------------------------------------------------------


class RecordDisk(Protocol):
    """What a replica restarts from."""

    def records(self) -> Sequence[Record]:
        """The records from the last checkpoint on, in order, without bodies and ledger entries."""

    def bodies(self) -> dict[bytes, bytes]:
        """The saved bodies by digest."""

    def agree_ledger(self, index: int, head: bytes) -> None:
        """Compare the ledger's end with what execution came to; drop what lies beyond it.

        Raises the disk's own error if it ends otherwise, and SaveFailed.
        """


class RequestDisk(Protocol):
    """The requests that a replica makes as a client of its own group."""

    def pending_requests(self) -> Iterable[ReplicaRequest]:
        """Those that were not seen executed, lowest timestamp first."""

    def has_request(self, purpose: str, key: Key) -> bool:
        """Whether the replica has made that request about that build."""

    def last_timestamp(self) -> int:
        """The highest timestamp that the replica gave to a request of its own."""

    def add_request(self, request: ReplicaRequest, instead_of: int | None) -> None:
        """Save a request and its timestamp in one commit. Raises SaveFailed.

        It may be sent after `secure_requests`. instead_of: the timestamp that it had before.
        """

    def secure_requests(self) -> None:
        """Make sure that losing a saved request would be noticed. Raises SaveFailed."""

    def forget_requests(self, timestamps: Sequence[int]) -> None:
        """Note that these are pending no more. The note may be lost."""


class LedgerDisk(Protocol):
    """The ledger, as far as entries are missing in it."""

    def next_gap(self) -> LedgerGap | None:
        """The gap to fill first; None if the ledger is whole."""

    def fill_gap(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """Check a page (`ci.ledger_gap.shrink`) and save it; whether that closed the gap.

        Keeps nothing if the gap has changed meanwhile. Raises WrongEntries, SaveFailed: then
        nothing changed.
        """


# --- the rest -----------------------------------------------------------------------------------


class Builder(Protocol):
    """Runs builds. It reports the end of each to the `BuildScheduler`, unless it was stopped."""

    def begin(self, order: BuildOrder, reason: StartReason) -> None:
        """Run this build."""

    def stop(self, key: Key) -> None:
        """Break this build off: its ballot is not wanted any more."""


class Transport(Protocol):
    """The links to all replicas."""

    def ask(self, signed: Signed) -> None:
        """Send a request of the replica's own to all replicas, this one included."""


class Log(Protocol):
    """As much of `logging.Logger` as is needed here."""

    def warning(self, text: str, /) -> None:
        """Log something that an operator should know."""

    def error(self, text: str, /) -> None:
        """Log something that an operator should mend."""
