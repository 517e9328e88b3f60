"""What a node that misbehaves on purpose does, and what the others saw of it, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.english import counted
from node.faults.misbehaviours import DESCRIPTIONS, KINDS

# The value of `fault_injection` with which nobody misbehaves and everybody may be told to.
ALLOWED = "allowed"

MEANS = {
    "lying": "A ballot that differs is dissent and proves nothing: a broken compiler differs too.",
    "silent": "The others are enough for every quorum; f + 1 silent ones would stop everything.",
    "equivocating": "Two signed contradictions prove who made them, whatever else is true: check "
    "them with `.venv/bin/python -m client evidence`.",
    "delaying": "Late is not wrong: the others had their quorums before its words came.",
    "garbling": "What bears no good signature was said by nobody: it is refused and not counted.",
    "replaying": "A signature says who spoke, never when: what is executed is not executed again.",
}


def what_the_others_saw(
    fault: str, faulty: str, statuses: Mapping[str, Mapping[str, Any] | None]
) -> list[str]:
    """Some lines about it. statuses: of each node, None: it did not answer."""
    others = {name: said for name, said in statuses.items() if name != faulty and said}
    return [
        f"{faulty} is {fault}: {DESCRIPTIONS[fault]}. What the others saw of that:",
        *(f"  {name}: {_seen(fault, faulty, said)}" for name, said in others.items()),
        MEANS[fault],
    ]


def _seen(fault: str, faulty: str, said: Mapping[str, Any]) -> str:
    counters = said["counters"]
    words = []
    if faulty in said["byzantine_nodes"]:
        words.append(f"holds proof against {faulty}: two messages that contradict each other")
    elif fault == "equivocating":
        words.append(f"was told one story, so it holds no proof against {faulty}")
    if faulty in said["dissenting_nodes"]:
        words.append(f"counts {faulty} as dissenting")
    if fault in ("garbling", "replaying", "equivocating"):
        words.append(f"refused {counted(counters.get('refused', 0), 'message')}")
    if fault == "silent":
        heard = said["peers"][faulty]["last_heard_seconds"]
        words.append(
            f"never heard from {faulty}" if heard is None else f"heard {faulty} {heard:.0f} s ago"
        )
    if changes := counters.get("new_view", 0):
        words.append(f"changed the view {counted(changes, 'time')}")
    words.append(f"executed up to number {said['sequence']}")
    return ", ".join(words)


def how_to_play(nodes: Sequence[str], replicas_url: str, node_url: str) -> list[str]:
    """Where nobody misbehaves yet: how one is told to."""
    return [
        f"every node may be told to misbehave: at {replicas_url}, or",
        f'  curl -d \'{{"node_id":"{nodes[-1]}","fault":"equivocating"}}\''
        f" {node_url}/pbft/simulate-byzantine",
        f"  ({', '.join(KINDS)}; null ends it; {nodes[0]} is the primary at first)",
    ]
