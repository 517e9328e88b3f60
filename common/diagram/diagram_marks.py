"""What a replica tells that is worth a mark in a message diagram, and in which words. Pure."""

from collections.abc import Mapping, Sequence

from common.diagram.message_diagram import Mark
from pbft.quorums import Quorums

Details = Mapping[str, str | int | None]


def mark_of(
    lane: str, at: float, event: str, *, details: Details, replicas: Sequence[str], quorums: Quorums
) -> Mark | None:
    """The mark of that event on that lane; None: not shown. replicas: in their order."""
    match event:
        case "prepared":
            more = f"the PRE-PREPARE and {quorums.prepares} PREPAREs of others with one digest"
            return Mark(lane=lane, at=at, text=_with("prepared", details), kind=event, more=more)
        case "executed":
            more = f"{quorums.strong} COMMITs with one digest: decided, whatever the view"
            return Mark(lane=lane, at=at, text=_with("executed", details), kind=event, more=more)
        case "accepted":
            more = "at least one of them is from a correct replica"
            text = f"believes {quorums.weak} equal REPLYs"
            return Mark(lane=lane, at=at, text=text, kind=event, more=more)
        case "view_change":
            text = f"leaves for view {details.get('view')}"
            return Mark(lane=lane, at=at, text=text, kind="left", more=str(details.get("reason")))
        case "new_view":
            return _entered(lane, at, details, replicas=replicas)
        case "equivocation":
            text = f"proof against {_name(details.get('replica'), replicas)}"
            more = "two signed messages that contradict each other"
            return Mark(lane=lane, at=at, text=text, kind="wrong", more=more)
        case _ if event in _TOLD:
            return Mark(lane=lane, at=at, text=_with(_TOLD[event], details))
        case _:
            return None


_TOLD = {
    "stable": "stable checkpoint",
    "state_transfer": "fetches the state at",
    "state_transferred": "has the state at",
    "started": "starts again",
}


def _with(word: str, details: Details) -> str:
    sequence = details.get("sequence")
    return word if sequence is None else f"{word} {sequence}"


def _entered(lane: str, at: float, details: Details, *, replicas: Sequence[str]) -> Mark:
    view = details.get("view")
    is_primary = isinstance(view, int) and replicas[view % len(replicas)] == lane
    text = f"enters view {view}" + (" as its primary" if is_primary else "")
    return Mark(lane=lane, at=at, text=text, kind="entered")


def _name(index: str | int | None, replicas: Sequence[str]) -> str:
    if isinstance(index, int) and 0 <= index < len(replicas):
        return replicas[index]
    return f"replica {index}"
