"""Which situations a run has seen: cells of message type, status, role, view and sequence."""

from typing import get_args

from pbft.codec import MalformedMessage
from pbft.core import Core, ReplicaStatus
from pbft.messages import AnyMessage, Hello
from simulator.world.reader import Decode

MALFORMED = "Malformed"
REGIONS = ("collected", "stable", "executed", "next", "open", "above")
VIEWS = ("<", "=", ">")
# Goals say what is reached once an epoch has ended; there is little left to happen then.
STATUSES = tuple(status for status in ReplicaStatus if status is not ReplicaStatus.ENDED)
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
            for status in STATUSES
            for role in ("primary", "backup")
            for view in views
            for region in regions
        ]
    return cells


class Coverage:
    """How often each cell was seen."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._counts: dict[tuple[str, ReplicaStatus, bool, str, str], int] = {}
        # payload -> type, and view and sequence where cells tell them apart
        self._facts: dict[bytes, tuple[str, int | None, int | None]] = {}

    def see(self, core: Core, payload: bytes) -> None:
        """This payload comes to a replica in this state."""
        if core.has_ended:
            return
        facts = self._facts.get(payload)
        if facts is None:
            facts = self._facts[payload] = self._read(payload)
        kind, view, sequence = facts
        own = core.view
        key = (
            kind,
            core.status,
            core.is_primary,
            "-" if view is None else "<" if view < own else ">" if view > own else "=",
            "-" if sequence is None else region(core, sequence),
        )
        self._counts[key] = self._counts.get(key, 0) + 1

    def _read(self, payload: bytes) -> tuple[str, int | None, int | None]:
        try:
            message = self._decode(payload)
        except MalformedMessage:
            return MALFORMED, None, None
        kind = type(message).__name__
        sequence = getattr(message, "sequence", None) if kind in _WITH_REGIONS else None
        return kind, getattr(message, "view", None), sequence

    @property
    def cells(self) -> dict[str, int]:
        """Cell -> how often."""
        return {
            f"{kind} {status.value} {'primary' if is_primary else 'backup'} view{view} {region}": n
            for (kind, status, is_primary, view, region), n in self._counts.items()
        }


def region(core: Core, sequence: int) -> str:
    """Where a sequence number lies for this replica."""
    if sequence <= core.low:
        return "collected" if sequence <= core.kept_above else "stable"
    if sequence <= core.executed:
        return "executed"
    if sequence == core.executed + 1:
        return "next"
    return "open" if sequence <= core.high else "above"
