"""`succeed`: a node takes over from the epoch that has ended (docs/decisions/0058).

A member of the epoch before gives the file with the next members, as they were proposed; its store
has the rest. A new member has the new cluster file from the others, and the state from one of them:
the fingerprint that it confirmed says whether that is the right one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ci.limits import Limits, encode_limits
from common.config_error import ConfigError
from common.configuration.config import (
    AncestryEntry,
    ClusterConfig,
    NodeConfig,
    check_confirmed,
    load_cluster_config,
    load_node_config,
)
from common.configuration.keys import public_key_text, verify
from common.installation import NODE_CONFIG
from common.membership.confirmation import description, read_cluster
from driver.ports import SaveFailed
from node.opening import read_member, read_seat_key, restored
from node.storage.damage import StoreDamaged, StoreUnusable
from node.storage.epoch_folder import (
    BEGIN_NAME,
    CLUSTER_NAME,
    LINK_NAME,
    epoch_folder,
    read_state,
    take_over,
)
from node.storage.ledger_table import LedgerTable
from pbft.core import Core
from pbft.epoch_link import EpochLink, decode_link, follow
from pbft.genesis import Cluster
from pbft.ports import Entry, Refusal

# What is read of a ledger at once.
READ_ENTRIES = 500
READ_BYTES = 16 * 1024 * 1024
# Beside the cluster file.
NEXT_NAME = "cluster.next.yml"
EXIT_DONE = 0
EXIT_LEAVES = 1

Commands = Any  # argparse keeps the type of add_subparsers to itself


def add_succeed(commands: Commands) -> None:
    """Add `succeed`."""
    parser = commands.add_parser(
        "succeed",
        help="take over from the epoch that has ended, with its next members",
        description="Begin the next epoch on this node, once the one before has ended and the node"
        " is stopped. It has a store and a cluster file of its own, beside those before. A node"
        " does the same by itself if it finds the next members in `next_cluster_file`.",
    )
    parser.add_argument(
        "next",
        nargs="?",
        type=Path,
        metavar="NEXT.yml",
        help="the next members, as they were proposed; for a member of the epoch that has ended",
    )
    parser.add_argument(
        "--from",
        dest="state",
        type=Path,
        metavar="FILE",
        help=f"the file {BEGIN_NAME} of another member; for a new member, whose cluster file is"
        " that of the new epoch",
    )
    # the program's own --config may stand before the command, too
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    config = load_node_config(options.config or NODE_CONFIG)
    if (options.next is None) is (options.state is None):
        raise ConfigError("succeed: give NEXT.yml, or --from FILE for a new member")
    try:
        if options.state is not None:
            return join(config, options.state)
        return succeed(config, options.next)
    except (StoreDamaged, StoreUnusable, SaveFailed, OSError) as error:
        raise ConfigError(str(error)) from error


def succeed(config: NodeConfig, next_file: Path) -> int:
    """Take over from this node's own store; the exit code.

    Raises ConfigError: the epoch has not ended here, the next members are others, the node runs;
    and what the store raises.
    """
    present = in_present_epoch(config)
    member = read_member(present)
    runtime = restored(present, member.identity, member.limits)
    try:
        core = runtime.replica.core
        following = read_following(core, next_file)
        if following.cluster.replica_index(config.name) is None:
            print(leaving(config.name, following.cluster.epoch))
            return EXIT_LEAVES
        read_seat_key(config, following.cluster)
        folder = go_over(config, following, core=core, ledger=runtime.store.ledger)
    finally:
        runtime.store.close()
    file = in_present_epoch(config).cluster_file
    print(description(*read_cluster(file), own_name=config.name))
    print(
        f"\n{folder}: the store of epoch {following.cluster.epoch}, which begins after {core.low}"
    )
    print(f"{file}: its cluster file; give it to gateways, new members and those who verify")
    print(f"{folder / BEGIN_NAME}: what a new member takes over; give it this and the cluster file")
    print(f"{folder / LINK_NAME}: proves the next epoch to whoever has the cluster file before it")
    print("Compare the words with the other operators, and start the node.")
    return EXIT_DONE


def join(config: NodeConfig, state: Path) -> int:
    """Take over from the state that another member gave; the exit code.

    Raises ConfigError: the cluster file is not of a later epoch, or not confirmed, or this is not
    the state that it names; and what the store raises.
    """
    cluster = read_member(config).identity.cluster
    if cluster.ancestry is None:
        raise ConfigError.at(
            config.cluster_file,
            "ancestry",
            "is missing: this is the file that a cluster begins with",
            "take the cluster file that `succeed` wrote on another member",
        )
    parts = read_state(state, cluster)
    if (epoch_folder(config.data_directory, cluster.epoch) / BEGIN_NAME).exists():
        raise ConfigError(f"this node has taken over epoch {cluster.epoch} already: start it")
    folder = take_over(config.data_directory, cluster, config.name, parts=parts, entries=iter(()))
    print(f"{folder}: the store of epoch {cluster.epoch}; the ledger is fetched from the others")
    print("Start the node.")
    return EXIT_DONE


class Following(msgspec.Struct, frozen=True):
    """The next epoch: its file as operators agreed on it (text, and what it says), its cluster."""

    text: str
    config: ClusterConfig
    cluster: Cluster


def in_present_epoch(config: NodeConfig) -> NodeConfig:
    """The configuration, with the cluster file of the epoch that this node has come to.

    The configured file is the epoch that the operator confirmed. Each later one has its file and
    the link to it in the data directory. It counts because `strong` replicas of the one before
    signed the link. Raises ConfigError.
    """
    while (later := _later(config)) is not None:
        config = later
    return config


def load_present(path: Path) -> NodeConfig:
    """A node's file, in its present epoch. Raises ConfigError."""
    return in_present_epoch(load_node_config(path))


def _later(config: NodeConfig) -> NodeConfig | None:
    """The configuration in the next epoch; None if this node has not begun it.

    The folder counts once its state is there, which is written last.
    """
    if not config.cluster_file.exists():
        return None  # of a node that is no member yet
    ancestry = load_cluster_config(config.cluster_file).ancestry
    folder = epoch_folder(config.data_directory, ancestry.epoch + 1 if ancestry else 1)
    file = folder / CLUSTER_NAME
    if not (file.exists() and (folder / BEGIN_NAME).exists()):
        return None
    cluster_config, cluster = read_cluster(config.cluster_file)
    check_confirmed(config, cluster_config, cluster)
    try:
        link = decode_link((folder / LINK_NAME).read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder / LINK_NAME}: cannot be read ({error.strerror})") from error
    followed = link if isinstance(link, Refusal) else follow(cluster, link, verify=verify)
    if isinstance(followed, Refusal):
        raise ConfigError(
            f"{folder / LINK_NAME}: {followed.reason}; it must lead on from {config.cluster_file}:"
            " if that file is of another cluster, the node needs a data_directory of its own for it"
        )
    _, later = read_cluster(file)
    if later.id != followed.id:
        raise ConfigError(f"{file}: is not the cluster that {folder / LINK_NAME} leads to")
    told = None if config.cluster_fingerprint is None else later.id.hex()
    return msgspec.structs.replace(
        config,
        cluster_file=file,
        cluster_fingerprint=told,
        # beside the file that the operator has, in every epoch
        next_cluster_file=next_file(config),
    )


def next_file(config: NodeConfig) -> Path:
    """Where the operator of this node puts the next members."""
    return config.next_cluster_file or config.cluster_file.with_name(NEXT_NAME)


def leaving(name: str, epoch: int) -> str:
    """What the operator of a member that leaves is told."""
    return (
        f"{name} is no replica of epoch {epoch}; leave the node running until the others have"
        " succeeded, then destroy its key"
    )


def go_over(config: NodeConfig, following: Following, *, core: Core, ledger: LedgerTable) -> Path:
    """Make the folder of the next epoch, complete or not at all; it decides where the node starts.

    core: has sealed its epoch. Raises OSError, StoreUnusable, SaveFailed.
    """
    parts = core.checkpoints.stable_parts
    return take_over(
        config.data_directory,
        following.cluster,
        config.name,
        parts=parts,
        entries=_entries(ledger),
        link=EpochLink.of(following.cluster, core.checkpoints.stable, parts),
        cluster_file=_cluster_file(following),
    )


def read_following(core: Core, next_file: Path) -> Following:
    """The next epoch, as this replica's state and the file give it. Raises ConfigError."""
    cluster = core.cluster
    if core.execution.ending is None:
        raise ConfigError(
            f"epoch {cluster.epoch} goes on: no change of members was made; see"
            " `pbft-ci members pending`"
        )
    if not core.is_sealed:
        last = core.execution.ending.sequence
        raise ConfigError(
            f"epoch {cluster.epoch} ends at {last}, and this replica has a proof of {core.low}:"
            " start the node again, wait until its status is `ended`, then stop it"
        )
    next_config = load_cluster_config(next_file)
    genesis = next_config.genesis(encode_limits(next_config.limits_as(Limits)))
    following = cluster.succeeded_by(genesis, core.low, core.checkpoints.stable.digest)
    if following.configuration != core.execution.configuration:
        raise ConfigError.at(
            next_file,
            "",
            f"has the digest {following.configuration.hex()}, and the replicas agreed on"
            f" {core.execution.configuration.hex()}",
            "take the file that was proposed",
        )
    # The text is what is written: that of a file that was not changed meanwhile.
    try:
        text = next_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{next_file}: cannot be read ({error})") from error
    if load_cluster_config(next_file) != next_config:
        raise ConfigError(f"{next_file}: was changed while it was read")
    return Following(text, next_config, following)


def _entries(ledger: LedgerTable) -> Iterator[Entry]:
    """The ledger from its first entry on, up to a gap or its end."""
    first = 1
    while entries := ledger.entries(first, READ_ENTRIES, READ_BYTES):
        yield from entries
        first = entries[-1].index + 1


def _cluster_file(following: Following) -> str:
    """The agreed file with the ancestry, and with all keys in it: it lies in another folder."""
    assert following.cluster.ancestry is not None
    settings = yaml.safe_load(following.text)
    genesis = following.cluster.genesis
    for listed, members in (("replicas", genesis.replicas), ("clients", genesis.clients)):
        for entry, member in zip(settings[listed], members, strict=True):
            if entry.pop("public_key_file", None) is not None:
                entry["public_key"] = public_key_text(member.public_key)
    settings["ancestry"] = msgspec.to_builtins(AncestryEntry.of(following.cluster.ancestry))
    header = f"# Epoch {following.cluster.epoch}; written from the file that was agreed on.\n"
    return header + yaml.safe_dump(settings, sort_keys=False)
