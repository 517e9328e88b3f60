"""Seed 4, PBFT over HTTP: status, requests, messages, a Byzantine node, three nodes."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.faults.misbehaviours import KINDS
from scripts.folders import ROOT
from tests.processes.network import Answer, Network, ask, pipeline
from tests.processes.programs import client

pytestmark = pytest.mark.processes

SECONDS = 180.0
STATUS_NAMES = {
    "primary",
    "is_primary",
    "view",
    "sequence",
    "f",
    "quorum_size",
    "byzantine_nodes",
    "dissenting_nodes",
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four nodes, of which node1 and node2 may be told to misbehave; and a gateway."""
    branches = {"green": pipeline("echo green"), "red": pipeline("exit 3")}
    allowed = {name: {"fault_injection": "allowed"} for name in ("node1", "node2")}
    with Network(tmp_path_factory.mktemp("seed-4"), branches, overrides=allowed) as made:
        made.start()
        yield made


def post(network: Network, name: str, path: str, body: str | dict[str, Any]) -> Answer:
    """POST to a node."""
    url = network.configuration.nodes[network.node_names.index(name)].listen.url
    text = body if isinstance(body, str) else json.dumps(body)
    return ask(f"{url}{path}", text.encode())


def drawn(network: Network, build: str) -> str:
    """The diagram of a build, as SVG."""
    return ask(f"{network.gateway_url}/api/v1/builds/{build}/messages.svg").body.decode()


def misbehave(network: Network, fault: str | None, name: str = "node2") -> dict[str, Any]:
    """Have a node told by way of node1."""
    wanted = {"node_id": name, "fault": fault}
    answer = post(network, "node1", "/pbft/simulate-byzantine", wanted)
    assert answer.status == 200, answer
    said: dict[str, Any] = answer.json()
    return said


def test_status(network: Network) -> None:
    """GET /pbft/status: primary, is_primary, view, sequence, f, quorum_size.

    And byzantine_nodes, on every node.
    """
    for name in network.node_names:
        status = network.status(name)
        assert status.keys() >= STATUS_NAMES
        primary = f"node{status['view'] % 4}"
        assert (status["primary"], status["is_primary"]) == (primary, name == primary)
        assert (status["f"], status["quorum_size"]) == (1, 3)
        assert isinstance(status["sequence"], int)
        assert isinstance(status["byzantine_nodes"], list)


def test_request(network: Network) -> None:
    """POST /pbft/request: an operation; answers that consensus started.

    With sequence (null on a backup, which waits for the primary's) and digest. An unsigned one is
    refused with the command that signs it, and that command is what is typed here.
    """
    unsigned = post(network, "node0", "/pbft/request", '{"operation":"transfer","amount":100}')
    assert unsigned.status == 401
    assert "python -m client sign TEXT | curl -d @- URL" in unsigned.json()["error"]
    network.settle()
    primary = network.status("node3")["primary"]
    backup = next(name for name in network.node_names if name != primary)
    digests = set()
    for name in (primary, backup):
        before = network.status(name)["sequence"]
        signed = client(network, "sign", '{"operation":"transfer","amount":100}')
        assert signed.code == 0, signed
        answer = post(network, name, "/pbft/request", signed.output)
        assert answer.status == 200, answer
        started = answer.json()
        assert started["status"] == "consensus_started"
        if name == primary:
            assert started["sequence"] > before
        else:
            assert started["sequence"] is None
        digests.add(started["digest"])
        network.wait_until(
            lambda before=before: all(  # type: ignore[misc]
                network.status(node)["sequence"] > before for node in network.node_names
            ),
            "the operation on all",
            SECONDS,
        )
    assert len(digests) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_message(network: Network) -> None:
    """POST /pbft/message: a protocol message.

    One with a good signature is taken, the same with another signature is not.
    """
    served = network.node("node1", "/pbft/log?limit=1&type=Status").json()["messages"]
    assert served
    signed = client(network, "sign", "once more")
    assert signed.code == 0, signed
    taken = post(network, "node3", "/pbft/message", signed.output)
    assert (taken.status, taken.json()["status"]) == (202, "received")
    wire = bytearray(base64.b64decode(json.loads(signed.output)["signed"]))
    wire[-1] ^= 1
    forged = {"signed": base64.b64encode(bytes(wire)).decode()}
    assert post(network, "node3", "/pbft/message", forged).status == 401
    assert post(network, "node3", "/pbft/message", {"type": "PREPARE"}).status == 401


@pytest.mark.parametrize("kind", KINDS)
def test_simulate_byzantine(network: Network, kind: str) -> None:
    """POST /pbft/simulate-byzantine; the status then lists it.

    node1 passes it on to node2, which really misbehaves; the others reach the right verdicts. A
    node whose configuration does not allow it takes no part: neither itself, nor as the target.
    """
    for by, target, status in (("node0", "node0", 403), ("node1", "node0", 502)):
        refused = post(network, by, "/pbft/simulate-byzantine", {"node_id": target})
        assert refused.status == status
        assert "fault injection is off" in refused.json()["error"]
    said = misbehave(network, kind)
    try:
        assert said["byzantine_nodes"] == ["node2"]
        assert "node2" in network.status("node1")["byzantine_nodes"]
        assert network.status("node2")["fault_injection"] == kind
        for branch, right in (("green", ("passed", 0)), ("red", ("failed", 3))):
            verdict = network.verdict(network.post(branch))["verdict"]
            assert (verdict["outcome"], verdict["exit_code"]) == right
    finally:
        misbehave(network, None)
    assert network.status("node2")["fault_injection"] is None
    network.settle()


def test_suspicious(network: Network) -> None:
    """A replica whose digest differs is marked SUSPICIOUS.

    Here two things are told apart: who differs from a verdict dissents, which may be a broken
    compiler; who signed two contradictions is proved to misbehave, and the proof can be checked
    by anybody. A liar alone is the first, an equivocator the second.
    """
    said = misbehave(network, "lying", "node1")
    assert said["byzantine_nodes"] == ["node1"]
    view = network.complete(network.post("green"))
    misbehave(network, None, "node1")
    assert "node1" in view["verdict"]["dissenting"] or _is_late_dissent(view, "node1")
    network.wait_until(
        lambda: "node1" in network.status("node3")["dissenting_nodes"], "the dissent", SECONDS
    )
    network.wait_until(
        lambda: "dissents: failed 1" in drawn(network, view["id"]),
        "dissent in the picture",
        SECONDS,
    )
    assert "node1" not in network.status("node3")["byzantine_nodes"], "a lie proves nothing"

    misbehave(network, "equivocating", "node1")
    # a vote beyond the quorum is not looked at, so one build may not be enough
    for _ in range(60):
        network.verdict(network.post("green"))
        if "node1" in network.status("node3")["byzantine_nodes"]:
            break
    misbehave(network, None, "node1")
    assert "node1" in network.status("node3")["byzantine_nodes"]
    told = client(network, "evidence")
    assert told.code == 0, told
    proofs = told.output.splitlines()
    assert all(line.startswith("holds ") for line in proofs)
    assert any("node1" in line for line in proofs)


def _is_late_dissent(view: dict[str, Any], name: str) -> bool:
    """Its ballot came after the verdict: then it is in the ledger, not in the verdict."""
    ballot = next(b for b in view["ballots"] if b["replica"] == name)
    return bool(ballot["outcome"] == "failed")


def test_messages_as_json(network: Network) -> None:
    """Messages as JSON: type, view, sequence, digest, node, signature.

    REPLY: there is one message for all replies of a turn to one client.
    """
    network.verdict(network.post("green"))
    rows = network.node("node0", "/pbft/log?limit=512").json()["messages"]
    by_type = {row["type"]: row for row in rows}
    for kind in ("PrePrepare", "Prepare", "Commit"):
        row = by_type[kind]
        assert row.keys() >= {"view", "sequence", "digest", "node_id", "signature"}
        assert re.fullmatch("[0-9a-f]{64}", row["digest"])
        assert re.fullmatch("[0-9a-f]{128}", row["signature"])
        assert row["node_id"] in network.node_names
    reply = by_type["Replies"]
    assert reply["node_id"] == "node0"
    assert reply["replies"] >= 1


def test_three_nodes(tmp_path: Path) -> None:
    """Works with 3 nodes and f = 0.

    With a warning, in the log of each node.
    """
    with Network(tmp_path, {"green": pipeline("echo green")}, replicas=3) as network:
        network.start()
        assert network.verdict(network.post("green"))["verdict"]["outcome"] == "passed"
        for name in network.node_names:
            status = network.status(name)
            assert (status["f"], status["quorum_size"], status["replicas"]) == (0, 2, 3)
            log = (tmp_path / "log" / f"{name}.log").read_text()
            assert re.search(r"WARNING.*3 replica\(s\) tolerate no fault", log), log


def test_view_change_and_raft(network: Network) -> None:
    """View change; certificates; a comparison of PBFT with Raft.

    The primary is killed: the others change the view and go on, and each shows the NEW-VIEW with
    which it did. The comparison is in docs/PROTOCOL.md.
    """
    killed = network.status("node3")["primary"]
    others = [name for name in network.node_names if name != killed]
    network.kill(killed)
    try:
        build = network.post("green")
        assert network.verdict(build)["verdict"]["outcome"] == "passed"
        picture = drawn(network, build)
        assert ">NEW-VIEW node" in picture
        assert ">VIEW-CHANGE node" in picture
        assert "enters view" in picture

        def shows_its_new_view(name: str) -> bool:
            status = network.status(name)
            rows = network.node(name, "/pbft/log?limit=512&type=NewView").json()["messages"]
            is_new = status["view"] >= 1 and status["primary"] != killed
            return is_new and status["view"] in [row["view"] for row in rows]

        # a busy machine may be about to change the view once more
        network.wait_until(lambda: all(map(shows_its_new_view, others)), "NEW-VIEWs", SECONDS)
    finally:
        network.start(killed)
    text = (ROOT / "docs" / "PROTOCOL.md").read_text()
    table = text[text.index("## PBFT and Raft") :]
    assert "| | PBFT | Raft |" in table
    assert "certificate" in text
