"""Repositories that come and go while nodes and the gateway run."""

from pathlib import Path

import pytest

from scripts.example_repository import write_repository
from scripts.harness import CLIENT
from tests.processes.build_gate import BuildGate
from tests.processes.conftest import NetworkMaker
from tests.processes.network import VERDICT_SECONDS, Network, ask, pipeline
from tests.processes.programs import Ended, run

pytestmark = pytest.mark.processes


def repository(network: Network, member: str, *command: str | Path) -> Ended:
    """Run a `repository` command of one member, as its operator does."""
    action, *rest = command
    module = "client" if member == CLIENT else "node"
    file = network.config_file(member)
    return run("-m", module, "repository", str(action), "--config", str(file), *map(str, rest))


def metric(network: Network, member: str, name: str) -> float:
    """The value of a gauge without labels."""
    url = network.gateway_url if member == CLIENT else None
    answer = network.node(member, "/metrics") if url is None else ask(f"{url}/metrics")
    (line,) = [x for x in answer.body.decode().splitlines() if x.startswith(f"{name} ")]
    return float(line.split()[1])


def test_a_repository_comes_and_goes_without_a_restart(
    tmp_path: Path, make_network: NetworkMaker
) -> None:
    """Builds that run go on; a bad file changes nothing and says so."""
    gate = BuildGate(tmp_path, None)
    network = make_network({"main": pipeline(gate.wait)})
    network.start()
    pids = {name: process.pid for name, process in network.processes.items()}
    new = tmp_path / "new.git"
    write_repository(new, {"main": pipeline("echo new")})
    waiting = network.post("main")
    body = f'{{"branch": "main", "repoCloneUrl": "{new.as_uri()}"}}'.encode()
    assert ask(f"{network.gateway_url}/webHook", body).status == 404

    folder = network.config_file(CLIENT).parent
    added = run(
        *("-m", "scripts.repositories", "add", "--folder", str(folder)),
        *(str(new), "unsigned_allowed=true", "local_images=[]"),
    )
    assert added.code == 0, added
    members = (*network.node_names, CLIENT)
    for name in members:
        file = network.config_file(name)
        assert f"{name}: reloaded {file}: 1 repository added" in added.output
        assert metric(network, name, "pbftci_configuration_taken") == 1
        assert repository(network, name, "list").output.splitlines()[-1] == new.as_uri()
    assert "unsigned_allowed" not in network.config_file("node0").read_text()
    decided = network.verdict(network.post("main", repoCloneUrl=new.as_uri()))
    assert decided["verdict"]["outcome"] == "passed"

    # One that nobody may ask for, and one that is there: no file is changed.
    texts = {name: network.config_file(name).read_text() for name in members}
    for url in ("https://example.org/other.git", str(new)):
        refused = run("-m", "scripts.repositories", "add", "--folder", str(folder), url)
        assert refused.code == 2
        assert refused.errors.count("\n") == 1
    assert {name: network.config_file(name).read_text() for name in members} == texts

    # A file that only a restart can take.
    network.rewrite("node0", lambda settings: settings.update(builds_at_once=7))
    told = repository(network, "node0", "remove", new)
    assert told.code == 1
    assert "builds_at_once: changed, and needs a restart; a reload takes" in told.output
    assert metric(network, "node0", "pbftci_configuration_taken") == 0
    for name in members[1:]:
        assert repository(network, name, "remove", new).code == 0
    assert ask(f"{network.gateway_url}/webHook", body).status == 404

    gate.open(network, waiting)
    view = network.complete(waiting, seconds=VERDICT_SECONDS)
    assert view["verdict"]["outcome"] == "passed"
    assert [ballot["abstains"] for ballot in view["ballots"]] == [None] * 4
    assert {name: process.pid for name, process in network.processes.items()} == pids
    assert all(network.is_running(name) for name in members)


def test_without_a_process_the_file_alone_is_changed(make_network: NetworkMaker) -> None:
    network = make_network({"main": pipeline("true")})
    url = "https://example.org/team/new.git"
    done = repository(network, "node1", "add", url, "forge=github", "https_user=ci")
    assert (done.code, done.errors) == (0, "")
    assert "node1 does not run; it reads the file at its start" in done.output
    file = network.config_file("node1")
    check = run("-m", "node", "config", "check", "--config", str(file))
    assert check.output == f"{file}: node1, 2 repositories: nothing is wrong with it\n"

    text = file.read_text()
    for arguments, problem in (
        (("add", url), "is there twice; list each once"),
        (("add", "ftp://example.org/x.git"), "protocol 'ftp' is not one of"),
        (("add", "https://example.org/x.git", "frge=github"), "frge: there is no such key (did"),
        (("add", "https://example.org/x.git", "github"), "'github' is no KEY=VALUE"),
        (("remove", "https://example.org/team/ne.git"), "(did you mean https://example.org/team"),
    ):
        refused = repository(network, "node1", *arguments)
        assert refused.code == 2
        assert problem in refused.errors
        assert file.read_text() == text
    other = network.config_file("node2")
    other.write_bytes(other.read_bytes().replace(b"\n", b"\r\n"))
    lines = other.read_bytes().count(b"\r\n")
    assert repository(network, "node2", "add", url).code == 0
    assert other.read_bytes().count(b"\r\n") == lines

    file.write_text(text.replace("name: node1", "name: node7"))
    check = run("-m", "node", "config", "check", "--config", str(file))
    assert (check.code, check.output) == (2, "")
    assert "'node7' is not a replica of" in check.errors
