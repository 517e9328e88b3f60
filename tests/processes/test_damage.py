"""A disk that forgot what its replica said: the node names the file, and votes on nothing."""

import contextlib
import itertools
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common.configuration.config import NodeConfig, load_node_config
from node.diagnostics.capture import read_capture
from node.storage.recovery_files import MARKER_NAME
from node.storage.redo_log import RedoLog
from node.storage.store import DATABASE_NAME, REDO_NAME
from pbft.codec import decode_message
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    ViewChange,
)
from scripts.free_ports import free_ports
from tests.processes.network import Network, ask, pipeline
from tests.processes.programs import start

pytestmark = pytest.mark.processes

BRANCHES = {"green": pipeline("echo green")}
CRITICAL = " CRITICAL "
VOTES = {PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView}
GO_ON_SECONDS = 180.0


def flip_a_byte_of_a_record(folder: Path) -> None:
    """One bit of the file, inside of what a record says."""
    file = folder / DATABASE_NAME
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (body,) = database.execute(
            "SELECT body FROM records ORDER BY position LIMIT 1 OFFSET 3"
        ).fetchone()
    # A large record is spread over pages; its beginning is in one. SQLite may have moved it, and
    # does not clear the place where it was.
    beginning = body[:40]
    damaged = beginning[:20] + bytes([beginning[20] ^ 1]) + beginning[21:]
    data = file.read_bytes()
    assert beginning in data
    file.write_bytes(data.replace(beginning, damaged))


def lose_the_records(folder: Path) -> None:
    """More than the redo log still has."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE_NAME)) as database, database:
        database.execute("DELETE FROM records")


def lose_the_last_saves(folder: Path) -> int:
    """What a power cut takes of its log SQLite drops without a word; how many saves it took.

    Three at most, and none that SQLite had flushed: those have no content in the redo log.
    """
    redo = RedoLog.open(folder / REDO_NAME)
    redo.close()
    last = list(itertools.takewhile(lambda entry: entry.content, reversed(redo.entries)))[:3]
    with contextlib.closing(sqlite3.connect(folder / DATABASE_NAME)) as database, database:
        database.execute("DELETE FROM records WHERE position > ?", (last[-1].begins,))
    return len(last)


def lose_the_database(folder: Path) -> None:
    for file in folder.glob(f"{DATABASE_NAME}*"):
        file.unlink()


def nonsense(folder: Path) -> None:
    (folder / DATABASE_NAME).write_bytes(b"nonsense" * 1024)


def lose_a_ledger_entry(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / DATABASE_NAME)) as database, database:
        database.execute("DELETE FROM ledger WHERE position = (SELECT max(position) FROM ledger)")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A network that did something and was stopped, with its folder left."""
    with Network(tmp_path_factory.mktemp("damaged"), BRANCHES) as network:
        network.start()
        network.complete(network.post("green"))
        # so that no node's last saves are of its own ballot, which SQLite flushes
        for text in (b"one", b"two"):
            url = f"{network.gateway_url}/api/v1/append"
            assert ask(url, b'{"text": "%b"}' % text).status == 200
        network.settle()
    return network


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte_of_a_record,
        lose_the_records,
        lose_the_database,
        nonsense,
        lose_a_ledger_entry,
    ],
)
def test_a_node_whose_disk_forgot_something_says_so_and_recovers(
    finished: Network, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    config = copy_of_node2(finished, tmp_path)
    damage(config.data_directory)
    ended = start(*command(config), listen=config.listen)
    assert ended.code is None, ended.errors
    told = [line for line in ended.errors.splitlines() if CRITICAL in line]
    assert len(told) == 2
    assert str(config.data_directory / DATABASE_NAME) in told[0]
    assert "must not vote again" in told[0]
    assert "recovering" in told[1]
    assert "Traceback" not in ended.errors
    again = start(*command(config), listen=config.listen)
    assert again.code is None, again.errors
    assert "CRITICAL" not in again.errors, "what was lost is noted once"
    assert re.search(r"restored: view \d+, executed 0, ", again.errors)


def test_a_new_disk_recovers_where_the_operator_says_that_it_is_one(
    finished: Network, tmp_path: Path
) -> None:
    """docs/OPERATING.md, Backup: nothing is left that shows that this replica spoke before."""
    config = copy_of_node2(finished, tmp_path)
    shutil.rmtree(config.data_directory)
    config.data_directory.mkdir()
    (config.data_directory / MARKER_NAME).touch()
    ended = start(*command(config), listen=config.listen)
    assert ended.code is None, ended.errors
    told = [line for line in ended.errors.splitlines() if CRITICAL in line]
    assert len(told) == 1
    assert "recovering: it votes on nothing for now" in told[0]
    assert not (config.data_directory / MARKER_NAME).exists()


def test_what_a_power_cut_took_from_sqlite_is_done_again(finished: Network, tmp_path: Path) -> None:
    config = copy_of_node2(finished, tmp_path)
    lost = lose_the_last_saves(config.data_directory)
    ended = start(*command(config), listen=config.listen)
    assert ended.code is None, ended.errors
    assert f"the last {lost} saves are done again" in ended.errors
    assert "CRITICAL" not in ended.errors
    assert re.search(r"restored: view \d+, executed [1-9]", ended.errors)


def test_where_f_is_0_nobody_can_vouch_for_what_was_lost(tmp_path: Path) -> None:
    with Network(tmp_path, BRANCHES, replicas=1) as network:
        network.start()
        network.complete(network.post("green"), ballots=1)
        network.stop("node0")
        lose_the_records(network.data_directory("node0"))
        network.spawn("node0")
        assert network.processes["node0"].wait(120) == 1
        log = network.configuration.nodes[0].log_file.read_text()
        assert "With f = 0 no other replica can vouch for what is lost" in log
        del network.processes["node0"]


@pytest.mark.parametrize("damage", [lose_the_records, lose_the_database])
def test_a_damaged_replica_votes_again_once_nothing_lost_can_matter(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """On an idle cluster, by null requests; then one of the others may fail instead."""
    rules = {"cluster": {"checkpoint_interval": 8, "window": 16}}
    with Network(tmp_path, BRANCHES, overrides=rules) as network:
        network.start()
        builds = [network.post("green") for _ in range(4)]
        network.verdicts(builds)
        network.settle()
        network.kill("node2")
        damage(network.data_directory("node2"))
        others = ("node0", "node1", "node3")
        # so that it does not recover before anybody looks
        for name in others:
            network.processes[name].send_signal(signal.SIGSTOP)
        network.start("node2")
        status = network.status("node2")
        assert status["status"] == "recovering"
        assert set(status["recovery"]) == {"voting_from"}
        for name in others:
            network.processes[name].send_signal(signal.SIGCONT)
        network.wait_until(
            lambda: network.status("node2")["status"] == "normal",
            "node2 votes again",
            GO_ON_SECONDS,
        )
        network.wait_until(
            lambda: network.status("node2")["in_sync"], "node2 in sync", GO_ON_SECONDS
        )
        network.kill("node3")
        builds.append(network.post("green"))
        view = network.complete(builds[-1], ballots=3)
        assert sorted(view["verdict"]["agreeing"]) == ["node0", "node1", "node2"]
        network.settle(("node0", "node1", "node2"), are_builds_closed=False)


def test_beyond_f_damaged_disks_the_nodes_say_so_and_decide_nothing(tmp_path: Path) -> None:
    """Two of four: nobody can vouch for them, so neither votes again, and no build is decided."""
    with Network(
        tmp_path, BRANCHES, is_captured=True, overrides={"node": {"view_change_seconds": 1}}
    ) as network:
        network.start()
        network.complete(network.post("green"))
        ledger = network.settle()
        damaged, others = ("node2", "node3"), ("node0", "node1")
        for name in damaged:
            network.kill(name)
            lose_the_records(network.data_directory(name))
            network.capture_file(name).unlink()
        network.start(*damaged)
        for config in network.configuration.nodes:
            told = [line for line in config.log_file.read_text().splitlines() if CRITICAL in line]
            assert len(told) == (2 if config.name in damaged else 0)
            assert all(str(config.data_directory) in line for line in told)
        build = network.post("green")
        # The other two wait in vain for a third: that is as far as they can come.
        network.wait_until(
            lambda: all(
                (network.status(name)["view_change"] or {}).get("supported_by") == len(others)
                for name in others
            ),
            "both others ask for another primary",
            GO_ON_SECONDS,
        )
        for name in damaged:
            ready = network.node(name, "/readyz")
            assert ready.status == 503
            assert "it is in status recovering" in ready.json()["reasons"]
            said = said_by(network, name)
            assert Recover in said
            assert not said & VOTES
        assert all(network.node(name, "/readyz").status == 503 for name in others)
        assert network.build(build)["verdict"] is None
        assert [network.ledger(name) for name in others] == [ledger] * len(others)


def test_the_same_node_undamaged_does_start(finished: Network, tmp_path: Path) -> None:
    """So that the tests above prove something."""
    config = copy_of_node2(finished, tmp_path)
    ended = start(*command(config), listen=config.listen)
    assert ended.code is None, ended.errors
    assert re.search(r"restored: view \d+, executed ", ended.errors)


def said_by(network: Network, name: str) -> set[type[AnyMessage]]:
    """The types of what a node signed itself and sent, by its capture."""
    return {
        type(decode_message(signed.payload))
        for _, signed in read_capture(network.capture_file(name))
        if signed.signer == name
    }


def copy_of_node2(network: Network, folder: Path) -> NodeConfig:
    """node2's configuration and data, so that each test has something of its own to damage."""
    shutil.copytree(network.data_directory("node2"), folder / "data")
    settings = yaml.safe_load(network.config_file("node2").read_text())
    (port,) = free_ports(1)
    settings |= {
        "cluster_file": str(network.config_file("cluster")),
        "data_directory": str(folder / "data"),
        "log_file": str(folder / "node2.log"),
        "listen": f"127.0.0.1:{port}",
    }
    file = folder / "node2.yml"
    file.write_text(yaml.safe_dump(settings))
    return load_node_config(file)


def command(config: NodeConfig) -> list[str]:
    return ["-m", "node", "--config", str(config.file)]
