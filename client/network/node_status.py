"""GET /pbft/status as the gateway reads it: a node's own words, checked for type, sign and length.

Nothing in it is believed for having been said. Every word fits one short pattern, so that none of
them can be markup, a control character, or longer than a line; what an older node does not say
is null, and what a newer one says besides is left out.
"""

from typing import Annotated

import msgspec

Word = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.+-]{0,64}\Z")]
Sentence = Annotated[str, msgspec.Meta(max_length=200)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
FaultKinds = Annotated[dict[Word, Sentence], msgspec.Meta(max_length=50)]
Names = Annotated[tuple[Word, ...], msgspec.Meta(max_length=1000)]


class ViewChangeStatus(msgspec.Struct, frozen=True):
    """The view that is wanted, who asks for it, and how many are needed."""

    view: Number
    supporters: Names = ()
    supported_by: Number = 0
    needed: Number = 0


class StateTransferStatus(msgspec.Struct, frozen=True):
    """To which checkpoint, and how many of its parts are here."""

    sequence: Number
    parts_here: Number = 0
    parts: Number | None = None


class RecoveryStatus(msgspec.Struct, frozen=True):
    """From which checkpoint it votes again, once that is known."""

    voting_from: Number | None = None


class PeerStatus(msgspec.Struct, frozen=True):
    """What a node knows of another one."""

    connected: bool = False
    last_heard_seconds: Seconds | None = None
    view: Number | None = None
    has_entered_view: bool | None = None
    executed: Number | None = None
    stable_checkpoint: Number | None = None


class DiskStatus(msgspec.Struct, frozen=True):
    """How long its saves take, and how much room there is for its data."""

    save_seconds: Seconds = 0.0
    slowest_save_seconds: Seconds = 0.0
    is_slow: bool = False
    free_bytes: Number | None = None
    total_bytes: Number | None = None


class NodeStatus(msgspec.Struct, frozen=True):
    """A node's status; docs/OPERATING.md says what each field means. null: it does not say."""

    node_id: Word | None = None
    version: Word | None = None
    cluster: Word | None = None
    epoch: Number | None = None
    status: Word | None = None
    view: Number | None = None
    has_entered_view: bool | None = None
    view_change: ViewChangeStatus | None = None
    primary: Word | None = None
    is_primary: bool | None = None
    sequence: Number | None = None
    stable_checkpoint: Number | None = None
    in_sync: bool | None = None
    behind_by: Number | None = None
    state_transfer: StateTransferStatus | None = None
    recovery: RecoveryStatus | None = None
    pending_requests: Number | None = None
    f: Number | None = None
    quorum_size: Number | None = None
    replicas: Number | None = None
    byzantine_nodes: Names = ()
    dissenting_nodes: Names = ()
    evidence: dict[Word, Number] = {}
    fault_injection: Word | None = None
    fault_kinds: FaultKinds | None = None
    open_builds: Number | None = None
    executors: Word | None = None
    limits_serial: Number | None = None
    standing_by: Number | None = None
    builds_removed: Number | None = None
    ledger_index: Number | None = None
    ledger_head: Word | None = None
    ledger_missing: Number | None = None
    journal_length: Number | None = None
    journal_digest: Word | None = None
    peers: dict[Word, PeerStatus] = {}
    disk: DiskStatus | None = None
    counters: dict[Word, Number] = {}


def foreign_words(status: NodeStatus, replica: str, cluster_id: bytes) -> str | None:
    """Why this is not the status of that replica of that cluster; None: it says it is."""
    if status.node_id not in (None, replica):
        return f"{status.node_id} answers at its address"
    if status.cluster not in (None, cluster_id.hex()):
        return f"it belongs to another cluster ({status.cluster[:12]})"
    return None
