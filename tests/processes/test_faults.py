"""One of four is down, lies, is silent, or has trouble of its own: the verdicts stay right."""

import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest

from ci.ledger import LateBallotEntry, decode_entry
from pbft.ports import Entry
from scripts.base_image import EXAMPLE_IMAGE
from tests.node.conftest import things_of
from tests.processes.build_gate import BuildGate
from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.gate import Gate, GitServer
from tests.processes.network import VERDICT_SECONDS, Network, pipeline
from tests.processes.programs import client, run
from tests.waiting import block_until

pytestmark = pytest.mark.processes

HONEST = ["node0", "node1", "node2"]


def two_branches(image: str = EXAMPLE_IMAGE) -> dict[str, dict[str, str]]:
    return {
        "green": pipeline("echo green", image=image),
        "red": pipeline("echo red", "exit 3", image=image),
    }


def outcome(view: dict[str, Any]) -> tuple[str, int | None]:
    return view["verdict"]["outcome"], view["verdict"]["exit_code"]


def test_one_node_down_and_back(make_network: NetworkMaker) -> None:
    """Three decide; the fourth, once it is there, catches up and casts its ballots too."""
    network = make_network(two_branches())
    network.start(*HONEST, "client")
    builds = {branch: network.post(branch) for branch in ("green", "red", "none")}
    views = {branch: network.complete(build, ballots=3) for branch, build in builds.items()}
    assert outcome(views["green"]) == ("passed", 0)
    assert outcome(views["red"]) == ("failed", 3)
    assert outcome(views["none"]) == ("checkout_failed", 128)
    assert all(sorted(v["verdict"]["agreeing"]) == HONEST for v in views.values())
    network.settle(HONEST, are_builds_closed=False)
    network.start("node3")
    for build in builds.values():
        view = network.complete(build, ballots=4)
        assert sorted(view["verdict"]["agreeing"]) == [*HONEST, "node3"]
    network.settle()


def test_a_liar_is_outvoted_and_named(
    engine: Engine, make_network: NetworkMaker, tmp_path: Path
) -> None:
    network = make_network(
        two_branches(engine.image),
        executor=engine.executor,
        overrides={"node3": {"fault_injection": "lying"}},
    )
    network.start()
    builds: dict[str, str] = {}
    for branch, right, lie in (("green", "passed", "failed"), ("red", "failed", "passed")):
        builds[branch] = network.post(branch)
        view = network.complete(builds[branch])
        assert view["verdict"]["outcome"] == right
        assert sorted(view["verdict"]["agreeing"]) == HONEST
        assert view["verdict"]["dissenting"] == ["node3"]
        told = {ballot["replica"]: ballot["outcome"] for ballot in view["ballots"]}
        assert told == {"node0": right, "node1": right, "node2": right, "node3": lie}
    ledger = network.settle()
    late = [b for b in late_ballots(ledger) if b.ballot.replica == "node3"]
    assert all(ballot.agrees is False for ballot in late)
    assert network.status("node3")["byzantine_nodes"] == ["node3"]
    assert network.status("node0")["byzantine_nodes"] == []
    check_supplement(network, builds["green"], tmp_path)


def check_supplement(network: Network, build: str, folder: Path) -> None:
    """What f+1 nodes sign of a decided build, checked offline: node3 contradicted its verdict."""
    proof, supplement = str(folder / "proof.json"), str(folder / "supplement.json")
    files = ("--output", proof, "--supplement", supplement)
    ended = client(network, "attest", build, *files)
    assert ended.code == 0, ended
    cluster = ("--cluster", str(network.configuration.cluster.file))
    asked = ("verify", proof, *cluster, "--any", "--supplement", supplement)
    ended = run("-m", "client", *asked)
    assert ended.code == 0, ended
    assert "contradict  node3" in ended.output
    assert "final       no further ballot" in ended.output
    assert run("-m", "client", *asked, "--no-contradiction").code == 1


def test_a_silent_node_is_done_without(make_network: NetworkMaker) -> None:
    network = make_network(
        two_branches(),
        overrides={"node3": {"fault_injection": "silent"}},
    )
    network.start()
    builds = {branch: network.post(branch) for branch in ("green", "red")}
    views = {branch: network.complete(build, ballots=3) for branch, build in builds.items()}
    assert (outcome(views["green"]), outcome(views["red"])) == (("passed", 0), ("failed", 3))
    network.settle(HONEST, are_builds_closed=False)
    for build in builds.values():
        view = network.build(build)
        assert sorted(view["verdict"]["agreeing"]) == HONEST
        assert "node3" not in {ballot["replica"] for ballot in view["ballots"]}
        assert "node3" not in {reply["replica"] for reply in view["replies"]}


@pytest.mark.docker
@pytest.mark.parametrize("socket_name", ["gone.sock", "dead.sock"])
def test_a_node_without_its_engine_abstains(
    base_image: str, make_network: NetworkMaker, tmp_path: Path, socket_name: str
) -> None:
    """gone: there is no such socket. dead: a file is there, and nobody listens."""
    dead = tmp_path / socket_name
    if socket_name == "dead.sock":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(dead))
    network = make_network(
        {"green": pipeline("echo green", image=base_image)},
        executor="docker",
        overrides={"node3": {"docker_host": f"unix://{dead}", "abstain_after_seconds": 2}},
    )
    network.start()
    view = network.complete(network.post("green"))
    assert outcome(view) == ("passed", 0)
    assert sorted(view["verdict"]["agreeing"]) == HONEST
    assert view["verdict"]["dissenting"] == []
    (abstained,) = [ballot for ballot in view["ballots"] if ballot["abstains"] is not None]
    assert abstained["replica"] == "node3"
    assert "docker" in abstained["abstains"].lower()
    assert abstained["outcome"] is None
    network.settle()


@pytest.mark.parametrize(
    "tries", [pytest.param(3, marks=pytest.mark.short), pytest.param(6, marks=pytest.mark.long)]
)
def test_a_git_server_that_two_replicas_cannot_reach_for_a_while(
    make_network: NetworkMaker, tries: int
) -> None:
    """To one the server is off, to the other it says nothing. Neither calls the build failed."""
    network = make_network(two_branches())
    with (
        GitServer(network.repository) as server,
        Gate(server.connect) as off,
        Gate(server.connect, is_silent=True) as lost,
    ):
        for name, gate in (("node2", off), ("node3", lost)):
            fetch_through(network, name, server.url(gate.port))
        network.start()
        build = network.post("green")
        network.wait_until(
            lambda: {b["replica"] for b in network.build(build)["ballots"]} == {"node0", "node1"},
            "the ballots of the two that reach the server",
            VERDICT_SECONDS,
        )
        network.wait_until(
            lambda: executor_state(network, "node2", build).startswith("retrying: "),
            "node2 tries again",
            VERDICT_SECONDS,
        )
        network.wait_until(
            lambda: executor_state(network, "node3", build) == "checkout" and lost.tries > 0,
            "node3 waits for the server",
            VERDICT_SECONDS,
        )

        def has_tried_in_vain() -> bool:
            # Two equal ballots are too few for `passed`, and nobody may say anything else.
            view = network.build(build)
            assert view["status"] == "building"
            assert len(view["ballots"]) <= 2
            return infrastructure_errors(network, "node2") >= tries

        network.wait_until(has_tried_in_vain, f"node2 tries {tries} times", VERDICT_SECONDS)
        off.open()
        lost.open()
        view = network.complete(build)
        assert outcome(view) == ("passed", 0)
        assert sorted(view["verdict"]["agreeing"]) == [*HONEST, "node3"]
        assert all(ballot["abstains"] is None for ballot in view["ballots"])
        network.settle()


@pytest.mark.docker
def test_an_engine_that_goes_away_in_the_middle_of_a_build(
    docker_engine: docker.DockerClient, base_image: str, make_network: NetworkMaker
) -> None:
    """The node tries again when the engine is back, and nothing of the first try is left."""
    with Gate(connect_to_engine) as gate:
        gate.open()
        build_gate = BuildGate(Path(), docker_engine)
        network = make_network(
            {"held": pipeline(build_gate.wait, image=base_image)},
            executor="docker",
            overrides={"node3": {"docker_host": f"tcp://127.0.0.1:{gate.port}"}},
        )
        network.start()
        build = network.post("held")
        network.wait_until(
            lambda: executor_state(network, "node3", build) == "building",
            "node3 builds",
            VERDICT_SECONDS,
        )
        gate.shut()
        network.wait_until(
            lambda: executor_state(network, "node3", build).startswith("retrying: "),
            "node3 tries again",
            VERDICT_SECONDS,
        )
        gate.open()
        build_gate.open_for_all(network, build)
        view = network.complete(build)
        assert view["verdict"]["outcome"] == "passed"
        assert sorted(view["verdict"]["agreeing"]) == [*HONEST, "node3"]
        network.settle()
        cluster_id = bytes.fromhex(network.status("node0")["cluster"])
        block_until(lambda: not things_of(docker_engine, cluster_id), "nothing is left")


def connect_to_engine() -> socket.socket:
    """A connection to the engine of this machine, as DOCKER_HOST or its default says."""
    url = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if url.scheme != "unix":
        return socket.create_connection((url.hostname or "127.0.0.1", url.port or 2375))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(url.path)
    return connection


def fetch_through(network: Network, name: str, url: str) -> None:
    """Have a node fetch the repository from another place."""

    def change(settings: dict[str, Any]) -> None:
        settings["repositories"][0]["fetch_url"] = url

    network.rewrite(name, change)


def executor_state(network: Network, name: str, build: str) -> str:
    answer = network.node(name, f"/builds/{build}")
    return str(answer.json()["state"]) if answer.status == 200 else ""


def infrastructure_errors(network: Network, name: str) -> int:
    """How often the log of a node says that it could not do a build."""
    log = (network.folder / "log" / f"{name}.log").read_text()
    return len(re.findall(r"WARNING.* build [0-9a-f]{64}: ", log))


def late_ballots(ledger: list[Entry]) -> list[LateBallotEntry]:
    decoded = [decode_entry(entry.body) for entry in ledger]
    return [entry for entry in decoded if isinstance(entry, LateBallotEntry)]
