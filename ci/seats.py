"""Which replicas an operator stands for: its seats.

A client with the role `operator of NAME` stands for the replica NAME. What operators decide
together counts by seats. One operator may stand for several replicas, and a replica may have
several operators, but it is one seat.
"""

from collections.abc import Iterable

from pbft.genesis import Cluster

SEAT_ROLE_PREFIX = "operator of "


def seats_of(cluster: Cluster, operators: Iterable[str]) -> tuple[str, ...]:
    """The replicas that these clients stand for, each once, in the genesis' order."""
    roles = {role for name in operators for role in cluster.roles(name)}
    return tuple(name for name in cluster.replica_names if SEAT_ROLE_PREFIX + name in roles)


def seats_with_operators(cluster: Cluster) -> tuple[str, ...]:
    """The replicas that some client stands for."""
    return seats_of(cluster, [member.name for member in cluster.genesis.clients])
