"""One turn of a replica: drain what arrived, feed the core, save; then send, apply, report, arm.

The rule: whatever a replica says is on disk before it is sent, and while a turn is not on disk,
nothing is fed in. Both hold by construction: a shell gets the messages of a turn only from
`Turn.saved`, and there is no next turn before that call. A save that the disk refuses changes
nothing here: the shell tries again with the same `Turn.to_save`, for as long as it takes.
"""

from collections.abc import Callable, Sequence

from ci.operations import CastBallot, MalformedOperation, decode_operation
from pbft.messages import Envelope, Signed
from pbft.ports import Evidence, ExecutedRequest, Output, Record
from pbft.replica import Replica

# Build, the sequence number that opened it, replica, its signed request.
ExecutedBallot = tuple[bytes, int, str, Signed]
# (outputs of a turn, whether the last of them is that of an expired timer)
Watch = Callable[[list[Output], bool], None]


class ToSave:
    """What one turn puts on disk, all of it in one commit."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.records: list[Record] = []
        self.evidence: list[Evidence] = []
        for output in outputs:
            self.records += output.records
            self.evidence += output.evidence
        self._outputs = outputs

    @property
    def ballots(self) -> list[ExecutedBallot]:
        """The ballots that were executed in this turn."""
        return executed_ballots(self._outputs)


class Turn:
    """What the core gave in one turn. Nothing of it may be seen outside before it is saved.

    to_save: what has to be on disk first; None: nothing.
    """

    def __init__(self, outputs: list[Output], release: Callable[[], None]) -> None:
        to_save = ToSave(outputs)
        self.to_save = to_save if to_save.records or to_save.evidence else None
        self._outputs = outputs
        self._release = release

    def saved(self) -> list[Output]:
        """The shell says that `to_save` is on disk: what to send, apply and report now."""
        self._release()
        return self._outputs


class TurnDriver:
    """Feeds one replica, turn by turn.

    watch: sees each turn before it is saved; for checkers that look on from outside.
    """

    def __init__(self, replica: Replica, watch: Watch | None = None) -> None:
        self.replica = replica
        # What arrived since the last turn.
        self.inbox: list[Envelope] = []
        self.inbox_bytes = 0
        # When the core wants to be woken, in seconds of the clock that `begin` is given.
        self.deadline = 0.0
        self._connected: dict[str, None] = {}  # an ordered set
        self._is_unsaved = False
        self._watch = watch

    @property
    def is_unsaved(self) -> bool:
        """Whether a turn is not on disk yet: no other may begin, and none of it may be shown.

        It stays so for good if the core failed in a turn, which is a fault of our own.
        """
        return self._is_unsaved

    @property
    def has_input(self) -> bool:
        """Whether something arrived since the last turn."""
        return bool(self.inbox or self._connected)

    def take(self, envelopes: Sequence[Envelope]) -> None:
        """Keep these messages for the next turn."""
        self.inbox += envelopes
        for envelope in envelopes:
            self.inbox_bytes += len(envelope.signed.payload) + len(envelope.body)

    def connect(self, peer: str) -> None:
        """A link to that peer was made; the next turn tells the core."""
        self._connected[peer] = None

    def begin(self, now: float) -> Turn | None:
        """Feed what arrived and what is due.

        None if there is nothing to feed, or if the turn before is not on disk. Every other turn
        lasts until its `saved` is called.
        """
        if self.is_unsaved:
            return None
        self._is_unsaved = True
        inbox, self.inbox, self.inbox_bytes = self.inbox, [], 0
        connected, self._connected = self._connected, {}
        outputs = [self.replica.on_peer_connected(peer, now) for peer in connected]
        if inbox:
            outputs.append(self.replica.receive(inbox, now))
        is_due = now >= self.deadline
        if is_due:
            outputs.append(self.replica.handle_timer(now))
        if not outputs:
            self._is_unsaved = False
            return None
        if outputs[-1].deadline is not None:
            self.deadline = outputs[-1].deadline
        return self._turn(outputs, is_due)

    def begin_recovery(self, nonce: bytes, now: float) -> Turn:
        """Start from nothing, because the disk lost what this replica said: the first turn.

        nonce: 32 random bytes. The replica votes again once that is safe.
        """
        assert not self._is_unsaved
        self._is_unsaved = True
        return self._turn([self.replica.begin_recovery(nonce, now)], False)

    def _turn(self, outputs: list[Output], has_expired: bool) -> Turn:
        if self._watch is not None:
            self._watch(outputs, has_expired)
        return Turn(outputs, self._release)

    def _release(self) -> None:
        assert self._is_unsaved, "a turn is saved once"
        self._is_unsaved = False


def has_executed(outputs: Sequence[Output]) -> bool:
    """Whether anything was executed: then the builds may have changed."""
    return any(output.executed for output in outputs)


def executed_ballots(outputs: Sequence[Output]) -> list[ExecutedBallot]:
    """The ballots that were executed and not refused, in order."""
    return [
        ballot
        for output in outputs
        for request in output.executed
        if (ballot := _ballot_in(request)) is not None
    ]


def _ballot_in(executed: ExecutedRequest) -> ExecutedBallot | None:
    try:
        operation = decode_operation(executed.request.operation)
    except MalformedOperation:
        return None
    if not isinstance(operation, CastBallot) or executed.applied.kind == "refused":
        return None
    return (operation.build, operation.opened, executed.request.client, executed.signed)
