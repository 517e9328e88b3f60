"""Configuration folders: the example as it is, and what is written for other networks."""

import stat
from pathlib import Path

import pytest
import yaml

from ci.limits import Limits, encode_limits
from common.configuration.config import (
    ConfigError,
    GatewayRepository,
    RepositoryEntry,
    load_client_config,
    load_cluster_config,
    load_node_config,
)
from common.configuration.keys import load_public_key, load_signing_key
from scripts import configuration
from scripts.configuration import (
    Configuration,
    DataFolders,
    Ports,
    example_configuration,
    faulty_replica,
    make_missing_keys,
    read_configuration,
    write_configuration,
)
from scripts.folders import EXAMPLE_CONFIG, ROOT
from scripts.network import node_programs


def written(folder: Path, replicas: int = 4, **more: object) -> Configuration:
    """A folder for a network of this size, all of it below `folder`."""
    return write_configuration(
        folder / "config",
        [folder / "repository.git", "https://git.example.org/a.git"],
        DataFolders.below(folder),
        **{"ports": Ports.above(10000, replicas), **more},  # type: ignore[arg-type]
    )


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example whose run/ and log/ are in a temporary folder; gives that folder."""
    folder = tmp_path / "example-config"
    folder.mkdir()
    for file in EXAMPLE_CONFIG.glob("*.yml"):
        (folder / file.name).write_text(file.read_text())
    monkeypatch.setattr(configuration, "EXAMPLE_CONFIG", folder)
    monkeypatch.setattr(configuration, "RUN", tmp_path / "run")
    monkeypatch.setattr(configuration, "LOG", tmp_path / "log")
    return tmp_path


def test_the_example_is_what_the_readme_says() -> None:
    example = read_configuration(EXAMPLE_CONFIG)
    assert [str(node.listen) for node in example.nodes] == [
        f"127.0.0.1:{port}" for port in range(10000, 10004)
    ]
    assert [node.listen for node in example.nodes] == [
        entry.address for entry in example.cluster.replicas
    ]
    assert example.client.listen.port == 8080
    assert {node.executor for node in example.nodes} == {"docker"}
    assert {node.allow_dockerfile for node in example.nodes} == {True}
    assert {node.fault_injection for node in example.nodes} == {None}
    url = f"file://{ROOT}/run/example-repository.git"
    for config in example.processes:
        assert [entry.url for entry in config.repositories] == [url]
        assert config.private_key_file.parent == ROOT / "run" / "keys"
        assert config.data_directory == ROOT / "run" / "data" / config.name
        assert config.log_file == ROOT / "log" / f"{config.name}.log"
    assert example.cluster.limits_as(Limits).workspace_bytes == 2 * 2**30


def test_every_key_of_the_node_file_is_explained_in_the_example() -> None:
    text = (EXAMPLE_CONFIG / "node0.yml").read_text()
    config = load_node_config(EXAMPLE_CONFIG / "node0.yml")
    keys = set(config.__struct_fields__) - {"file"}
    # without effect: of files from before TLS
    assert {key for key in keys if f"{key}:" not in text} == {"plaintext_allowed"}


def test_every_key_of_a_gateways_repository_is_explained_in_the_examples() -> None:
    texts = [(EXAMPLE_CONFIG / name).read_text() for name in ("client.yml", "node0.yml")]
    keys = set(GatewayRepository.__struct_fields__)
    assert {key for key in keys if not any(f"{key}:" in text for text in texts)} == set()
    own = keys - set(RepositoryEntry.__struct_fields__)
    assert {key for key in own if f"{key}:" not in texts[0]} == set()


def test_the_first_start_makes_the_examples_keys(example: Path) -> None:
    made = example_configuration()
    assert made.folder == example / "example-config"
    files = sorted(file.name for file in (example / "run" / "keys").iterdir())
    names = ["client", "node0", "node1", "node2", "node3", "operator"]
    assert files == sorted(f"{name}.{half}.pem" for name in names for half in ("private", "public"))
    before = {file: file.read_bytes() for file in (example / "run" / "keys").iterdir()}
    assert make_missing_keys(made) == []
    assert {file: file.read_bytes() for file in before} == before
    modes = {stat.S_IMODE(config.private_key_file.stat().st_mode) for config in made.processes}
    assert modes == {0o600}


@pytest.mark.parametrize("replicas", [1, 3, 7, 10])
def test_other_sizes_follow_the_example(example: Path, replicas: int) -> None:
    made = example_configuration(replicas=replicas)
    again = read_configuration(made.folder)
    assert len(again.nodes) == replicas
    assert [node.listen.port for node in again.nodes] == list(range(10000, 10000 + replicas))
    assert {node.allow_dockerfile for node in again.nodes} == {True}
    assert again.nodes[0].data_directory == example / f"run/data-{replicas}/node0"
    assert again.nodes[0].log_file == example / "log/node0.log"
    original = load_cluster_config(example / "example-config" / "cluster.yml")
    assert again.cluster.limits == original.limits
    assert (
        again.client.repositories
        == load_client_config(example / "example-config" / "client.yml").repositories
    )
    assert again.cluster.cluster(b"").quorums.replicas == replicas


def test_an_example_with_tls_is_followed(example: Path) -> None:
    """With an address for this machine, where the start scripts ask whether a node is up."""
    file = example / "example-config" / "cluster.yml"
    file.write_text(file.read_text().replace("tls: off", "tls: required"))
    with pytest.raises(ConfigError, match=r"node0\.yml: local_listen: is missing"):
        node_programs(example_configuration())
    made = example_configuration(replicas=7)
    assert made.cluster.tls == "required"
    assert [str(program.listen) for program in node_programs(made)] == [
        f"127.0.0.1:{port}" for port in range(11000, 11007)
    ]


def test_a_faulty_node_or_another_executor_is_the_same_cluster(example: Path) -> None:
    rules = encode_limits(Limits())
    plain = example_configuration()
    faulty = example_configuration(faulty="lying")
    process = example_configuration(executor="process")
    assert faulty_replica(plain) is None
    assert faulty_replica(faulty) == "node3"
    assert [node.fault_injection for node in faulty.nodes] == [None, None, None, "lying"]
    assert {node.executor for node in process.nodes} == {"process"}
    ids = {made.cluster.cluster(rules).id for made in (plain, faulty, process)}
    assert len(ids) == 1
    for made in (faulty, process):
        assert made.folder not in (plain.folder, example / "example-config")
        for one, other in zip(made.processes, plain.processes, strict=True):
            assert one.data_directory == other.data_directory


def test_every_node_may_be_allowed_to_misbehave(example: Path) -> None:
    """Also where the number of replicas tolerates none: nobody does yet."""
    for replicas in (3, 4):
        made = example_configuration(replicas=replicas, faulty="allowed")
        assert {node.fault_injection for node in made.nodes} == {"allowed"}
        assert faulty_replica(made) is None


def test_asking_for_what_the_example_says_changes_nothing(example: Path) -> None:
    made = example_configuration(executor="docker", replicas=4)
    assert made.folder == example / "example-config"


def test_a_fault_needs_replicas_that_tolerate_it(example: Path) -> None:
    for replicas in (1, 3):
        with pytest.raises(ConfigError, match=r"tolerates? no faulty one"):
            example_configuration(replicas=replicas, faulty="silent")


def test_a_size_that_the_protocol_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 replicas tolerate no more faults than 4") as caught:
        written(tmp_path, 5)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "config").exists()


def test_a_number_of_replicas_on_the_command_line(example: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--replicas 6: 6 replicas tolerate no more faults"):
        example_configuration(replicas=6)
    assert not (example / "run" / "config-6").exists()


def test_a_written_folder_can_be_read_and_started(tmp_path: Path) -> None:
    made = written(tmp_path, ports=Ports([20, 30, 40, 50], 60), executor="process")
    assert [node.listen.port for node in made.nodes] == [20, 30, 40, 50]
    assert made.client.listen.port == 60
    assert {node.executor for node in made.nodes} == {"process"}
    assert made.client.repositories[0].url == f"file://{tmp_path}/repository.git"
    assert made.client.results_file == tmp_path / "log/results.jsonl"
    cluster = made.cluster.cluster(b"")
    for config in made.processes:
        key = load_signing_key(config.private_key_file)
        assert cluster.public_key(config.name) == key.public_key
        assert config.data_directory == tmp_path / "run/data" / config.name
    assert cluster.roles("client") == ("gateway",)


def test_settings_of_one_node_and_of_all(tmp_path: Path) -> None:
    made = written(
        tmp_path,
        overrides={
            "node": {"builds_at_once": 5, "abstain_after_seconds": 3},
            "node1": {"builds_at_once": 7, "docker_host": "unix:///nowhere.sock"},
            "client": {"queue_max": 9},
            "cluster": {"checkpoint_interval": 4, "window": 8, "limits": {"pids_max": 9}},
        },
    )
    assert [node.builds_at_once for node in made.nodes] == [5, 7, 5, 5]
    assert [node.docker_host for node in made.nodes][:2] == [None, "unix:///nowhere.sock"]
    assert {node.abstain_after_seconds for node in made.nodes} == {3}
    assert made.client.queue_max == 9
    assert (made.cluster.checkpoint_interval, made.cluster.limits) == (4, {"pids_max": 9})


def test_a_setting_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node2\.yml: lie: there is no such key"):
        written(tmp_path, overrides={"node2": {"lie": True}})


def test_a_key_that_belongs_to_another_is_refused(tmp_path: Path) -> None:
    made = written(tmp_path)
    stranger = tmp_path / "run/keys/node1.public.pem"
    stranger.write_bytes((tmp_path / "run/keys/node2.public.pem").read_bytes())
    with pytest.raises(ConfigError, match=r"node1\.yml: private_key_file: .* does not belong to"):
        make_missing_keys(made)


def test_a_missing_public_key_comes_back(tmp_path: Path) -> None:
    made = written(tmp_path)
    public_file = tmp_path / "run/keys/node1.public.pem"
    before = load_public_key(public_file)
    public_file.unlink()
    assert make_missing_keys(made) == []
    assert load_public_key(public_file) == before


@pytest.mark.parametrize(
    ("file", "key", "value", "line"),
    [
        ("node1.yml", "name", "node2", r"node1\.yml: name: is node2; node1 is needed"),
        ("node1.yml", "cluster_file", "other.yml", r"node1\.yml: cluster_file: is "),
        ("client.yml", "name", "clint", r"'clint' is not a client of .*\(did you mean client\?\)"),
    ],
)
def test_files_that_do_not_belong_together(
    tmp_path: Path, file: str, key: str, value: str, line: str
) -> None:
    folder = written(tmp_path).folder
    settings = yaml.safe_load((folder / file).read_text())
    (folder / file).write_text(yaml.safe_dump({**settings, key: value}))
    with pytest.raises(ConfigError, match=line):
        read_configuration(folder)


def test_a_missing_node_file_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path).folder
    (folder / "node2.yml").unlink()
    with pytest.raises(ConfigError, match=r"node2\.yml: there is no such file"):
        read_configuration(folder)
