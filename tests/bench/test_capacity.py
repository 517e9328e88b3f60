"""What a cluster carries: its least part does."""

import msgspec
import pytest

from bench.capacity import Cluster, Measured, Work, builds_per_hour, clusters_needed, years_of_disk

MEASURED = Measured(
    replicas=4,
    replica_cpu_seconds=0.1,
    gateway_cpu_seconds=0.02,
    orders_per_second=1000.0,
    node_bytes=7000.0,
)
CLUSTER = Cluster(cores=16, slots=16)
WORK = Work(
    repositories=10_000,
    builds_per_repository_day=4,
    peak_share=0.15,
    build_seconds=300,
    build_cpu_seconds=150,
)


def test_each_part_has_a_rate() -> None:
    assert builds_per_hour(MEASURED, CLUSTER, WORK) == {
        "build slots": pytest.approx(16 * 12),
        "cores of a replica": pytest.approx(16 * 3600 / 150.1),
        "open builds": pytest.approx(64 * 12),
        "order": pytest.approx(1000 * 3600 / 5),
        "CPU of the gateway": pytest.approx(180_000),
    }


def test_more_members_raise_no_rate() -> None:
    thirteen = msgspec.structs.replace(MEASURED, replicas=13)
    fewer = builds_per_hour(thirteen, CLUSTER, WORK)
    assert all(
        rate >= fewer[part] for part, rate in builds_per_hour(MEASURED, CLUSTER, WORK).items()
    )


@pytest.mark.parametrize(
    ("slots", "clusters"), [(16, 32), (64, 8), (128, 8)], ids=["slots", "both", "open builds"]
)
def test_clusters_carry_the_busiest_hour_together(slots: int, clusters: int) -> None:
    """6,000 builds; a slot has 12 an hour, and 64 open builds have 768."""
    cluster = Cluster(cores=slots, slots=slots)
    assert clusters_needed(MEASURED, cluster, WORK) == clusters


def test_a_disk_lasts_as_its_bytes_divide() -> None:
    cluster = Cluster(cores=1, slots=1, disk_bytes=7000.0 * 365 * 10)
    assert years_of_disk(MEASURED, cluster, builds_per_day=5) == pytest.approx(2)
