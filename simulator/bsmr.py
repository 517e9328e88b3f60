"""BSMR: replication that trusts its leader, to put beside PBFT (SEEDS S3).

Each round every node sends its value to the leader, which takes the smallest and announces it;
a node appends what it was told. Nobody compares what others were told, so a leader that tells
two things makes the states differ, and nobody notices.
"""

from collections.abc import Callable

import msgspec

from simulator.chance import stream


class Node(msgspec.Struct):
    """One node: its name, and the values that it appended."""

    name: str
    state: list[int]


def play(
    *,
    replicas: int,
    faults: int,
    rounds: int,
    seed: int,
    tell: Callable[[str], None],
) -> list[Node]:
    """Play so many rounds; gives the nodes afterwards. tell gets a line per message.

    Node 0 leads. With faults > 0 it equivocates: the smallest value to itself and `faults` nodes,
    one more to the others.
    """
    chance = stream(seed, "bsmr")
    nodes = [Node(f"r{index}", []) for index in range(replicas)]
    leader = nodes[0]
    for number in range(1, rounds + 1):
        values = {node.name: chance.randint(1, 99) for node in nodes}
        for node in nodes[1:]:
            tell(f"{node.name} > {leader.name}: VALUE round={number} value={values[node.name]}")
        smallest = min(values.values())
        for index, node in enumerate(nodes):
            is_lied_to = faults > 0 and index > faults
            told = smallest + 1 if is_lied_to else smallest
            if node is not leader:
                tell(f"{leader.name} > {node.name}: ANNOUNCE round={number} value={told}")
            node.state.append(told)
            tell(f"  {node.name}: appended {told}")
    return nodes


def has_forked(nodes: list[Node], faults: int) -> bool:
    """Whether two correct nodes appended different values; a faulty leader is node 0."""
    correct = nodes[1:] if faults else nodes
    return any(node.state != correct[0].state for node in correct)
