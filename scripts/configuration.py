"""Configuration folders: the example's keys, and folders for other numbers of replicas.

A folder holds cluster.yml, a file per replica and client.yml, as example-config/ does.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import yaml

from common.configuration.config import (
    ClientConfig,
    ClusterConfig,
    ConfigError,
    NodeConfig,
    load_client_config,
    load_cluster_config,
    load_node_config,
)
from common.configuration.keys import generate_key_files, load_public_key, load_signing_key
from common.english import counted, plural
from pbft.quorums import UnsupportedSize, quorums_for
from scripts.base_image import EXAMPLE_IMAGE, UPSTREAM_IMAGE
from scripts.demo_faults import ALLOWED
from scripts.folders import EXAMPLE_CONFIG, LOG, RUN

EXAMPLE_REPLICAS = 4
HOST = "127.0.0.1"
# With TLS, from a node's port for members to its port for this machine.
LOCAL_PORT_DISTANCE = 1000
# fewer tolerate no faulty one (pbft.quorums)
FAULTY_REPLICAS_MIN = 4


@dataclass(frozen=True)
class Configuration:
    """A configuration folder that was read: all of its files are valid and belong together."""

    folder: Path
    cluster: ClusterConfig
    nodes: tuple[NodeConfig, ...]
    client: ClientConfig

    @property
    def processes(self) -> tuple[NodeConfig | ClientConfig, ...]:
        """The nodes, then the client."""
        return (*self.nodes, self.client)


class Ports(msgspec.Struct, frozen=True):
    """Where the members of a network on this machine listen."""

    # one for each replica
    nodes: Sequence[int]
    client: int = 8080

    @classmethod
    def above(cls, first: int, replicas: int) -> Self:
        """The replicas' are `first` and those that follow it."""
        return cls(range(first, first + replicas))


class DataFolders(msgspec.Struct, frozen=True):
    """Where the members of a network on this machine keep what they write."""

    logs: Path
    keys: Path
    data: Path

    @classmethod
    def below(cls, folder: Path) -> Self:
        """All of it in one folder: `log`, and `keys` and `data` in `run`."""
        return cls(folder / "log", folder / "run" / "keys", folder / "run" / "data")


def read_configuration(folder: Path) -> Configuration:
    """The folder's cluster.yml, client.yml and one file per replica. Raises ConfigError."""
    cluster = load_cluster_config(folder / "cluster.yml")
    nodes = tuple(load_node_config(folder / f"{entry.name}.yml") for entry in cluster.replicas)
    client = load_client_config(folder / "client.yml")
    for entry, node in zip(cluster.replicas, nodes, strict=True):
        if node.name != entry.name:
            raise ConfigError.at(node.file, "name", f"is {node.name}", f"{entry.name} is needed")
    cluster.client_entry(client.name, client.file)
    configuration = Configuration(folder, cluster, nodes, client)
    for config in configuration.processes:
        if config.cluster_file != cluster.file:
            raise ConfigError.at(
                config.file,
                "cluster_file",
                f"is {config.cluster_file}",
                f"{cluster.file} is needed",
            )
    return configuration


def make_missing_keys(configuration: Configuration) -> list[str]:
    """Make the key files that are not there; gives the names of the members that got new keys.

    Raises ConfigError: a file cannot be written, or a private and a public file do not match.
    """
    made = []
    members = {
        entry.name: entry.public_key_file
        for entry in configuration.cluster.members
        if entry.public_key_file is not None
    }
    for config in configuration.processes:
        if config.name not in members:
            continue  # its key is in the cluster file
        public_file = members[config.name]
        if not config.private_key_file.exists():
            made.append(config.name)
        generate_key_files(config.private_key_file, public_file)
        if load_signing_key(config.private_key_file).public_key != load_public_key(public_file):
            raise ConfigError.at(
                config.file,
                "private_key_file",
                f"{config.private_key_file} does not belong to {public_file}",
                "the private and the public file of one key are needed",
            )
    running = {config.name for config in configuration.processes}
    for name in sorted(members.keys() - running):
        # whoever has no process of its own here: an operator, with the key in a file
        public_file = members[name]
        private_file = public_file.with_name(f"{name}.private.pem")
        if not public_file.exists():
            made.append(name)
            generate_key_files(private_file, public_file)
    return made


def write_configuration(
    folder: Path,
    repositories: Sequence[str | Path],
    folders: DataFolders,
    *,
    ports: Ports,
    executor: str = "docker",
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Configuration:
    """Write a configuration folder for a network on this machine, with its keys.

    repositories: URLs or paths, the first the client's default. overrides: more keys for a file,
    by its name without `.yml`: "node1", "client", "cluster", and "node" for every replica; a value
    of None takes the key out. Paths in there should be absolute. If they have members speak TLS,
    each node gets an address for this machine, too. Raises ConfigError if no valid file came of it.
    """
    replicas = len(ports.nodes)
    try:
        quorums_for(replicas)
    except UnsupportedSize as error:
        allowed = "1, 2, 3, 4, 7, 10 ... are allowed"
        raise ConfigError.at(folder, "replicas", str(error), allowed) from error
    keys, data, logs = folders.keys.absolute(), folders.data.absolute(), folders.logs.absolute()
    changes = overrides or {}
    has_tls = changes.get("cluster", {}).get("tls") == "required"
    names = [f"node{index}" for index in range(replicas)]
    addresses = [f"{HOST}:{port}" for port in ports.nodes]
    _write(
        folder / "cluster.yml",
        _cluster_settings(dict(zip(names, addresses, strict=True)), keys),
        changes.get("cluster", {}),
    )
    shared: dict[str, object] = {
        "cluster_file": "cluster.yml",
        "repositories": [
            {"url": str(repository), "local_images": [EXAMPLE_IMAGE, UPSTREAM_IMAGE]}
            for repository in repositories
        ],
    }
    for name, listen in zip(
        (*names, "client"), (*addresses, f"{HOST}:{ports.client}"), strict=True
    ):
        settings = shared | {
            "name": name,
            "private_key_file": str(keys / f"{name}.private.pem"),
            "listen": listen,
            "data_directory": str(data / name),
            "log_file": str(logs / f"{name}.log"),
        }
        if name == "client":
            # all of it is on this machine: who reaches it may ask for builds
            settings["repositories"] = [
                {"url": str(repository), "unsigned_allowed": True} for repository in repositories
            ]
            settings["results_file"] = str(logs / "results.jsonl")
            _write(folder / "client.yml", settings, changes.get("client", {}))
        else:
            settings |= {"executor": executor, "allow_dockerfile": executor == "docker"}
            if has_tls:
                port = int(listen.rpartition(":")[2])
                settings["local_listen"] = f"{HOST}:{port + LOCAL_PORT_DISTANCE}"
            more = {**changes.get("node", {}), **changes.get(name, {})}
            _write(folder / f"{name}.yml", settings, more)
    configuration = read_configuration(folder)
    make_missing_keys(configuration)
    return configuration


def example_configuration(
    *, replicas: int = EXAMPLE_REPLICAS, executor: str | None = None, faulty: str | None = None
) -> Configuration:
    """The example as it is, or a folder derived from it in run/, with keys made.

    replicas: how many. executor: another one for every replica. faulty: how the last replica,
    which is a backup at first, misbehaves; that needs a number of replicas that tolerates one.
    `allowed`: none does, and each may be told to.
    Raises ConfigError.
    """
    example = read_configuration(EXAMPLE_CONFIG)
    if all(node.executor == executor for node in example.nodes):
        executor = None
    if replicas == len(example.nodes) and executor is None and faulty is None:
        make_missing_keys(example)
        return example
    try:
        quorums_for(replicas)
    except UnsupportedSize as error:
        raise ConfigError(f"--replicas {replicas}: {error}") from error
    if faulty not in (None, ALLOWED) and replicas < FAULTY_REPLICAS_MIN:
        raise ConfigError(
            f"--faulty {faulty}: {counted(replicas, 'replica')}"
            f" {plural(replicas, 'tolerates', 'tolerate')} no faulty one; "
            "--replicas 4, 7 or 10 is allowed"
        )
    # The same members have the same keys and data, whatever else differs.
    same_cluster = replicas == len(example.nodes)
    suffix = "" if same_cluster else f"-{replicas}"
    parts = ["config", str(replicas), executor, faulty]
    overrides = _as_in(example)
    if faulty == ALLOWED:
        overrides["node"] = {**overrides["node"], "fault_injection": ALLOWED}
    elif faulty is not None:
        overrides[f"node{replicas - 1}"] = {"fault_injection": faulty}
    # a client that was started with the example itself must find the same members at their ports
    first = example.cluster.replicas[0].address.port
    nodes = _ports(example) if same_cluster else range(first, first + replicas)
    return write_configuration(
        RUN / "-".join(part for part in parts if part),
        [entry.url for entry in example.client.repositories],
        DataFolders(LOG, RUN / f"keys{suffix}", RUN / f"data{suffix}"),
        ports=Ports(nodes, example.client.listen.port),
        executor=executor or example.nodes[0].executor,
        overrides=overrides,
    )


def faulty_replica(configuration: Configuration) -> str | None:
    """The name of the replica that misbehaves on purpose, if there is one."""
    kinds = (None, ALLOWED)
    return next((n.name for n in configuration.nodes if n.fault_injection not in kinds), None)


def _ports(example: Configuration) -> list[int]:
    return [replica.address.port for replica in example.cluster.replicas]


def _as_in(example: Configuration) -> dict[str, Mapping[str, object]]:
    """The example's settings that a folder derived from it takes over."""
    keys = (
        "builds_at_once",
        "allow_dockerfile",
        "abstain_after_seconds",
        "stand_by_seconds",
        "pull_timeout_seconds",
        "checkout_timeout_seconds",
        "view_change_seconds",
        "view_change_seconds_max",
    )
    return {
        "cluster": {
            "checkpoint_interval": example.cluster.checkpoint_interval,
            "window": example.cluster.window,
            "client_window": example.cluster.client_window,
            "tls": example.cluster.tls,
            "limits": example.cluster.limits,
        },
        "node": {key: getattr(example.nodes[0], key) for key in keys},
        "client": {"queue_max": example.client.queue_max},
    }


def _cluster_settings(addresses: Mapping[str, str], keys: Path) -> dict[str, object]:
    """cluster.yml for replicas at these addresses, by name, and one client."""
    return {
        "replicas": [
            {
                "name": name,
                "public_key_file": str(keys / f"{name}.public.pem"),
                "address": address,
            }
            for name, address in addresses.items()
        ],
        "clients": [
            {
                "name": "client",
                "public_key_file": str(keys / "client.public.pem"),
                "roles": ["gateway"],
            },
            {
                "name": "operator",
                "public_key_file": str(keys / "operator.public.pem"),
                "roles": ["operator"],
                "operates": list(addresses),
            },
        ],
    }


def _write(file: Path, settings: dict[str, object], changes: Mapping[str, object]) -> None:
    merged = {key: value for key, value in {**settings, **changes}.items() if value is not None}
    text = yaml.safe_dump(msgspec.to_builtins(merged), sort_keys=False, allow_unicode=True)
    header = "# Written by scripts/configuration.py; example-config/ explains each line.\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(header + text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.at(
            file, "", f"cannot be written ({error.strerror})", "a folder that can be written to"
        ) from error


def main() -> int:
    """`python -m scripts.configuration`: make what is missing and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.configuration",
        description="Make missing keys, and for other --replicas a configuration in run/.",
    )
    parser.add_argument("--replicas", type=int, default=EXAMPLE_REPLICAS, metavar="N")
    parser.add_argument(
        "--config", type=Path, metavar="FOLDER", help="only make the keys of this configuration"
    )
    arguments = parser.parse_args()
    try:
        if arguments.config is not None:
            configuration = read_configuration(arguments.config)
            make_missing_keys(configuration)
        else:
            configuration = example_configuration(replicas=arguments.replicas)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(configuration.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
