"""BSMR: replication that trusts its leader, to put beside PBFT (tests/seeds/test_s3_bsmr.py).

Each round every node sends its value to the leader, which takes the smallest and announces it;
a node appends what it was told. Nobody compares what others were told, so a leader that tells
two things makes the states differ, and nobody notices.
"""

from collections.abc import Callable

import msgspec

from common.diagram.message_diagram import Arrow, Diagram, Mark, Note
from simulator.world.seeded_random import stream

# For the picture: how long a message takes, and how far rounds lie apart.
LINK_SECONDS = 0.010
ROUND_SECONDS = 0.050


class Node(msgspec.Struct):
    """One node: its name, and the values that it appended."""

    name: str
    state: list[int]


class Played(msgspec.Struct):
    """The nodes afterwards, and the picture."""

    nodes: list[Node]
    diagram: Diagram


def play(
    *,
    title: str,
    replicas: int,
    faults: int,
    rounds: int,
    seed: int,
    tell: Callable[[str], None],
) -> Played:
    """Play so many rounds. tell gets a line per message.

    Node 0 leads. With faults > 0 it equivocates: the smallest value to itself and `faults` nodes,
    one more to the others.
    """
    chance = stream(seed, "bsmr")
    nodes = [Node(f"r{index}", []) for index in range(replicas)]
    leader = nodes[0]
    arrows: list[Arrow] = []
    marks: list[Mark] = []
    notes: list[Note] = []

    def send(
        sender: Node, receiver: Node, kind: str, *, value: int, at: float, lie: bool = False
    ) -> None:
        words = f"round={number} value={value}"
        tell(f"{sender.name} > {receiver.name}: {kind.upper()} {words}")
        index = nodes.index(receiver if sender is leader else sender)
        arrows.append(
            Arrow(
                source=sender.name,
                target=receiver.name,
                sent=at,
                arrived=at + LINK_SECONDS + 0.001 * index,
                kind=kind,
                text=words,
                is_forged=lie,
            )
        )

    for number in range(1, rounds + 1):
        began = (number - 1) * ROUND_SECONDS
        values = {node.name: chance.randint(1, 99) for node in nodes}
        notes.append(Note(at=began, text=f"round {number}"))
        for node in nodes[1:]:
            send(node, leader, "Value", value=values[node.name], at=began)
        smallest = min(values.values())
        announced = began + 2 * LINK_SECONDS
        for index, node in enumerate(nodes):
            is_lied_to = faults > 0 and index > faults
            told = smallest + 1 if is_lied_to else smallest
            if node is not leader:
                send(leader, node, "Announce", value=told, at=announced, lie=is_lied_to)
            node.state.append(told)
            tell(f"  {node.name}: appended {told}")
            at = announced + (0.0 if node is leader else LINK_SECONDS + 0.001 * index)
            is_fork = node is not leader and told != nodes[1].state[-1]
            kind = "fork" if is_fork else "told"
            marks.append(Mark(lane=node.name, at=at, text=f"appends {told}", kind=kind))
    diagram = Diagram(
        title=title,
        lanes=tuple(node.name for node in nodes),
        roles={leader.name: "leader, faulty" if faults else "leader"},
        arrows=tuple(arrows),
        marks=tuple(marks),
        notes=tuple(notes),
    )
    return Played(nodes, diagram)


def has_forked(nodes: list[Node], faults: int) -> bool:
    """Whether two correct nodes appended different values; a faulty leader is node 0."""
    correct = nodes[1:] if faults else nodes
    return any(node.state != correct[0].state for node in correct)
