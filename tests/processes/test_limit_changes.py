"""Operators change limits on real nodes, while a build is open and a node is killed."""

from pathlib import Path

import pytest

from ci.ledger import LimitsEntry, decode_entry
from common.configuration.keys import generate_key_files
from tests.processes.build_gate import BuildGate
from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, pipeline
from tests.processes.programs import Ended, client

pytestmark = pytest.mark.processes

OPERATORS = {"anna": "node0", "boris": "node1", "carla": "node2", "dora": "node3"}


def operated_by(folder: Path) -> dict[str, object]:
    """The keys of four operators, and the cluster settings in which each stands for a replica."""
    gateway = folder / "network0" / "run" / "keys" / f"{CLIENT}.public.pem"
    clients: list[dict[str, object]] = [
        {"name": CLIENT, "public_key_file": str(gateway), "roles": ["gateway"]}
    ]
    for name, replica in OPERATORS.items():
        public = folder / f"{name}.public.pem"
        generate_key_files(folder / f"{name}.private.pem", public)
        clients.append(
            {
                "name": name,
                "public_key_file": str(public),
                "roles": ["operator"],
                "operates": [replica],
            }
        )
    return {"clients": clients}


def limits(network: Network, folder: Path, name: str, *words: str) -> Ended:
    """What an operator types."""
    return client(network, "limits", *words, "--operator-key", str(folder / f"{name}.private.pem"))


def test_limits_change_and_builds_that_are_open_keep_theirs(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    gate = BuildGate(tmp_path, None)
    network = make_network(
        {
            "long": pipeline("true", timeout_seconds=100),
            "waiting": pipeline(gate.wait, timeout_seconds=100),
        },
        overrides={"cluster": operated_by(tmp_path)},
    )
    network.start()
    assert network.verdict(network.post("long"))["verdict"]["outcome"] == "passed"
    waiting = network.post("waiting")
    network.wait_until(
        lambda: all(
            network.node(name, f"/builds/{waiting}").json().get("state") == "building"
            for name in network.node_names
        ),
        "the build runs on all",
        VERDICT_SECONDS,
    )

    proposed = limits(network, tmp_path, "anna", "propose", "build_seconds_max=60", "--yes")
    assert proposed.code == 0, proposed
    assert "build_seconds_max  600  60" in proposed.output
    assert "approved for 1 of the 3 replicas needed" in proposed.output
    # While it is down, the others change the limits; then it runs the build from the beginning.
    network.kill("node3")
    pending = client(network, "limits", "pending")
    assert "change 1, proposed by anna" in pending.output, pending
    approved = limits(network, tmp_path, "boris", "approve", "--yes")
    assert "approved for 2 of the 3 replicas needed" in approved.output, approved
    made = limits(network, tmp_path, "carla", "approve", "--yes")
    assert "change 1 is made" in made.output, made
    network.start("node3")
    after = network.verdict(network.post("long"))
    assert after["verdict"]["outcome"] == "pipeline_invalid"

    gate.open(network, waiting)
    view = network.complete(waiting)
    assert view["verdict"]["outcome"] == "passed"
    assert {ballot["outcome"] for ballot in view["ballots"]} == {"passed"}
    entries = [decode_entry(entry.body) for entry in network.settle()]
    (change,) = [entry for entry in entries if isinstance(entry, LimitsEntry)]
    assert [approval.operator for approval in change.approvals] == ["anna", "boris", "carla"]
    assert change.limits["build_seconds_max"] == 60
    shown = client(network, "limits", "show")
    assert f"limits of change 1, for builds opened after {change.since}" in shown.output, shown
    assert "node0, node1, node2, node3" in shown.output
    assert "\n  build_seconds_max: 60\n" in shown.output
    listed = client(network, "ledger")
    assert "by anna, boris, carla" in listed.output, listed
