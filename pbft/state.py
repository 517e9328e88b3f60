"""The state of one replica: a struct for each part of the protocol.

The rule: the part that a struct names writes it, and the others read it. `restoring` writes in the
name of all before the first turn. tests/pbft/test_owners.py holds every assignment in this package
against that, and lists the few that one part makes in the name of another.
"""

import msgspec

from pbft.certificates import (
    CheckedViewChange,
    CheckpointVotes,
    StableCertificate,
)
from pbft.client_table import ClientTable
from pbft.log import Proposal
from pbft.messages import Signed, Status
from pbft.ports import SavedMessage


class PeerState(msgspec.Struct):
    """What is noted of each peer, by replica, and the next STATUS. Written by catch_up."""

    # Each peer's last STATUS.
    status: dict[int, Status] = {}
    # The furthest that each peer reported: ((view, whether it has entered it), executed).
    progress: dict[int, tuple[tuple[int, bool], int]] = {}
    # When the entries below were last dropped because the peer made a new link.
    connected_at: dict[int, float] = {}
    # When each peer was last re-sent slots.
    answered_at: dict[int, float] = {}
    # Of which view each peer was last sent the proof, and when.
    view_sent: dict[int, tuple[tuple[int, bool], float]] = {}
    # Which (stable checkpoint, CHECKPOINTs of ours above it) each peer was last sent, and when.
    checkpoints_sent: dict[int, tuple[tuple[int, int], float]] = {}
    # When this replica sends its next STATUS; 0: at the end of this turn.
    status_due: float = 0.0


class ViewState(msgspec.Struct):
    """The view and how it began (OSDI'99, 4.4). Written by view_change."""

    # v: the view that this replica is in, or has left for.
    current: int = 0
    # False from the VIEW-CHANGE of this replica until the NEW-VIEW of that view.
    has_entered: bool = True
    # The paper's min-s: no PRE-PREPARE up to it is accepted in this view.
    min_s: int = 0
    # O of the current NEW-VIEW, by sequence number.
    ordered: dict[int, Proposal] = {}
    # Each replica's VIEW-CHANGE for the highest view, checked.
    changes: dict[int, CheckedViewChange] = {}
    # Beside a later one in `changes`: that replica's VIEW-CHANGE for the current view.
    overtaken_changes: dict[int, CheckedViewChange] = {}
    # The NEW-VIEW that began the current view; None in view 0, and until it has begun.
    new_view: Signed | None = None
    # The VIEW-CHANGE or NEW-VIEW that is saved again after each checkpoint record.
    records: list[SavedMessage] = []


class CheckpointState(msgspec.Struct):
    """The stable checkpoint and those above it (OSDI'99, 4.3). Written by checkpoint."""

    # The CHECKPOINTs of all replicas above the stable one.
    votes: CheckpointVotes
    # The certificate of the last stable checkpoint that is ours.
    stable: StableCertificate
    # The newest certificate of a state that is above ours, or that ours differs from.
    certified: StableCertificate
    # The replicated state at `stable`.
    stable_parts: dict[str, bytes] = {}
    # By sequence number, until one at or above is stable: (digest, parts) of our own state.
    snapshots: dict[int, tuple[bytes, dict[str, bytes]]] = {}
    # Whether our state is not the certified one.
    is_diverged: bool = False


class ProposerState(msgspec.Struct):
    """What a primary orders next (OSDI'99, 4.2). Written by normal_case."""

    # The next sequence number that a primary gives.
    next_sequence: int
    # (client, timestamp) of the requests that are in a batch and not executed yet.
    proposed: set[tuple[str, int]] = set()
    # The client that was served last.
    rotation: str = ""


class Recovery(msgspec.Struct, frozen=True, array_like=True):
    """The last RECOVER of a replica that counted when it was executed.

    It is part of the replicated state, and encoded in it.
    """

    # Its nonce. States of older versions have up to 16.
    nonces: tuple[bytes, ...]
    # T, the first checkpoint at least L above it. Once T is stable, nothing that the replica may
    # have sent before can matter any more: it votes again.
    voting_from: int


class Ending(msgspec.Struct, frozen=True, array_like=True):
    """Where this epoch ends, as its change of members decided. Part of the replicated state."""

    # T, the last sequence number: the first checkpoint at least L above the change.
    sequence: int
    # Of the next epoch (`Cluster.configuration`).
    configuration: bytes


class RecoveryState(msgspec.Struct):
    """Recoveries that are not executed yet. Written by recovery."""

    # Of this replica's own RECOVER, while it votes on nothing because it lost what it sent.
    nonce: bytes = b""
    # For that, if the others show that the records it was restored from lack a message it sent.
    spare_nonce: bytes = b""
    # RECOVERs of others to be ordered, by replica.
    requests: dict[int, Signed] = {}


class ExecutionState(msgspec.Struct):
    """What was executed; with the application, it is the replicated state. Written by execution."""

    # What each client had executed.
    clients: ClientTable
    # The last sequence number that was executed.
    executed: int
    # The epoch that the state belongs to: from the last number of this one on, the next.
    epoch: int
    # The configuration of that epoch; empty in epoch 0, whose states do not name it.
    configuration: bytes
    # Of this epoch; None if no end is decided.
    ending: Ending | None = None
    # By replica, its last RECOVER that counted.
    recoveries: dict[int, Recovery] = {}


class Transfer(msgspec.Struct):
    """A state transfer under way. Written by state_transfer."""

    # The checkpoint that is fetched.
    certificate: StableCertificate
    # The digest of each part, once they are known.
    leaves: dict[str, bytes] | None = None
    # The parts that are here.
    parts: dict[str, bytes] = {}
    # How often was asked, to ask the peers in turn.
    attempts: int = 0


class TransferState(msgspec.Struct):
    """Fetching and giving states. Written by state_transfer."""

    # The transfer under way.
    current: Transfer | None = None
    # What was executed at the last STATUS.
    executed_at_tick: int = 0
    # The leaves of those of our states that a peer asked for, by sequence number.
    leaves: dict[int, tuple[tuple[str, bytes], ...]] = {}


class Timers(msgspec.Struct):
    """Deadlines as numbers; None and absent mean that nothing runs. Written by timers."""

    # How long is waited at present.
    timeout: float
    # Whether anything was executed since the last VIEW-CHANGE of ours.
    has_progressed: bool = True
    # client -> its lowest pending timestamp
    timed: dict[str, int] = {}
    # The same, with since when it is that.
    waiting: dict[str, tuple[int, float]] = {}
    # Requests handed on to the primary of this view.
    forwarded: set[tuple[str, int]] = set()
    # When the view that is being changed to has failed.
    view_change_due: float | None = None
    # The primary gives no null request before.
    null_due: float = 0.0
    # Whether the primary owes a null request and waits for nothing but `null_due`.
    is_null_waiting: bool = False
    # Until when the primary delays what may be delayed; None: it delays nothing.
    batch_due: float | None = None


class RetransmitBudget(msgspec.Struct):
    """What one client's retransmissions cost in the turn under way. Written by normal_case."""

    # The timestamps that were answered again in this turn: each is answered once.
    timestamps: set[int] = set()
    # What looking up the answers cost so far.
    cost_bytes: int = 0
