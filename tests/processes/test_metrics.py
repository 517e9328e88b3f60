"""The alert rules and the dashboard, held against what running nodes and a gateway serve."""

from prometheus_client.parser import text_string_to_metric_families

from tests.processes.conftest import NetworkMaker
from tests.processes.network import Network, ask, pipeline
from tests.scripts.prometheus_queries import dashboard_queries, rule_queries, selectors

SECONDS = 120.0


def served(text: str) -> list[tuple[str, dict[str, str]]]:
    """Each series of a /metrics, as an independent parser reads it; a metric also without one."""
    families = list(text_string_to_metric_families(text))
    found = [(sample.name, sample.labels) for family in families for sample in family.samples]
    ends = {"counter": "_total"}
    return found + [(family.name + ends.get(family.type, ""), {}) for family in families]


def all_served(network: Network) -> list[tuple[str, dict[str, str]]]:
    node = network.node("node0", "/metrics").body
    gateway = ask(f"{network.gateway_url}/metrics").body
    return served(node.decode()) + served(gateway.decode())


def test_alerts_and_dashboard_ask_for_what_is_there(make_network: NetworkMaker) -> None:
    network = make_network({"green": pipeline("echo green")})
    network.start()
    network.complete(network.post("green"))
    asked = selectors([*rule_queries(), *dashboard_queries()])
    assert len(asked) >= 30
    missing: list[str] = []

    def are_all_there() -> bool:
        """The gateway asks the replicas every few seconds; then it knows their clocks."""
        found = all_served(network)
        missing[:] = [
            str(selector)
            for selector in asked
            if not any(selector.finds(name, labels) for name, labels in found)
        ]
        return not missing

    network.wait_until(are_all_there, lambda: f"series for {missing}", SECONDS)
