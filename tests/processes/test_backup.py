"""A node and a gateway that lose their disks, and come back from backups that are older."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.network import CLIENT, Network, ask, pipeline, verdict_entries
from tests.processes.programs import client, run

pytestmark = pytest.mark.processes

BRANCHES = {"green": pipeline("echo said by a green build"), "red": pipeline("exit 3")}
RULES = {"cluster": {"checkpoint_interval": 8, "window": 16}}
RECOVERY_SECONDS = 180.0
NODE = "node2"
OTHERS = ("node0", "node1", "node3")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path, BRANCHES, overrides=RULES) as network:
        network.start()
        yield network


def node(network: Network, *command: str) -> tuple[int | None, str]:
    """Run a command of the node's program: its exit code, and all that it printed."""
    ended = run("-m", "node", "--config", str(network.config_file(NODE)), *command)
    return ended.code, ended.output + ended.errors


def test_a_node_that_lost_its_disk_recovers_and_contradicts_nothing(network: Network) -> None:
    old = network.post("green")
    network.complete(old)
    network.settle()
    backup = network.folder / "backup.tar"
    flags = ("--with-logs", "--with-private-key")
    assert node(network, "backup", "--output", str(backup), *flags)[0] == 0, "while it runs"
    network.verdicts([network.post("red"), network.post("green")])
    # beyond what the replica executes once more, for builds among that write their logs anew
    for number in range(3 * RULES["cluster"]["window"] // 2):
        body = b'{"text": "%d"}' % number
        assert ask(f"{network.gateway_url}/api/v1/append", body).status == 200
    network.settle()
    code, printed = node(network, "restore", str(backup))
    assert code == 2
    assert "serves from here; stop it first" in printed

    # the machine is lost: data, key and configuration
    network.kill(NODE)
    key, config = network.key_file(NODE), network.config_file(NODE)
    configuration = config.read_bytes()
    shutil.rmtree(network.data_directory(NODE))
    for file in (key, config):
        file.unlink()
    code, printed = node(network, "restore", str(backup))
    assert code == 0, printed
    assert "at its next start the replica recovers" in printed
    assert config.read_bytes() == configuration
    assert key.stat().st_mode & 0o777 == 0o600

    # so that it does not recover before anybody looks
    for name in OTHERS:
        network.processes[name].send_signal(signal.SIGSTOP)
    network.start(NODE)
    assert network.status(NODE)["status"] == "recovering"
    for name in OTHERS:
        network.processes[name].send_signal(signal.SIGCONT)
    network.wait_until(
        lambda: network.status(NODE)["status"] == "normal" and network.status(NODE)["in_sync"],
        f"{NODE} votes again",
        RECOVERY_SECONDS,
    )
    # with one of the others down its ballot is needed
    network.kill("node3")
    view = network.complete(network.post("green"), ballots=3)
    assert sorted(view["verdict"]["agreeing"]) == ["node0", "node1", NODE]
    network.start("node3")
    ledger = network.settle(are_builds_closed=False, seconds=RECOVERY_SECONDS)
    assert len(verdict_entries(ledger)) == 4
    for name in network.node_names:
        assert network.node(name, "/pbft/evidence").json()["evidence"] == []
        assert "forgot" not in network.folder.joinpath("log", f"{name}.log").read_text()
    opened = verdict_entries(ledger)[0].opened
    served = network.node(NODE, f"/builds/{old}/log?opened={opened}")
    assert served.status == 200
    assert b"said by a green build" in served.body


def test_a_gateway_that_lost_its_disk_goes_on_where_its_backup_was(network: Network) -> None:
    old = network.post("green")
    network.complete(old)
    # so that it has something to write meanwhile
    waiting = [network.post("red") for _ in range(5)]
    backup = network.folder / "backup.tar"
    made = client(network, "backup", "--output", str(backup), "--with-logs")
    assert made.code == 0, made
    network.verdicts(waiting)
    lost = network.post("green")
    network.verdict(lost)
    network.kill(CLIENT)
    shutil.rmtree(network.data_directory(CLIENT))
    restored = client(network, "restore", str(backup))
    assert restored.code == 0, restored
    network.start(CLIENT)
    assert {view["verdict"]["outcome"] for view in network.verdicts(waiting).values()} == {"failed"}
    new = network.post("green")
    assert network.complete(new)["verdict"]["outcome"] == "passed"
    ledger = network.settle()
    builds = [entry.build for entry in verdict_entries(ledger)]
    assert sorted(builds) == sorted((old, *waiting, lost, new)), "each once"
    log = client(network, "log", old, "node0")
    assert "said by a green build" in log.output, log
