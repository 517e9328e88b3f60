"""Which situations a run has seen: cells of message type, status, role, view and sequence."""

from typing import get_args

from pbft.codec import MalformedMessage, decode_message
from pbft.core import Core, ReplicaStatus
from pbft.messages import AnyMessage, Hello

MALFORMED = "Malformed"
REGIONS = ("collected", "stable", "executed", "next", "open", "above")
VIEWS = ("<", "=", ">")
# For bodies and states the number only says which one is meant.
_WITH_REGIONS = ("PrePrepare", "Prepare", "Commit", "Checkpoint")
# Links take it off before anything reaches a replica.
_NOT_FOR_REPLICAS = (Hello,)


def all_cells() -> list[str]:
    """Every cell that the types of messages and the statuses span, reachable or not."""
    kinds = {kind.__name__: kind for kind in get_args(AnyMessage) if kind not in _NOT_FOR_REPLICAS}
    cells = []
    for name in (MALFORMED, *sorted(kinds)):
        fields = kinds[name].__struct_fields__ if name in kinds else ()
        views = VIEWS if "view" in fields else ("-",)
        regions = REGIONS if name in _WITH_REGIONS else ("-",)
        cells += [
            f"{name} {status.value} {role} view{view} {region}"
            for status in ReplicaStatus
            for role in ("primary", "backup")
            for view in views
            for region in regions
        ]
    return cells


class Coverage:
    """How often each cell was seen."""

    def __init__(self) -> None:
        self.cells: dict[str, int] = {}
        self._decoded: dict[bytes, AnyMessage | None] = {}
        self._names: dict[tuple[str, str, bool, str, str], str] = {}

    def see(self, core: Core, payload: bytes) -> None:
        """This payload comes to a replica in this state."""
        decoded = self._decoded
        if payload in decoded:
            message = decoded[payload]
        else:
            try:
                message = decode_message(payload)
            except MalformedMessage:
                message = None
            decoded[payload] = message
        kind = type(message).__name__ if message is not None else MALFORMED
        view = getattr(message, "view", None)
        sequence = getattr(message, "sequence", None) if kind in _WITH_REGIONS else None
        key = (
            kind,
            core.status.value,
            core.is_primary,
            "-" if view is None else "<" if view < core.view else ">" if view > core.view else "=",
            "-" if sequence is None else region(core, sequence),
        )
        name = self._names.get(key)
        if name is None:
            role = "primary" if core.is_primary else "backup"
            name = self._names[key] = f"{kind} {key[1]} {role} view{key[3]} {key[4]}"
        self.cells[name] = self.cells.get(name, 0) + 1


def region(core: Core, sequence: int) -> str:
    """Where a sequence number lies for this replica."""
    if sequence <= core.low:
        return "collected" if sequence <= core.kept_above else "stable"
    if sequence <= core.executed:
        return "executed"
    if sequence == core.executed + 1:
        return "next"
    return "open" if sequence <= core.high else "above"
