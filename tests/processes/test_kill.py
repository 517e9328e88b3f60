"""kill -9 of the primary, and of everybody: what was promised is kept."""

import threading
from pathlib import Path

import pytest

from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, pipeline, verdict_entries
from tests.processes.promises import broken_promises

pytestmark = pytest.mark.processes

BRANCHES = {
    "green": pipeline("echo green"),
    "red": pipeline("exit 3"),
    "slow": pipeline("sleep 0.5"),
}


def test_the_primary_killed_in_mid_slot_is_done_without(make_network: NetworkMaker) -> None:
    """It gave a number, too few were there to commit it, and it dies: the others go on, and when
    it is back it contradicts nothing that it said."""
    network = make_network(
        BRANCHES, is_captured=True, overrides={"node": {"view_change_seconds": 1}}
    )
    network.start("node0", "node1", CLIENT)
    build = network.post("green")
    network.wait_until(
        lambda: has_prepared(network, "node1"), "node1 has prepared", VERDICT_SECONDS
    )
    assert network.status("node0")["sequence"] == 0
    network.kill("node0")
    network.start("node2", "node3")
    assert network.verdict(build)["verdict"]["outcome"] == "passed"
    network.start("node0")
    view = network.complete(build)
    assert "node0" in {ballot["replica"] for ballot in view["ballots"]}
    assert [entry.build for entry in verdict_entries(network.settle())] == [build]
    assert broken_promises(network) == []


def test_the_primary_killed_under_load_and_restarted_finishes_all(
    make_network: NetworkMaker,
) -> None:
    network = make_network(BRANCHES, is_captured=True)
    network.start()
    builds: list[str] = []

    def post_all() -> None:
        builds.extend(network.post("green" if number % 2 else "red") for number in range(9))

    def is_decided(build: str) -> bool:
        return any(line["id"] == build for line in network.results)

    poster = threading.Thread(target=post_all)
    poster.start()
    # Not by sequence numbers: how many there are depends on how much fits into a batch.
    for decided in (1, 5):
        wait_for_verdicts(network, decided)
        network.kill("node0")
        builds.append(network.post("green"))
        # On a loaded machine another one is primary by the second time, and orders it at once.
        network.wait_until(
            lambda: network.status("node1")["pending_requests"] > 0 or is_decided(builds[-1]),
            "requests wait",
            VERDICT_SECONDS,
        )
        network.start("node0")
    poster.join(VERDICT_SECONDS)
    assert not poster.is_alive()
    views = network.verdicts(builds)
    assert len(builds) == 11
    assert {view["verdict"]["outcome"] for view in views.values()} == {"passed", "failed"}
    entries = verdict_entries(network.settle())
    assert sorted(entry.build for entry in entries) == sorted(builds)
    assert broken_promises(network) == []


def test_everybody_killed_at_once_goes_on(make_network: NetworkMaker, tmp_path: Path) -> None:
    """A power cut: four nodes and the gateway, with builds in every state."""
    gate = tmp_path / "gate"
    # some go on beside the one that waits, and some are over
    held = pipeline(f"until test -e {gate}; do sleep 0.05; done")
    network = make_network({**BRANCHES, "held": held}, is_captured=True)
    network.start()
    builds = [network.post("held"), *(network.post("slow") for _ in range(11))]
    network.wait_until(lambda: len(network.results) > 0, "the first verdict", VERDICT_SECONDS)
    for name in (*network.node_names, CLIENT):
        network.kill(name)
    gate.touch()
    network.start()
    views = network.verdicts(builds)
    assert {view["verdict"]["outcome"] for view in views.values()} == {"passed"}
    assert sorted(entry.build for entry in verdict_entries(network.settle())) == sorted(builds)
    assert sorted(line["id"] for line in network.results_of(builds)) == sorted(builds)
    assert broken_promises(network) == []


def wait_for_verdicts(network: Network, count: int) -> None:
    """Until node1's ledger has so many entries, all of them verdicts here."""
    network.wait_until(
        lambda: network.status("node1")["ledger_index"] >= count,
        f"{count} verdicts",
        VERDICT_SECONDS,
    )


def has_prepared(network: Network, name: str) -> bool:
    messages = network.node(name, "/pbft/log?limit=512").json()["messages"]
    return any(m["type"] == "Prepare" and m["direction"] == "sent" for m in messages)
