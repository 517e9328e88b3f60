"""The life of a build on real nodes: followed, cancelled, done again, superseded, given up."""

import http.client
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from client.logs.build_output import BuildOutput
from common.configuration.keys import generate_key_files
from tests.forge_server import ForgeServer
from tests.processes.build_gate import BuildGate, Containers
from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, ask, pipeline, verdict_entries
from tests.processes.programs import client
from tests.processes.test_forges import deliver, forge, fork_pull_request, hooked
from tests.waiting import block_until

pytestmark = pytest.mark.processes

__all__ = ["forge"]

OPERATOR = "operator"
# A machine with nothing else to do needs less than five; this one may have a lot to do.
GONE_SECONDS = 90.0
# Ignores the first signal, as a hostile build does.
STUBBORN = ("trap '' TERM INT HUP", "echo begun", "sleep 600 & while true; do wait; done")


def with_operator(folder: Path, **cluster: object) -> tuple[Path, dict[str, object]]:
    """The key of an operator beside the gateway, and the cluster settings that know it."""
    keys = folder / "operator-keys"
    private, public = keys / "private.pem", keys / "public.pem"
    keys.mkdir()
    generate_key_files(private, public)
    gateway = folder / "network0" / "run" / "keys" / f"{CLIENT}.public.pem"
    clients = [
        {"name": CLIENT, "public_key_file": str(gateway), "roles": ["gateway"]},
        {"name": OPERATOR, "public_key_file": str(public), "roles": [OPERATOR]},
    ]
    return private, {"clients": clients, **cluster}


def change(network: Network, build: str, what: str, body: object = None) -> dict[str, Any]:
    data = json.dumps({} if body is None else body).encode()
    answer = ask(f"{network.gateway_url}/api/v1/builds/{build}/{what}", data)
    assert answer.status in (200, 202), answer
    value: dict[str, Any] = answer.json()
    return value


def states(network: Network, build: str) -> dict[str, dict[str, Any]]:
    return {row["replica"]: row for row in network.build(build)["replicas"]}


def wait_for_states(
    network: Network, build: str, condition: Callable[[dict[str, dict[str, Any]]], bool]
) -> None:
    network.wait_until(
        lambda: condition(states(network, build)),
        lambda: f"{states(network, build)}",
        VERDICT_SECONDS,
    )


def has_ended(network: Network, name: str, build: str) -> bool:
    """Whether a node is no longer at a build, which it has begun."""
    return bool(network.node(name, f"/builds/{build}").json()["state"] == "none")


def all_are(state: str) -> Callable[[dict[str, dict[str, Any]]], bool]:
    return lambda rows: (
        bool(rows) and all(str(row["state"]).startswith(state) for row in rows.values())
    )


class Events:
    """One connection to a stream of server-sent events."""

    def __init__(self, network: Network, path: str, last_id: str = "") -> None:
        host, _, port = network.gateway_url.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=VERDICT_SECONDS)
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self._connection.request("GET", path, headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._response.headers["Content-Type"] == "text/event-stream"
        self.last_id = last_id
        self.text = ""

    def next(self) -> str:
        """The kind of the next event; its text is added to what there was."""
        fields: dict[str, str] = {}
        while True:
            line = self._response.readline().decode().rstrip("\r\n")
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                self.last_id = fields["id"]
                if fields["event"] == "output":
                    spans = json.loads(fields["data"])["spans"]
                    self.text += "".join(text for _, text in spans)
                return fields["event"]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_followed_while_it_grows_across_lost_connections(
    engine: Engine,
    make_network: NetworkMaker,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    lines = 30
    is_in_containers = engine.executor == "docker"
    gate = BuildGate(
        tmp_path, request.getfixturevalue("docker_engine") if is_in_containers else None
    )
    written = "printf '\\033[32mline %s\\033[0m\\n' $i"
    commands = (
        f"for i in $(seq 1 12); do {written}; sleep 0.1; done",
        gate.wait,
        f"for i in $(seq 13 {lines}); do {written}; done",
    )
    network = make_network(
        {"master": pipeline(*commands, image=engine.image)}, executor=engine.executor
    )
    network.start()
    build = network.post("master")
    path = f"/api/v1/builds/{build}/replicas/node2/log/events"
    texts: list[str] = []
    last_id, kind = "", ""
    for wanted in ("line 3\n", "line 12\n"):
        events = Events(network, path, last_id)
        # on a slow machine the first connection may have brought it already
        while wanted not in "".join(texts) + events.text:
            assert events.next() != "end"
        last_id = events.last_id
        texts.append(events.text)
        events.close()
    assert network.build(build)["logs"] == [], "it was followed while it grew"
    events = Events(network, path, last_id)
    gate.open(network, build)
    while kind != "end":
        kind = events.next()
    texts.append(events.text)

    gate.open_for_all(network, build)
    network.complete(build)
    archived = ask(f"{network.gateway_url}/api/v1/builds/{build}/log/node2").body
    output = BuildOutput()
    spans = [*output.take(archived), *output.take(b"", is_last=True)]
    assert "".join(texts) == "".join(span.text for span in spans)
    assert re.findall(r"^line (\d+)$", "".join(texts), re.MULTILINE) == [
        str(number) for number in range(1, lines + 1)
    ]
    printed = client(network, "log", build, "--replica", "node2", "--follow")
    assert (printed.code, printed.output.encode()) == (0, archived)


# --- cancel ---------------------------------------------------------------------------------------


@pytest.mark.docker
def test_cancelled_builds_leave_no_container_on_any_node(
    docker_engine: docker.DockerClient, base_image: str, make_network: NetworkMaker, tmp_path: Path
) -> None:
    """One by its gateway, one by an operator; both running and ignoring signals, one queued."""
    private_key, cluster = with_operator(tmp_path)
    branches = {
        "stubborn": pipeline(*STUBBORN, image=base_image),
        "master": pipeline("echo fine", image=base_image),
    }
    network = make_network(
        branches,
        executor="docker",
        overrides={"cluster": cluster, "node": {"builds_at_once": 2}},
    )
    network.start()
    containers = Containers(docker_engine, network)
    builds: list[str] = []
    for state in ("building", "building", "waiting"):
        builds.append(network.post("stubborn"))
        wait_for_states(network, builds[-1], all_are(state))
    for build in builds[:2]:
        block_until(
            lambda build=build: set(containers.of(build)) == set(network.node_names),  # type: ignore[misc]
            "a container on each node",
        )
    cancelled = client(network, "cancel", builds[2], "--reason", "not this one")
    assert cancelled.code == 0, cancelled
    cancelled = client(network, "cancel", builds[0][:12])
    assert cancelled.code == 0, cancelled
    by_operator = client(network, "cancel", builds[1], "--operator-key", str(private_key))
    assert by_operator.code == 0, by_operator
    assert f"ordered by {OPERATOR}" in by_operator.output

    verdicts = network.verdicts(builds)
    block_until(lambda: not containers.of(), "no container of any build", GONE_SECONDS)
    assert {view["verdict"]["outcome"] for view in verdicts.values()} == {"cancelled"}
    assert verdicts[builds[2]]["detail"] == "not this one"
    assert client(network, "status", builds[0]).code == 1
    # the places are free again
    assert network.verdict(network.post("master"))["verdict"]["outcome"] == "passed"
    block_until(lambda: not containers.of(), "no container of the last build", GONE_SECONDS)


def test_an_operators_key_is_refused_where_it_is_none(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    private_key, cluster = with_operator(tmp_path)
    network = make_network({"master": pipeline("true")}, overrides={"cluster": cluster})
    network.start()
    build = network.post("master")
    network.verdict(build)
    key_of_client = network.folder / "run" / "keys" / f"{CLIENT}.private.pem"
    ended = client(network, "cancel", build, "--operator-key", str(key_of_client))
    assert ended.code == 3
    assert "client has not the role operator" in ended.errors
    # twice, for an operator counts its requests by asking the replicas
    for _ in range(2):
        ended = client(network, "cancel", build, "--operator-key", str(private_key))
        assert ended.code == 3
        assert "no such undecided build" in ended.errors
    ended = client(network, "approve", build, "--operator-key", str(private_key), "--yes")
    assert (ended.code, "check that it is open" in ended.errors) == (3, True), ended
    # a note is about a build that is over, too
    ended = client(network, "note", build, "signed here", "--operator-key", str(private_key))
    assert (ended.code, f"note ordered by {OPERATOR}" in ended.output) == (0, True), ended
    assert client(network, "note", build, "said here").code == 0
    notes = [f"note     by {OPERATOR}: signed here", f"note     by {CLIENT}: said here"]
    block_until(
        lambda: [line[8:] for line in client(network, "note", build).output.splitlines()] == notes,
        "both notes in the checked ledger",
    )
    assert f"by {OPERATOR}: signed here" in client(network, "ledger").output
    audit = client(network, "audit").output.split()
    assert (audit[1], audit[2]) == ("note", build[:12])
    network.stop("node1")
    network.stop("node2")
    ended = client(network, "cancel", build, "--operator-key", str(private_key))
    assert ended.code == 3
    assert "2 of 4 replicas answer, 3 are needed" in ended.errors


def test_an_operator_approves_a_strangers_pull_request(
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    private_key, cluster = with_operator(tmp_path)
    branches = {"master": pipeline("true")}
    branches["changes"] = pipeline("echo of a stranger")
    network = make_network(branches, overrides={"cluster": cluster})
    head = network.commits["changes"]
    subprocess.run(
        ["git", "-C", str(network.repository), "update-ref", "refs/pull/3/head", head], check=True
    )
    hooked(network, forge, tmp_path, "gateway")
    network.start()
    build = str(deliver(network, "pull_request", fork_pull_request(3, head)).json()["build"])
    network.wait_until(
        lambda: network.build(build)["status"] == "building", "it is open", VERDICT_SECONDS
    )
    # whoever signs sees what it is first, and is asked; here nobody can be
    shown = [
        f"repository  {network.repository.as_uri()}",
        f"commit      {head}",
        "request     refs/pull/3/head for master (pull_request)",
        "author      Bertha (according to the forge)",
    ]
    for key in ((), ("--operator-key", str(private_key))):
        ended = client(network, "approve", build, *key)
        assert ended.code == 2, ended
        assert ended.output.splitlines()[1:] == shown
        assert "add --yes" in ended.errors
    ended = client(network, "approve", build, "--yes")
    assert ended.code == 3
    assert "client is no operator of this cluster" in ended.errors
    ended = client(network, "approve", build, "--operator-key", str(private_key), "--yes")
    assert ended.code == 0, ended
    view = network.verdict(build)
    assert (view["verdict"]["outcome"], view["commit"]) == ("passed", head)
    # the same commit needs no second approval
    ended = client(network, "rebuild", build, "--wait")
    assert ended.code == 0, ended


# --- again, and newer -----------------------------------------------------------------------------


def test_a_rebuild_builds_the_same_commit_again(make_network: NetworkMaker) -> None:
    network = make_network({"master": pipeline("exit 3")})
    network.start()
    build = network.post("master")
    network.verdict(build)
    ended = client(network, "rebuild", build[:10], "--wait")
    assert ended.code == 1, ended
    again = ended.output.split()[0]
    view = network.build(again)
    assert view["rebuild_of"] == build
    assert view["commit"] == network.commits["master"]
    assert view["verdict"]["outcome"] == "failed"
    assert network.build(build)["rebuilds"] == [again]
    assert {entry.build for entry in verdict_entries(network.settle())} == {build, again}


def test_a_newer_push_supersedes_a_running_and_a_queued_build(make_network: NetworkMaker) -> None:
    def configure(settings: dict[str, Any]) -> None:
        settings["repositories"][0] |= {"supersede": True, "open_builds_max": 1}

    network = make_network({"slow": pipeline("sleep 600"), "other": pipeline("sleep 600")})
    network.rewrite(CLIENT, configure)
    network.start()
    running = network.post("slow")
    wait_for_states(network, running, all_are("building"))
    queued = network.post("other")
    newer = network.post("other")
    assert network.build(queued)["status"] == "cancelled", "it was never asked for"
    assert network.build(queued)["detail"] == f"superseded by {newer}"
    newest = network.post("slow")
    view = network.verdict(running)
    assert view["verdict"]["outcome"] == "cancelled"
    assert view["detail"] == f"superseded by {newest}"
    assert "superseded" in client(network, "status", running).output
    for build in (newer, newest):
        assert network.build(build)["withdrawn"] is None
        change(network, build, "cancel")
    over = {"decided", "cancelled"}
    network.wait_until(
        lambda: all(network.build(build)["status"] in over for build in (newer, newest)),
        "the end of both",
        VERDICT_SECONDS,
    )


def test_a_crowd_of_one_repository_does_not_delay_another(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    """Sixteen of one are queued on nodes with one place each; the other's is soon among them."""
    gate = BuildGate(tmp_path, None)
    other = make_network({"master": pipeline("true")})
    network = make_network(
        {"master": pipeline(gate.wait)}, overrides={"node": {"builds_at_once": 1}}
    )

    def add_client(settings: dict[str, Any]) -> None:
        settings["repositories"].append({"url": str(other.repository), "unsigned_allowed": True})

    def add_node(settings: dict[str, Any]) -> None:
        settings["repositories"].append({"url": str(other.repository)})

    network.rewrite(CLIENT, add_client)
    for name in network.node_names:
        network.rewrite(name, add_node)
    network.start()
    crowd = [network.post("master") for _ in range(16)]
    late = network.post("master", repoCloneUrl=other.repository.as_uri())
    wait_for_states(network, late, all_are("waiting"))
    gate.open(network, late)
    network.verdicts([*crowd, late], 2 * VERDICT_SECONDS)
    order = [entry.build for entry in verdict_entries(network.settle())]
    assert len(order) == 17
    # Those that had a place when it came, and a few while the replicas were not in step.
    assert order.index(late) < 10, order.index(late)


# --- given up -------------------------------------------------------------------------------------


def test_a_build_that_nobody_finishes_is_disputed_and_says_who_did_what(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    """One finds it passed, one lies, one may not build it, one dies in the middle."""
    overrides: dict[str, dict[str, object]] = {
        "cluster": {"limits": {"deadline_seconds": 2}},
        "node2": {"fault_injection": "lying"},
    }
    gate = BuildGate(tmp_path, None)
    network = make_network({"master": pipeline(gate.wait)}, overrides=overrides)

    def build_nothing(settings: dict[str, Any]) -> None:
        settings["repositories"][0]["url"] = "https://example.org/another.git"

    network.rewrite("node1", build_nothing)
    network.start()
    build = network.post("master")
    wait_for_states(network, build, lambda rows: rows["node3"]["state"] == "building")
    network.kill("node3")
    gate.open(network, build)
    view = network.verdict(build)
    assert view["verdict"]["outcome"] == "disputed"

    def is_told() -> bool:
        rows = states(network, build)
        have_ballots = all(rows[name]["has_ballot"] for name in ("node0", "node1", "node2"))
        return have_ballots and bool(rows["node3"]["problem"])

    network.wait_until(is_told, lambda: f"all ballots: {states(network, build)}", VERDICT_SECONDS)
    rows = states(network, build)
    assert rows["node0"]["state"] == "found passed 0"
    assert rows["node1"]["state"].startswith("abstains: ")
    assert rows["node2"]["state"] == "found failed 1"
    assert rows["node3"]["has_ballot"] is False
    assert rows["node3"]["state"] == "building"
    assert rows["node3"]["seen"]
    printed = client(network, "wait", build)
    assert printed.code == 5
    assert re.search(r"node3 +no ballot: building \(last seen .*\); node3: ", printed.output)
    page = ask(f"{network.gateway_url}/builds/{build}").body.decode()
    assert "building, last seen" in page
    assert "no answer: node3" in page
    # it is kept: a gateway that starts again still says so
    network.kill(CLIENT)
    network.start(CLIENT)
    assert states(network, build)["node3"]["state"] == "building"


def test_with_two_of_four_stopped_a_build_waits_and_is_decided_once_one_is_back(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    """Nothing can be ordered by two of four, not even that a deadline passed."""
    gate = BuildGate(tmp_path, None)
    network = make_network(
        {"master": pipeline(gate.wait)}, overrides={"cluster": {"limits": {"deadline_seconds": 1}}}
    )
    network.start()
    build = network.post("master")
    wait_for_states(network, build, all_are("building"))
    network.kill("node2")
    network.kill("node3")
    wait_for_states(
        network, build, lambda rows: bool(rows["node2"]["problem"] and rows["node3"]["problem"])
    )
    gate.open(network, build)
    network.wait_until(
        lambda: all(has_ended(network, name, build) for name in ("node0", "node1")),
        "both have built it",
        VERDICT_SECONDS,
    )
    # nothing but time passes the deadline, and the command waits besides
    printed = client(network, "wait", build, "--timeout", "2")
    assert printed.code == 4
    assert re.search(r"node3 +no ballot: building", client(network, "status", build).output)
    network.start("node3")
    assert network.verdict(build)["verdict"]["outcome"] == "passed"


@pytest.mark.docker
def test_a_node_that_is_killed_in_mid_build_builds_again_after_its_start(
    docker_engine: docker.DockerClient, base_image: str, make_network: NetworkMaker
) -> None:
    gate = BuildGate(Path(), docker_engine)
    network = make_network(
        {"master": pipeline("echo begun", gate.wait, image=base_image)}, executor="docker"
    )
    network.start()
    containers = Containers(docker_engine, network)
    build = network.post("master")
    network.wait_until(
        lambda: "node1" in containers.of(build), "a container of node1", VERDICT_SECONDS
    )
    leftover = containers.of(build)["node1"]
    network.kill("node1")
    assert set(leftover) <= set(containers.of(build).get("node1", [])), "nobody removed it"
    network.start("node1")
    network.wait_until(
        lambda: not set(leftover) & set(containers.of(build).get("node1", [])),
        "the leftover is gone",
        VERDICT_SECONDS,
    )
    gate.open_for_all(network, build)
    view = network.complete(build)
    assert view["verdict"]["outcome"] == "passed"
    assert {ballot["replica"] for ballot in view["ballots"]} == set(network.node_names)
    log = ask(f"{network.gateway_url}/api/v1/builds/{build}/log/node1").body
    assert log.count(b"\nbegun\n") == 1, "the log is of the second run alone"
    network.settle()
    block_until(lambda: containers.of() == {}, "no container is left", GONE_SECONDS)
