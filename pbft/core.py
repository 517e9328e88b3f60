"""The state of one replica and the few actions that all parts of the protocol share.

The parts (normal_case, execution, checkpoint, catch_up) are functions over this state; they
never call each other, `replica` does. Each field says which part writes it.
"""

import enum
from collections.abc import Iterator

import msgspec

from pbft.authentication import Authenticator, sign_message
from pbft.certificates import (
    GENESIS_CERTIFICATE,
    CheckedViewChange,
    CheckpointVotes,
    StableCertificate,
)
from pbft.client_table import ClientTable
from pbft.codec import SIGNING_PREFIX, digest_of, encode_message
from pbft.genesis import Cluster
from pbft.log import MessageLog, OrderedRequest, Proposal, Slot
from pbft.messages import (
    BODY_BYTES_MAX,
    AnyMessage,
    Envelope,
    Recover,
    Reply,
    Request,
    Signed,
    Status,
)
from pbft.ports import (
    Announcement,
    Application,
    Evidence,
    Executed,
    Notice,
    Output,
    Refusal,
    SavedMessage,
    SavedPrepared,
    Send,
    Sign,
    Verify,
)

# A RECOVER counts for so many windows above the checkpoint that it names. A replica that fetches
# the state of that checkpoint, while the others go on, has time to have its RECOVER ordered.
RECOVER_AGE_WINDOWS = 16


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Local settings of one replica: they may differ between replicas without harm.

    pipeline_depth: sequence numbers in flight before the primary collects a batch.
    batch_bytes_max: bytes of requests in one batch; at most half of the cluster's body_bytes_max
        are used.
    batch_delay_seconds: how long the primary keeps requests that nobody waits for, until one goes
        with them that somebody does; at most a quarter of view_change_seconds. 0: not at all.
    status_seconds: how often a replica says where it stands.
    resend_slots_max, resend_bytes_max: what is re-sent to a peer in answer to a STATUS of its.
    view_change_seconds: how long a request may wait for its order before its replica asks for
        another primary; doubled for each view that fails, up to view_change_seconds_max.
    null_seconds: between two null requests that a recovering replica's T asks for; with more
        than view_change_seconds the others would take the primary for a silent one.
    """

    pipeline_depth: int = 4
    batch_bytes_max: int = 2 * 1024 * 1024
    batch_delay_seconds: float = 0.0
    status_seconds: float = 1.0
    resend_slots_max: int = 128
    resend_bytes_max: int = 4 * 1024 * 1024
    view_change_seconds: float = 4.0
    view_change_seconds_max: float = 64.0
    null_seconds: float = 0.02


class ReplicaStatus(enum.StrEnum):
    """What a replica does at the moment; docs/PROTOCOL.md says what each one means."""

    NORMAL = "normal"
    VIEW_CHANGE = "view_change"
    STATE_TRANSFER = "state_transfer"
    DIVERGED = "diverged"
    RECOVERING = "recovering"


class Recovery(msgspec.Struct, frozen=True, array_like=True):
    """The last RECOVER of a replica that counted when it was executed.

    nonces: its nonce (states of older versions have up to 16). voting_from: T, the first
    checkpoint at least L above it. Once T is stable, nothing that the replica may have said before
    can matter any more: it votes again.
    """

    nonces: tuple[bytes, ...]
    voting_from: int


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


class Timers(msgspec.Struct):
    """Deadlines as numbers; None and absent mean that nothing runs.

    timeout: how long is waited at present. has_progressed: whether anything was executed since
    the last VIEW-CHANGE of ours. timed: client -> its lowest pending number. waiting: the same,
    with since when it is that. forwarded: requests handed on to the primary of this view.
    view_change_due: when the view that is being changed to has failed. null_due: the primary
    gives no null request before; is_null_waiting: it owes one, and waits for nothing but that.
    batch_due: until when the primary keeps what may wait; None: it keeps nothing.
    """

    timeout: float
    has_progressed: bool = True
    timed: dict[str, int] = {}
    waiting: dict[str, tuple[int, float]] = {}
    forwarded: set[tuple[str, int]] = set()
    view_change_due: float | None = None
    null_due: float = 0.0
    is_null_waiting: bool = False
    batch_due: float | None = None


class AskedAgain(msgspec.Struct):
    """What one client asked again in the turn under way: which numbers, and what that cost."""

    numbers: set[int] = set()
    cost_bytes: int = 0


class Transfer(msgspec.Struct):
    """A state transfer under way: to which checkpoint, its leaves once known, the parts so far."""

    certificate: StableCertificate
    leaves: dict[str, bytes] | None = None
    parts: dict[str, bytes] = {}
    attempts: int = 0


class Core:
    """All that one replica knows, and the output of the turn that is under way."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        sign: Sign,
        verify: Verify,
        application: Application,
        settings: Settings,
    ) -> None:
        index = cluster.replica_index(name)
        assert index is not None, f"{name} is not a replica of this cluster"
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
        self.view = 0  # view_change
        self.has_entered = True  # view_change: false from our VIEW-CHANGE until its NEW-VIEW
        self.is_diverged = False  # checkpoint, state_transfer: our state is not the certified one
        # view_change, of the current NEW-VIEW: min-s, up to which no PRE-PREPARE is accepted, and O
        self.floor = 0
        self.ordered: dict[int, Proposal] = {}
        # view_change, checked: each replica's for the highest view, beside a later one our view's
        self.view_changes: dict[int, CheckedViewChange] = {}
        self.overtaken_view_changes: dict[int, CheckedViewChange] = {}
        self.new_view: Signed | None = None  # view_change: the one that began the current view
        self.view_records: list[SavedMessage] = []  # view_change: saved again after a new base
        # recovery: of our own RECOVER, while we vote on nothing because we lost what we said
        self.nonce = b""
        # replica: for that, if the others show that the records we were restored from forgot a word
        self.spare_nonce = b""
        self.recover_requests: dict[int, Signed] = {}  # recovery: RECOVERs to be ordered
        # execution, part of the replicated state: by replica, its last RECOVER that counted
        self.recoveries: dict[int, Recovery] = {}
        self.log = MessageLog()  # slots by normal_case; emptied by checkpoint
        self.pending = PendingRequests()  # filled by normal_case; emptied by execution
        self.proposed: set[tuple[str, int]] = set()  # normal_case; emptied by execution
        self.next_sequence = 1  # normal_case, as primary; view_change
        self.rotation = ""  # normal_case: the client that was served last
        self.executed = 0  # execution, state_transfer
        self.clients = ClientTable(cluster.genesis.client_window)  # execution, state_transfer
        self.stable: StableCertificate = GENESIS_CERTIFICATE  # checkpoint, state_transfer
        self.stable_parts: dict[str, bytes] = {}  # checkpoint: the state at `stable`
        # checkpoint: the newest certificate of a state that is above ours, or that ours is not
        self.certified: StableCertificate = GENESIS_CERTIFICATE
        kept = self.window // self.interval + 2
        self.checkpoint_votes = CheckpointVotes(cluster.quorums, kept)  # checkpoint
        # checkpoint: number -> (state digest, parts), until a checkpoint at or above is stable
        self.snapshots: dict[int, tuple[bytes, dict[str, bytes]]] = {}
        # state_transfer: the leaves of those states that a peer asked for; emptied by checkpoint
        self.leaves: dict[int, tuple[tuple[str, bytes], ...]] = {}
        self.status_due = 0.0  # catch_up
        self._begin_with_peers()
        self.timers = Timers(settings.view_change_seconds)  # timers
        self.transfer: Transfer | None = None  # state_transfer
        self.executed_at_tick = 0  # state_transfer: what was executed at the last STATUS
        self.output = Output()
        self.replies: dict[str, list[Reply]] = {}
        self.asked_again: dict[str, AskedAgain] = {}  # normal_case, by client, of this turn
        self._sign = sign

    def _begin_with_peers(self) -> None:
        """What is noted of each peer: nothing yet."""
        # catch_up: the furthest that each peer said: ((view, has entered it), executed)
        self.peer_places: dict[int, tuple[tuple[int, bool], int]] = {}
        # catch_up: when what each peer was sent was last forgotten for a new link of its
        self.greeted_at: dict[int, float] = {}
        self.answered_at: dict[int, float] = {}  # catch_up: when each peer was last re-sent slots
        # catch_up: per peer, which view it was last sent the proof of, and when
        self.view_sent: dict[int, tuple[tuple[int, bool], float]] = {}
        # catch_up: per peer, of what (stable checkpoint, words above) it was last sent, and when
        self.checkpoints_sent: dict[int, tuple[tuple[int, int], float]] = {}
        self._spent: dict[int, tuple[float, int]] = {}  # per peer: since when, how many bytes
        self._accused: dict[int, int] = {}  # per replica: how often it contradicted itself
        self.peer_status: dict[int, Status] = {}  # catch_up: each peer's last STATUS, for people

    # --- where this replica stands --------------------------------------------------------------

    @property
    def low(self) -> int:
        """h: the sequence number of the last stable checkpoint."""
        return self.stable.sequence

    @property
    def kept_above(self) -> int:
        """Slots above this number are kept.

        The paper forgets up to h. One interval more is kept, decided and for re-sending only: a
        replica that was killed a few slots before a checkpoint needs no state transfer.
        """
        return max(0, self.low - self.interval)

    @property
    def high(self) -> int:
        """H = h + L."""
        return self.low + self.window

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
        earlier = self.recoveries.get(message.replica)
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
        # As Cluster.primary; asked several times in each turn.
        return self.view % self.quorums.replicas == self.index

    @property
    def is_voting(self) -> bool:
        """Whether this replica takes part in the ordering of its view."""
        return self.has_entered and not self.is_diverged and not self.nonce

    @property
    def status(self) -> ReplicaStatus:
        """What to tell people: the worst of what is the case."""
        if self.is_diverged:
            return ReplicaStatus.DIVERGED
        if self.nonce:
            return ReplicaStatus.RECOVERING
        if self.transfer is not None:
            return ReplicaStatus.STATE_TRANSFER
        return ReplicaStatus.NORMAL if self.has_entered else ReplicaStatus.VIEW_CHANGE

    # --- actions --------------------------------------------------------------------------------

    def sign(self, message: AnyMessage) -> Signed:
        """This replica's signed form of a message."""
        return sign_message(message, encode_message(message), self.name, self.cluster, self._sign)

    def broadcast(self, signed: Signed, body: bytes = b"") -> None:
        """Send to all other replicas, after the records of this turn are on disk."""
        self.output.messages.append(Send(None, Envelope(signed, body)))

    def send(self, to: str, signed: Signed, body: bytes = b"") -> None:
        """Send to one member, after the records of this turn are on disk."""
        self.output.messages.append(Send(to, Envelope(signed, body)))

    def save(self, slot: Slot, record: SavedMessage | SavedPrepared | Executed) -> None:
        """Record something about a slot; it is recorded again after each new base."""
        slot.records.append(record)
        self.output.records.append(record)

    def save_view(self, signed: Signed) -> None:
        """Record a VIEW-CHANGE of ours, or the NEW-VIEW that we enter: the last of them counts."""
        self.view_records = [SavedMessage(signed)]
        self.output.records.append(SavedMessage(signed))

    def accuse(self, replica: int, first: Signed, second: Signed) -> None:
        """Keep two messages of one replica that contradict each other; both are checked.

        Told the 1st, 2nd, 4th, 8th ... time: who lies in each message must not turn over the log.
        """
        self.output.evidence.append(Evidence(replica, first, second))
        count = self._accused[replica] = self._accused.get(replica, 0) + 1
        if count == 1:
            self.tell("equivocation", replica=replica)
        elif count.bit_count() == 1:
            self.tell("equivocation", replica=replica, times=count)

    def reply(self, reply: Reply) -> None:
        """Answer a client at the end of this turn. Replicas read their own state instead."""
        if self.cluster.replica_index(reply.client) is None:
            self.replies.setdefault(reply.client, []).append(reply)

    def announce(self, announcement: Announcement) -> None:
        """Answer an earlier request, with a signature over what is to be signed apart."""
        if self.cluster.replica_index(announcement.client) is not None:
            return
        # What the application has signed must not be taken for a message of the protocol.
        assert not announcement.to_sign.startswith(SIGNING_PREFIX)
        attestation = self._sign(announcement.to_sign) if announcement.to_sign else b""
        self.reply(
            Reply(
                announcement.client,
                announcement.timestamp,
                announcement.request_digest,
                announcement.kind,
                announcement.subject,
                announcement.result,
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

    def tell(self, event: str, **details: str | int | None) -> None:
        """Add a notice."""
        self.output.notices.append(Notice(event, details))
