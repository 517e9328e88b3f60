"""What a bench reads of a node's metrics."""

from bench.network import builds_at_hand
from node.diagnostics.metrics import NodeMetrics
from tests.ci.builders import World


def test_builds_at_hand_are_those_in_any_state() -> None:
    """A build that is only removed still keeps the engine busy."""
    metrics = NodeMetrics(replica="node0", cluster=World().cluster, version="1")
    assert builds_at_hand(metrics.text().decode()) == 0
    metrics.observe_builds(["building", "removing", "removing", "retrying: 2 {x} 7"], open_builds=9)
    assert builds_at_hand(metrics.text().decode()) == 4
    metrics.observe_builds([], open_builds=9)
    assert builds_at_hand(metrics.text().decode()) == 0
