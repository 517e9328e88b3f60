"""The state of one replica and the few actions that all parts of the protocol share.

The parts (normal_case, execution, checkpoint, catch_up and so on) are functions over this state.
Each of them has a state of its own (pbft/state.py), which it alone writes.
"""

import enum
from collections.abc import Iterator

import msgspec

from pbft.authentication import Authenticator, Identity, sign_message
from pbft.certificates import CheckpointVotes, first_certificate
from pbft.client_table import ClientTable
from pbft.codec import SIGNING_PREFIX, digest_of, encode_message
from pbft.genesis import PROTOCOL_MAX
from pbft.log import MessageLog, OrderedRequest, Slot
from pbft.messages import (
    BODY_BYTES_MAX,
    AnyMessage,
    Envelope,
    Recover,
    Reply,
    Request,
    Signed,
)
from pbft.ports import (
    Application,
    DeferredReply,
    Event,
    Evidence,
    Executed,
    Output,
    Refusal,
    SavedMessage,
    SavedPrepared,
    Send,
    Verify,
)
from pbft.state import (
    CheckpointState,
    ExecutionState,
    PeerState,
    ProposerState,
    RecoveryState,
    RetransmitBudget,
    Timers,
    TransferState,
    ViewState,
)

# A RECOVER counts for so many windows above the checkpoint that it names. A replica that fetches
# the state of that checkpoint, while the others go on, has time to have its RECOVER ordered.
RECOVER_AGE_WINDOWS = 16


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Local settings of one replica: they may differ between replicas without harm."""

    # sequence numbers in flight before the primary collects a batch
    pipeline_depth: int = 4
    # bytes of requests in one batch; at most half of the cluster's body_bytes_max are used
    batch_bytes_max: int = 2 * 1024 * 1024
    # how long the primary delays requests that nobody waits for, unless one that somebody waits for
    # goes with them; at most a quarter of view_change_seconds. 0: not at all
    batch_delay_seconds: float = 0.0
    # how often a replica sends its STATUS
    status_seconds: float = 1.0
    # what is sent again to a peer in answer to a STATUS of its, with resend_bytes_max
    resend_slots_max: int = 128
    resend_bytes_max: int = 4 * 1024 * 1024
    # how long a request may wait for its order before its replica asks for another primary; doubled
    # for each view that fails, up to view_change_seconds_max
    view_change_seconds: float = 4.0
    view_change_seconds_max: float = 64.0
    # between two null requests that a recovering replica's T asks for. If it were more than
    # view_change_seconds, the others would take the primary for a mute one
    null_seconds: float = 0.02


class ReplicaStatus(enum.StrEnum):
    """What a replica does at the moment; docs/PROTOCOL.md says what each one means."""

    NORMAL = "normal"
    VIEW_CHANGE = "view_change"
    STATE_TRANSFER = "state_transfer"
    DIVERGED = "diverged"
    RECOVERING = "recovering"
    ENDED = "ended"


class PendingRequests:
    """Verified requests that are not executed yet, by client and number.

    Of two requests with one number the first to come is kept. Bounded: a client has at most W
    executable numbers, and there are only as many clients as the genesis names.
    A request comes by itself and, a moment later, in the body of a batch: what was decoded,
    verified and digested for the first is found again by the exact bytes for the second.
    """

    def __init__(self) -> None:
        self._by_client: dict[str, dict[int, OrderedRequest]] = {}
        self._by_signature: dict[bytes, OrderedRequest] = {}
        # At least those that are in no batch under way, in order of arrival.
        self._fresh: dict[tuple[str, int], None] = {}
        # client -> its lowest pending number
        self.lowest: dict[str, int] = {}

    def add(self, request: Request, signed: Signed) -> bool:
        """Keep it; False where that number is taken. The signature is checked."""
        client, timestamp = request.client, request.timestamp
        numbers = self._by_client.setdefault(client, {})
        if timestamp in numbers:
            return False
        ordered = OrderedRequest(request, signed, digest_of(signed.payload))
        numbers[timestamp] = ordered
        self._by_signature[signed.signature] = ordered
        self._fresh[client, timestamp] = None
        if timestamp <= self.lowest.setdefault(client, timestamp):
            self.lowest[client] = timestamp
        return True

    def remove(self, client: str, timestamp: int) -> None:
        """The number was executed, whatever the digest."""
        numbers = self._by_client.get(client)
        ordered = numbers.pop(timestamp, None) if numbers else None
        if numbers is None or ordered is None:
            return
        self._by_signature.pop(ordered.signed.signature, None)
        self._fresh.pop((client, timestamp), None)
        if not numbers:
            del self._by_client[client]
            del self.lowest[client]
        elif timestamp == self.lowest[client]:
            self.lowest[client] = min(numbers)

    def clients(self) -> list[str]:
        """The clients that have something pending, in a fixed order."""
        return sorted(self._by_client)

    def numbers(self, client: str) -> list[int]:
        """That client's pending numbers, lowest first."""
        return sorted(self._by_client.get(client, ()))

    def get(self, client: str, timestamp: int) -> Signed:
        """The pending request with that number."""
        return self._by_client[client][timestamp].signed

    def ordered(self, client: str, timestamp: int) -> OrderedRequest:
        """The same, with what it says and its digest."""
        return self._by_client[client][timestamp]

    def find(self, signed: Signed) -> OrderedRequest | None:
        """What was read and verified of these exact bytes, where they are pending."""
        known = self._by_signature.get(signed.signature)
        return known if known is not None and known.signed == signed else None

    def unproposed(self, proposed: set[tuple[str, int]]) -> Iterator[Request]:
        """Those in no batch under way, in order of arrival. proposed: those in one."""
        for client, timestamp in self._fresh:
            if (client, timestamp) not in proposed:
                request = self._by_client[client][timestamp].request
                assert isinstance(request, Request)
                yield request

    def fresh(self, proposed: set[tuple[str, int]]) -> dict[str, list[int]]:
        """The numbers in no batch under way, by client, both in order. proposed: those in one."""
        if not self._fresh:
            return {}
        self._fresh = {key: None for key in self._fresh if key not in proposed}
        found: dict[str, list[int]] = {}
        for client, timestamp in sorted(self._fresh):
            found.setdefault(client, []).append(timestamp)
        return found

    def renew(self) -> None:
        """No batch is under way any more."""
        self._fresh = {
            (client, timestamp): None
            for client, numbers in self._by_client.items()
            for timestamp in numbers
        }

    def has(self, client: str, timestamp: int) -> bool:
        """Whether that number of that client is pending."""
        return timestamp in self._by_client.get(client, ())

    def __len__(self) -> int:
        return sum(len(numbers) for numbers in self._by_client.values())


class Core:
    """All that one replica knows, and the output of the turn that is under way."""

    def __init__(
        self,
        identity: Identity,
        verify: Verify,
        application: Application,
        *,
        settings: Settings,
    ) -> None:
        cluster, name = identity.cluster, identity.name
        index = cluster.replica_index(name)
        assert index is not None, f"{name} is not a replica of this cluster"
        assert name in cluster.expected_names, f"the seat of {name} is vacant"
        assert cluster.genesis.protocol <= PROTOCOL_MAX, "a protocol of a later release"
        # A batch may go over its limit by one request and what encoding adds.
        assert settings.batch_bytes_max <= BODY_BYTES_MAX // 2
        assert settings.null_seconds <= settings.view_change_seconds / 2
        assert settings.batch_delay_seconds <= settings.view_change_seconds / 4
        self.cluster = cluster
        self.quorums = cluster.quorums
        self.name = name
        self.index = index
        self.settings = settings
        self.application = application
        self.authenticator = Authenticator(cluster, verify)
        self.interval = cluster.genesis.checkpoint_interval
        self.window = cluster.genesis.window
        # Shared: slots are made and filled by normal_case, and emptied by checkpoint.
        self.log = MessageLog()
        # normal_case: requests that are not executed yet.
        self.pending = PendingRequests()
        # normal_case: by client, of the turn under way.
        self.retransmit_budgets: dict[str, RetransmitBudget] = {}
        # One state for each part of the protocol; pbft/state.py says which part writes it.
        self.peers = PeerState()
        self.views = ViewState()
        kept = self.window // self.interval + 2
        first = first_certificate(cluster)
        self.checkpoints = CheckpointState(
            CheckpointVotes(cluster.quorums, kept), stable=first, certified=first
        )
        self.proposer = ProposerState(next_sequence=cluster.begins_after + 1)
        self.recovery = RecoveryState()
        self.execution = ExecutionState(
            ClientTable(cluster.genesis.client_window),
            executed=cluster.begins_after,
            epoch=cluster.epoch,
            configuration=cluster.configuration if cluster.epoch else b"",
        )
        self.transfers = TransferState()
        self.timers = Timers(settings.view_change_seconds)
        # Of the turn under way; all parts add to them, by the actions below.
        self.output = Output()
        self.replies: dict[str, list[Reply]] = {}
        self._identity = identity
        # Per peer: since when, and how many bytes were re-sent to it.
        self._spent: dict[int, tuple[float, int]] = {}
        # Per replica: how often it contradicted itself.
        self._equivocations: dict[int, int] = {}

    # --- where this replica stands --------------------------------------------------------------

    @property
    def view(self) -> int:
        """v: the view that this replica is in, or has left for."""
        return self.views.current

    @property
    def has_entered(self) -> bool:
        """Whether that view has begun here."""
        return self.views.has_entered

    @property
    def executed(self) -> int:
        """The last sequence number that was executed."""
        return self.execution.executed

    @property
    def is_diverged(self) -> bool:
        """Whether this replica's state is not the certified one."""
        return self.checkpoints.is_diverged

    @property
    def low(self) -> int:
        """h: the sequence number of the last stable checkpoint."""
        return self.checkpoints.stable.sequence

    @property
    def kept_above(self) -> int:
        """Slots above this number are kept.

        The paper forgets up to h. One interval more is kept, decided and for re-sending only: a
        replica that was killed a few slots before a checkpoint needs no state transfer.
        """
        return max(self.cluster.begins_after, self.low - self.interval)

    @property
    def high(self) -> int:
        """H = h + L, and never above the last number of the epoch.

        So no correct replica votes above T in this epoch: who votes at h < s < T has h + L < T,
        and who has executed s, which decided T, knows it.
        """
        ending = self.execution.ending
        high = self.low + self.window
        return high if ending is None else min(high, ending.sequence)

    @property
    def has_ended(self) -> bool:
        """Whether the last number of this epoch was executed."""
        return self.execution.epoch != self.cluster.epoch

    @property
    def is_sealed(self) -> bool:
        """Whether that is stable, too: the next epoch may begin with the state here."""
        return self.has_ended and self.low == self.executed

    def awaited_checkpoints(self) -> list[int]:
        """The checkpoints that something waits for: each recovery's T, and the epoch's end."""
        execution = self.execution
        if not execution.recoveries and execution.ending is None:
            return []
        awaited = [done.voting_from for done in execution.recoveries.values()]
        if execution.ending is not None:
            awaited.append(execution.ending.sequence)
        return awaited

    def within_water_marks(self, sequence: int) -> bool:
        """h < n <= H (4.2)."""
        return self.low < sequence <= self.high

    def recover_refusal(self, message: Recover, sequence: int) -> Refusal | None:
        """Why a RECOVER counts for nothing if it is ordered at `sequence`; None if it counts.

        It counts if the checkpoint that it names is below `sequence`, by RECOVER_AGE_WINDOWS
        windows at most, and not below the T of the same replica's last RECOVER that counted.
        So one that counted never does again, nor any that was signed before: T is above all that
        they can name. Only replicated state decides, and nothing has to be remembered.
        """
        earlier = self.execution.recoveries.get(message.replica)
        if earlier is not None and message.stable < earlier.voting_from:
            return Refusal("a RECOVER that is executed, or while another one is under way")
        if message.stable >= sequence:
            return Refusal("a RECOVER that names a checkpoint above all that is executed")
        if sequence - message.stable > RECOVER_AGE_WINDOWS * self.window:
            return Refusal("a RECOVER that names a checkpoint too far below")
        return None

    @property
    def primary(self) -> int:
        """The primary of the current view."""
        return self.cluster.primary(self.view)

    @property
    def is_primary(self) -> bool:
        """Whether this replica is it."""
        return self.cluster.primary(self.views.current) == self.index

    @property
    def is_recovering(self) -> bool:
        """Whether this replica votes on nothing because it lost what it sent."""
        return bool(self.recovery.nonce)

    @property
    def is_voting(self) -> bool:
        """Whether this replica takes part in the ordering of its view."""
        return self.has_entered and not self.is_diverged and not self.is_recovering

    @property
    def status(self) -> ReplicaStatus:
        """What to tell people: the worst of what is the case."""
        if self.is_diverged:
            return ReplicaStatus.DIVERGED
        if self.is_recovering:
            return ReplicaStatus.RECOVERING
        if self.transfers.current is not None:
            return ReplicaStatus.STATE_TRANSFER
        if self.is_sealed:
            return ReplicaStatus.ENDED
        return ReplicaStatus.NORMAL if self.has_entered else ReplicaStatus.VIEW_CHANGE

    # --- actions --------------------------------------------------------------------------------

    def sign(self, message: AnyMessage) -> Signed:
        """This replica's signed form of a message."""
        return sign_message(message, encode_message(message), self._identity)

    def broadcast(self, signed: Signed, body: bytes = b"") -> None:
        """Send to all other replicas, after the records of this turn are on disk."""
        self.output.messages.append(Send(None, Envelope(signed, body)))

    def send(self, to: str, signed: Signed, body: bytes = b"") -> None:
        """Send to one member, after the records of this turn are on disk."""
        self.output.messages.append(Send(to, Envelope(signed, body)))

    def save(self, slot: Slot, record: SavedMessage | SavedPrepared | Executed) -> None:
        """Record something about a slot; it is recorded again after each new checkpoint record."""
        slot.records.append(record)
        self.output.records.append(record)

    def record_equivocation(self, replica: int, first: Signed, second: Signed) -> None:
        """Keep two messages of one replica that contradict each other; both are checked.

        An event is emitted the 1st, 2nd, 4th, 8th ... time: a replica that lies in each message
        must not fill the log.
        """
        self.output.evidence.append(Evidence(replica, first, second))
        count = self._equivocations[replica] = self._equivocations.get(replica, 0) + 1
        if count == 1:
            self.emit("equivocation", replica=replica)
        elif count.bit_count() == 1:
            self.emit("equivocation", replica=replica, times=count)

    def reply(self, reply: Reply) -> None:
        """Answer a client at the end of this turn. Replicas read their own state instead."""
        if self.cluster.replica_index(reply.client) is None:
            self.replies.setdefault(reply.client, []).append(reply)

    def reply_deferred(self, reply: DeferredReply) -> None:
        """Answer an earlier request, with a signature over what is to be signed apart."""
        if self.cluster.replica_index(reply.client) is not None:
            return
        # What the application has signed must not be taken for a message of the protocol.
        assert not reply.to_sign.startswith(SIGNING_PREFIX)
        attestation = self._identity.sign(reply.to_sign) if reply.to_sign else b""
        self.reply(
            Reply(
                reply.client,
                reply.timestamp,
                reply.request_digest,
                reply.kind,
                reply.subject,
                reply.result,
                attestation,
            )
        )

    def may_send_more(self, peer: int, now: float) -> bool:
        """Whether what was re-sent to a peer lately leaves room for more (no amplification)."""
        since, spent = self._spent.get(peer, (now, 0))
        if now - since >= self.settings.status_seconds / 2:
            self._spent[peer] = (now, 0)
            return True
        return spent < self.settings.resend_bytes_max

    def note_sent(self, peer: int, size: int, now: float) -> None:
        """Count what was re-sent to a peer."""
        since, spent = self._spent.get(peer, (now, 0))
        self._spent[peer] = (since, spent + size)

    def emit(self, name: str, /, **details: str | int | None) -> None:
        """Add a log event to the output of this turn."""
        self.output.events.append(Event(name, details))
