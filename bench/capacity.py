"""How many builds an hour one cluster carries, and how many clusters an organisation needs. Pure.

Each part of a cluster has a rate of its own, and the least of them is the cluster's. A replica
builds what every other one builds, so more members raise none of these rates.
"""

import math

import msgspec

HOUR = 3600.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `python -m bench members` says of one member count, for one build or one order."""

    replicas: int
    # of one replica, beside the build's own processes
    replica_cpu_seconds: float
    gateway_cpu_seconds: float
    orders_per_second: float
    node_bytes: float


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is set up; every replica alike. slots: `builds_at_once`, or those of a swarm.

    open_builds: how many may be undecided at once (`open_builds_max`, and per gateway
    `open_builds_per_client_max`).
    """

    cores: int
    slots: int
    open_builds: int = 64
    disk_bytes: float = 1e12


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's builds. peak_share: of a day's builds, those in its busiest hour."""

    repositories: int
    builds_per_repository_day: float
    peak_share: float
    build_seconds: float
    build_cpu_seconds: float

    @property
    def peak_builds_per_hour(self) -> float:
        """What has to be carried."""
        return self.repositories * self.builds_per_repository_day * self.peak_share


def builds_per_hour(measured: Measured, cluster: Cluster, work: Work) -> dict[str, float]:
    """The rate of each part by its name; the least one is what the cluster carries."""
    return {
        "build slots": HOUR * cluster.slots / work.build_seconds,
        "cores of a replica": HOUR
        * cluster.cores
        / (work.build_cpu_seconds + measured.replica_cpu_seconds),
        "open builds": HOUR * cluster.open_builds / work.build_seconds,
        # a request, and a ballot of each replica
        "order": HOUR * measured.orders_per_second / (measured.replicas + 1),
        "CPU of the gateway": HOUR / measured.gateway_cpu_seconds,
    }


def clusters_needed(measured: Measured, cluster: Cluster, work: Work) -> int:
    """How many such clusters side by side carry the busiest hour."""
    carried = min(builds_per_hour(measured, cluster, work).values())
    return math.ceil(work.peak_builds_per_hour / carried)


def years_of_disk(measured: Measured, cluster: Cluster, builds_per_day: float) -> float:
    """How long a replica's disk holds the ledger of so many builds a day, which is never cut."""
    return cluster.disk_bytes / (measured.node_bytes * builds_per_day * 365)
