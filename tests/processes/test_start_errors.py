"""What cannot start says why in one line (file, key, what is allowed) and ends with a code."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.configuration.config import load_client_config, load_node_config
from scripts.free_ports import free_ports
from tests.processes.network import CLIENT, Network, pipeline
from tests.processes.programs import Ended, run, start

pytestmark = pytest.mark.processes

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network that runs, so that whatever else is started meets it."""
    folder = tmp_path_factory.mktemp("start-errors")
    with Network(folder, {"green": pipeline("echo green")}) as made:
        made.start()
        yield made


class Copy:
    """node1's or the client's configuration with another port, data directory and log file."""

    def __init__(self, network: Network, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.file = folder / f"{name}.yml"
        self.settings: Settings = yaml.safe_load(network.config_file(name).read_text())
        (self.port,) = free_ports(1)
        self.settings |= {
            "cluster_file": str(network.config_file("cluster")),
            "data_directory": str(folder / "data"),
            "log_file": str(folder / "copy.log"),
            "listen": f"127.0.0.1:{self.port}",
        }
        if name == CLIENT:
            self.settings["results_file"] = str(folder / "results.jsonl")

    def start(self, *flags: str) -> Ended:
        """Write the file and start the program."""
        self.file.write_text(yaml.safe_dump(self.settings))
        return self.start_from(self.file, *flags)

    def start_from(self, file: Path, *flags: str) -> Ended:
        """Start the program from another file."""
        return run("-m", "client" if self.name == CLIENT else "node", "--config", str(file), *flags)


@pytest.fixture(params=["node1", CLIENT])
def copy(network: Network, tmp_path: Path, request: pytest.FixtureRequest) -> Copy:
    """One of each kind of program."""
    return Copy(network, request.param, tmp_path)


def told(ended: Ended) -> str:
    """The one line with the reason; nothing else but log lines that are no errors."""
    assert ended.code not in (0, None), ended
    assert "Traceback" not in ended.errors
    assert ended.output == ""
    lines = [
        line
        for line in ended.errors.splitlines()
        if line.strip() and " INFO " not in line and " WARNING " not in line
    ]
    assert len(lines) == 1, ended.errors
    return lines[0]


def test_the_copy_as_it_is_does_start(copy: Copy) -> None:
    """So that each test below fails for the reason that it means."""
    copy.file.write_text(yaml.safe_dump(copy.settings))
    load = load_client_config if copy.name == CLIENT else load_node_config
    module = "client" if copy.name == CLIENT else "node"
    ended = start("-m", module, "--config", str(copy.file), listen=load(copy.file).listen)
    assert ended.code is None, ended


def test_a_cluster_on_other_machines_without_tls(network: Network, copy: Copy) -> None:
    cluster = yaml.safe_load(network.config_file("cluster").read_text())
    cluster["replicas"][2]["address"] = "192.0.2.3:10000"
    file = copy.folder / "cluster.yml"
    file.write_text(yaml.safe_dump(cluster))
    copy.settings["cluster_file"] = str(file)
    copy.settings["cluster_fingerprint"] = network.status("node0")["cluster"]
    line = told(copy.start())
    assert f"{file}: replicas[2].address: 192.0.2.3:10000 is no loopback address" in line
    assert "set tls: required" in line


def test_a_port_that_is_in_use(copy: Copy) -> None:
    with socket.create_server(("127.0.0.1", copy.port)):
        line = told(copy.start())
    assert f"{copy.file}: listen: " in line
    assert f"127.0.0.1:{copy.port}" in line
    assert "another port" in line or "another one" in line


def test_starting_twice(network: Network, copy: Copy) -> None:
    """The same configuration again, while it runs: the one that runs is not disturbed."""
    line = told(copy.start_from(network.config_file(copy.name)))
    assert "data_directory" in line
    assert str(network.data_directory(copy.name)) in line
    assert network.is_running(copy.name)
    build = network.complete(network.post("green"))
    assert build["verdict"]["outcome"] == "passed"


def test_starting_twice_with_another_port(network: Network, copy: Copy) -> None:
    """Two of one name on the same data would say different things: the second does not start."""
    copy.settings["data_directory"] = str(network.data_directory(copy.name))
    line = told(copy.start())
    assert "data_directory" in line
    assert str(network.data_directory(copy.name)) in line


def change(key: str, value: object) -> Callable[[Settings], None]:
    def apply(settings: Settings) -> None:
        if value is None:
            del settings[key]
        else:
            settings[key] = value

    return apply


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("listen", "127.0.0.1:seven", "127.0.0.1:10000"),
        ("listen", "0.0.0.0:10000", "use a loopback address"),
        ("name", "node9", "node0, node1, node2, node3"),
        ("name", None, "is needed"),
        ("cluster_file", "nowhere.yml", "no such file"),
        ("repositories", "master", "a list"),
        ("lisen", "127.0.0.1:1", "did you mean listen?"),
    ],
)
def test_a_wrong_value(copy: Copy, key: str, value: object, allowed: str) -> None:
    if copy.name == CLIENT:
        allowed = allowed.replace("node0, node1, node2, node3", "client")
    change(key, value)(copy.settings)
    line = told(copy.start())
    assert str(copy.folder) in line
    assert key in line or key == "cluster_file"
    assert allowed in line


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("executor", "dokcer", "did you mean docker?"),
        ("builds_at_once", 0, "from 1 to 256"),
        ("fault_injection", "lies", "lying"),
    ],
)
def test_a_wrong_value_of_a_node(
    network: Network, tmp_path: Path, key: str, value: object, allowed: str
) -> None:
    copy = Copy(network, "node1", tmp_path)
    copy.settings[key] = value
    line = told(copy.start())
    assert f"{copy.file}: {key}: " in line
    assert allowed in line


def test_a_missing_key(copy: Copy) -> None:
    copy.settings["private_key_file"] = str(copy.folder / "none.pem")
    line = told(copy.start())
    assert str(copy.folder / "none.pem") in line


def test_the_key_of_somebody_else(network: Network, copy: Copy) -> None:
    other = yaml.safe_load(network.config_file("node2").read_text())["private_key_file"]
    copy.settings["private_key_file"] = other
    line = told(copy.start())
    assert other in line
    assert "pair" in line


def test_a_key_that_others_can_read(network: Network, copy: Copy) -> None:
    key = copy.folder / "key.pem"
    key.write_bytes(Path(copy.settings["private_key_file"]).read_bytes())
    key.chmod(0o644)
    copy.settings["private_key_file"] = str(key)
    line = told(copy.start())
    assert str(key) in line
    assert "600" in line


@pytest.mark.parametrize("key", ["data_directory", "log_file"])
def test_a_place_that_cannot_be_written(copy: Copy, key: str) -> None:
    (copy.folder / "file").write_text("no folder")
    copy.settings[key] = str(copy.folder / "file" / "below")
    line = told(copy.start())
    assert key in line or str(copy.folder / "file" / "below") in line


def test_a_configuration_that_is_not_there(copy: Copy) -> None:
    line = told(copy.start_from(copy.folder / "nowhere.yml"))
    assert str(copy.folder / "nowhere.yml") in line
    assert "no such file" in line


def test_a_configuration_that_is_no_yaml(copy: Copy) -> None:
    broken = copy.folder / "broken.yml"
    broken.write_text("name: [unfinished\n")
    line = told(copy.start_from(broken))
    assert f"{broken}: line " in line
