"""The state of one replica and the few actions that all parts of the protocol share.

The parts (normal_case, execution, checkpoint, catch_up) are functions over this state; they
never call each other, `replica` does. Each field says which part writes it.
"""

import enum

import msgspec

from pbft.authentication import Authenticator, sign_message
from pbft.certificates import GENESIS_CERTIFICATE, CheckpointVotes, StableCertificate
from pbft.client_table import ClientTable
from pbft.codec import encode_message
from pbft.genesis import Cluster
from pbft.log import MessageLog, Slot
from pbft.messages import AnyMessage, Envelope, Reply, Signed
from pbft.ports import (
    Announcement,
    Application,
    Notice,
    Output,
    SavedMessage,
    Send,
    Sign,
    Verify,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Local settings of one replica: they may differ between replicas without harm.

    pipeline_depth: sequence numbers in flight before the primary collects a batch.
    batch_bytes_max: bytes of requests in one batch.
    status_seconds: how often a replica says where it stands.
    resend_slots_max: slots re-sent to a peer per STATUS of its.
    """

    pipeline_depth: int = 4
    batch_bytes_max: int = 2 * 1024 * 1024
    status_seconds: float = 1.0
    resend_slots_max: int = 32


class ReplicaStatus(enum.StrEnum):
    """What a replica does at the moment; docs/PROTOCOL.md says what each one means."""

    NORMAL = "normal"
    DIVERGED = "diverged"


class PendingRequests:
    """Verified requests that are not executed yet, by client and number.

    Of two requests with one number the first to come is kept. Bounded: a client has at most W
    executable numbers, and there are only as many clients as the genesis names.
    """

    def __init__(self) -> None:
        self._by_client: dict[str, dict[int, Signed]] = {}

    def add(self, client: str, timestamp: int, signed: Signed) -> bool:
        """Keep it; False where that number is taken."""
        numbers = self._by_client.setdefault(client, {})
        if timestamp in numbers:
            return False
        numbers[timestamp] = signed
        return True

    def remove(self, client: str, timestamp: int) -> None:
        """The number was executed, whatever the digest."""
        numbers = self._by_client.get(client)
        if numbers is not None:
            numbers.pop(timestamp, None)
            if not numbers:
                del self._by_client[client]

    def clients(self) -> list[str]:
        """The clients that have something pending, in a fixed order."""
        return sorted(self._by_client)

    def numbers(self, client: str) -> list[int]:
        """That client's pending numbers, lowest first."""
        return sorted(self._by_client.get(client, ()))

    def get(self, client: str, timestamp: int) -> Signed:
        """The pending request with that number."""
        return self._by_client[client][timestamp]

    def __len__(self) -> int:
        return sum(len(numbers) for numbers in self._by_client.values())


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
        self.cluster = cluster
        self.quorums = cluster.quorums
        self.name = name
        self.index = index
        self.settings = settings
        self.application = application
        self.authenticator = Authenticator(cluster, verify)
        self.interval = cluster.genesis.checkpoint_interval
        self.window = cluster.genesis.window

        self.view = 0  # changed by nobody yet: the view change is not built
        self.status = ReplicaStatus.NORMAL  # checkpoint
        self.log = MessageLog()  # slots by normal_case; emptied by checkpoint
        self.pending = PendingRequests()  # filled by normal_case; emptied by execution
        self.proposed: set[tuple[str, int]] = set()  # normal_case; emptied by execution
        self.next_sequence = 1  # normal_case, as primary
        self.rotation = ""  # normal_case: the client that was served last
        self.executed = 0  # execution
        self.clients = ClientTable(cluster.genesis.client_window)  # execution
        self.stable: StableCertificate = GENESIS_CERTIFICATE  # checkpoint
        self.certified = 0  # checkpoint: the highest number any certificate was seen for
        kept = self.window // self.interval + 2
        self.checkpoint_votes = CheckpointVotes(cluster.quorums, kept)  # checkpoint
        # checkpoint: number -> (state digest, parts), until a checkpoint at or above is stable
        self.snapshots: dict[int, tuple[bytes, dict[str, bytes]]] = {}
        self.status_due = 0.0  # catch_up
        self.peer_executed: dict[int, int] = {}  # catch_up: the most that each peer said

        self.output = Output()
        self.replies: dict[str, list[Reply]] = {}
        self._sign = sign

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

    @property
    def primary(self) -> int:
        """The primary of the current view."""
        return self.cluster.primary(self.view)

    @property
    def is_primary(self) -> bool:
        """Whether this replica is it."""
        return self.primary == self.index

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

    def save(self, slot: Slot, signed: Signed) -> None:
        """Record a message of a slot; it is recorded again after each new base."""
        record = SavedMessage(signed)
        slot.records.append(record)
        self.output.records.append(record)

    def reply(self, reply: Reply) -> None:
        """Answer a client at the end of this turn. Replicas read their own state instead."""
        if self.cluster.replica_index(reply.client) is None:
            self.replies.setdefault(reply.client, []).append(reply)

    def announce(self, announcement: Announcement) -> None:
        """Answer an earlier request, with a signature over what is to be signed apart."""
        if self.cluster.replica_index(announcement.client) is not None:
            return
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

    def tell(self, event: str, **details: str | int | None) -> None:
        """Add a notice."""
        self.output.notices.append(Notice(event, details))
