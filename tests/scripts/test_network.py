"""Starting and stopping the example: what is started, what stays, what is said."""

import sys
from pathlib import Path

import pytest

from common.configuration.config import Address
from scripts import network
from scripts.configuration import DataFolders, Ports, write_configuration
from scripts.docker_engine import Engine
from scripts.free_ports import free_ports
from scripts.network import Prepared, client_program, node_programs, start, stop
from scripts.processes import Processes, Program, StartFailed, answers
from tests.scripts.test_processes import HEALTHY, healthy


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """A configuration whose engine is never asked."""
    configuration = write_configuration(
        tmp_path / "config",
        [tmp_path / "r.git"],
        DataFolders.below(tmp_path),
        ports=Ports(range(20000, 20004), 20009),
    )
    return Prepared(configuration, Engine("unix:///engine.sock", "a test's"))


def renamed(program: Program, name: str) -> Program:
    """The same program under another name."""
    return Program(name, program.command, program.listen, program.config_file)


def test_the_programs_are_those_of_the_configuration(prepared: Prepared, tmp_path: Path) -> None:
    nodes = node_programs(prepared.configuration)
    assert [program.name for program in nodes] == ["node0", "node1", "node2", "node3"]
    file = str(tmp_path / "config" / "node2.yml")
    assert nodes[2].command == (sys.executable, "-m", "node", "--config", file)
    assert nodes[2].listen == Address("127.0.0.1", 20002)
    assert nodes[2].log_files == (tmp_path / "log" / "node2.log",)
    client = client_program(prepared.configuration)
    assert client.command[1:3] == ("-m", "client")
    assert client.listen.port == 20009


def test_the_processes_are_told_the_engine(prepared: Prepared) -> None:
    assert prepared.environment == {"DOCKER_HOST": "unix:///engine.sock"}
    assert Prepared(prepared.configuration, None).environment == {}


def test_only_what_does_not_run_is_started(prepared: Prepared, processes: Processes) -> None:
    programs = [healthy("node0"), healthy("node1")]
    assert start(prepared, programs[:1], processes) == []
    pid = processes.running()["node0"].pid
    assert start(prepared, programs, processes) == ["node0"]
    assert processes.running()["node0"].pid == pid
    assert answers(programs[1].listen)


def test_starting_twice_is_one_line(prepared: Prepared, processes: Processes) -> None:
    programs = [healthy("node0"), healthy("node1")]
    start(prepared, programs, processes)
    with pytest.raises(StartFailed) as caught:
        start(prepared, programs, processes)
    assert str(caught.value) == (
        "already running: node0, node1; ./stopNetwork.sh stops the network"
    )


def test_another_configuration_is_not_taken_for_this_one(
    prepared: Prepared, processes: Processes
) -> None:
    start(prepared, [healthy("node0")], processes)
    (port,) = free_ports(1)
    other = Program(
        "node0",
        (sys.executable, "-c", HEALTHY, str(port)),
        Address("127.0.0.1", port),
        Path("/etc/x.yml"),
    )
    with pytest.raises(StartFailed, match="node0 is running with another configuration; "):
        start(prepared, [other], processes)


def test_stopping_the_network_leaves_the_client_and_the_engine(
    prepared: Prepared, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["client", "dockerd", "node0"]
    processes.start([renamed(healthy(name), name) for name in names])
    assert stop(processes, everything=False) == (["node0"], [])
    assert set(processes.running()) == {"client", "dockerd"}
    order = []

    class Own:
        """Stands for our own engine."""

        def stop(self) -> list[str]:
            order.append(set(processes.running()))
            return processes.stop(["dockerd"])

    monkeypatch.setattr(network, "own_engine", Own)
    assert stop(processes, everything=True) == (["client", "dockerd"], [])
    assert order == [{"dockerd"}], "the engine goes last: the nodes need it to clean up"
    assert processes.running() == {}
    assert stop(processes, everything=True) == ([], [])
