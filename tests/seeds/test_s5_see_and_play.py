"""Seed 5, protocols to see and play with: the diagram of a real build, scenarios, the chain."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest

from pbft.quorums import quorums_for
from tests.processes.network import Network, ask, pipeline, verdict_entries
from tests.processes.programs import client, run

SVG = "{http://www.w3.org/2000/svg}"
SECONDS = 90.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four nodes and a gateway."""
    with Network(tmp_path_factory.mktemp("seed-5"), {"main": pipeline("echo hello")}) as made:
        made.start()
        yield made


def built_in_one_view(network: Network) -> tuple[str, str]:
    """A build, and who was the primary all the while: on a busy machine that may change."""
    for _ in range(5):
        before = network.status("node1")
        build = network.post("main")
        network.complete(build)
        network.settle()
        if network.status("node1")["view"] == before["view"] and before["has_entered_view"]:
            return build, str(before["primary"])
    raise AssertionError("every build changed the view")


@pytest.mark.processes
def test_diagrams(network: Network) -> None:
    """A simple way to visualise and interact with PBFT, phase by phase.

    The diagram of a real build, drawn from what its nodes said, and scenarios of the simulator.
    """
    build, primary = built_in_one_view(network)
    first, second, third = [name for name in network.node_names if name != primary]
    page = ask(f"{network.gateway_url}/builds/{build}/messages")
    assert page.status == 200
    picture = ask(f"{network.gateway_url}/api/v1/builds/{build}/messages.svg")
    assert picture.headers["Content-Type"].startswith("image/svg+xml")
    root = ElementTree.fromstring(picture.body)
    hovers = [title.text or "" for title in root.iter(f"{SVG}title")]
    for kind, source, target in (
        ("REQUEST", "client", primary),
        ("PRE-PREPARE", primary, first),
        ("PREPARE", first, second),
        ("COMMIT", third, primary),
        ("ballot", second, primary),
        ("REPLY", first, "client"),
    ):
        said = f"{kind} {source} \u2192 {target}"
        assert any(hover.startswith(said) for hover in hovers), said
    listed = run("-m", "simulator", "list")
    assert listed.code == 0
    assert len([line for line in listed.output.splitlines() if not line.startswith(" ")]) == 10


@pytest.mark.processes
def test_blocks(network: Network) -> None:
    """A committed request becomes a block of a local chain on each node.

    Each entry names its predecessor's hash; all nodes have the same chain, which `settle` checks,
    and any node's is printed and verified by a command.
    """
    build = network.post("main")
    network.complete(build)
    assert build in [entry.build for entry in verdict_entries(network.settle())]
    printed = client(network, "ledger", "--node", "node1")
    assert (printed.code, build[:12] in printed.output) == (0, True), printed
    verified = client(network, "ledger", "--node", "node3", "--verify")
    assert verified.code == 0
    assert re.match(r"node3: the chain of \d+ entries holds", verified.output)


def test_tolerance() -> None:
    """Tolerance (n-1)/3, deterministic execution.

    Two faulty of seven change nothing; a scenario played twice is the same, line by line.
    """
    assert [quorums_for(n).faults_max for n in (4, 7, 10, 13)] == [1, 2, 3, 4]
    first = run("-m", "simulator", "show", "two-of-seven")
    assert first.output.splitlines()[-1] == "agreed"
    assert run("-m", "simulator", "show", "two-of-seven") == first
    beyond = run("-m", "simulator", "show", "too-many-faulty")
    assert beyond.output.splitlines()[-1] == "forked"
