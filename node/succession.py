"""`succeed`: a node takes over from the epoch that has ended (docs/decisions/0058).

A member of the epoch before gives the file with the next members, as they were proposed; its store
has the rest. A new member has the new cluster file from the others, and the state from one of them:
the fingerprint that it confirmed says whether that is the right one.
"""

import argparse
import contextlib
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
    load_cluster_config,
    load_node_config,
)
from common.installation import NODE_CONFIG
from common.membership.confirmation import description, read_cluster
from common.new_file import FileThere, replace_file, write_new_file
from driver.ports import SaveFailed
from node.opening import read_member, restored
from node.storage.damage import StoreDamaged, StoreUnusable
from node.storage.epoch_folder import BEGIN_NAME, epoch_folder, read_state, take_over
from node.storage.ledger_table import LedgerTable
from pbft.core import Core
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster
from pbft.ports import Entry

# What is read of a ledger at once.
READ_ENTRIES = 500
READ_BYTES = 16 * 1024 * 1024
EXIT_DONE = 0
EXIT_LEAVES = 1

Commands = Any  # argparse keeps the type of add_subparsers to itself


def add_succeed(commands: Commands) -> None:
    """Add `succeed`."""
    parser = commands.add_parser(
        "succeed",
        help="take over from the epoch that has ended, with its next members",
        description="Begin the next epoch on this node, once the one before has ended and the node"
        " is stopped. Its store and cluster file are written anew, and the old ones are kept.",
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
    present = _present(config)
    member = read_member(present)
    cluster = member.identity.cluster
    runtime = restored(present, member.identity, member.limits)
    try:
        core = runtime.replica.core
        following = _following(core, next_file, config)
        parts = core.checkpoints.stable_parts
        if following.replica_index(config.name) is None:
            print(
                f"{config.name} is no replica of epoch {following.epoch}; leave the node running"
                " until the others have succeeded, then destroy its key"
            )
            return EXIT_LEAVES
        folder = take_over(
            config.data_directory,
            following,
            config.name,
            parts=parts,
            entries=_entries(runtime.store.ledger),
            link=EpochLink.of(following, core.checkpoints.stable, parts),
        )
    finally:
        runtime.store.close()
    kept = _kept_file(config, cluster.epoch)
    if present is config:
        _write_cluster_file(config, next_file, following, kept=kept)
    print(description(*read_cluster(config.cluster_file), own_name=config.name))
    print(f"\n{folder}: the store of epoch {following.epoch}, which begins after {core.low}")
    print(f"{config.cluster_file}: its cluster file; that of epoch {cluster.epoch} is {kept}")
    print(f"{folder / BEGIN_NAME}: what a new member takes over; give it this and the cluster file")
    print("Compare the words with the other operators, run `confirm`, and start the node.")
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


def _kept_file(config: NodeConfig, epoch: int) -> Path:
    """Where the cluster file of an epoch is kept that has ended."""
    file = config.cluster_file
    return file.with_name(f"{file.stem}.epoch-{epoch}{file.suffix}")


def _present(config: NodeConfig) -> NodeConfig:
    """The configuration, with the cluster file of the epoch that this node is in.

    Nodes on one machine may share a cluster file. Then the first to succeed has written the next.
    """
    ancestry = load_cluster_config(config.cluster_file).ancestry
    if ancestry is None:
        return config
    if (epoch_folder(config.data_directory, ancestry.epoch) / BEGIN_NAME).exists():
        return config
    kept = _kept_file(config, ancestry.epoch - 1)
    return msgspec.structs.replace(config, cluster_file=kept) if kept.exists() else config


def _following(core: Core, next_file: Path, config: NodeConfig) -> Cluster:
    """The cluster of the next epoch, as this replica's state and the file give it."""
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
    _check_key_files(next_config, config)
    return following


def _check_key_files(next_config: ClusterConfig, config: NodeConfig) -> None:
    """Its key files must be found from where the cluster file is."""
    has_files = any(entry.public_key_file is not None for entry in next_config.members)
    if has_files and next_config.file.parent.resolve() != config.cluster_file.parent.resolve():
        raise ConfigError.at(
            next_config.file,
            "public_key_file",
            f"is found from its own folder, and {config.cluster_file} is in another one",
            "put the file beside the cluster file, or use public_key",
        )


def _entries(ledger: LedgerTable) -> Iterator[Entry]:
    """The ledger from its first entry on, up to a gap or its end."""
    first = 1
    while entries := ledger.entries(first, READ_ENTRIES, READ_BYTES):
        yield from entries
        first = entries[-1].index + 1


def _write_cluster_file(
    config: NodeConfig, next_file: Path, following: Cluster, *, kept: Path
) -> None:
    """Put the next members and their ancestry in the place of the cluster file, which is kept."""
    assert following.ancestry is not None
    before = config.cluster_file.read_text(encoding="utf-8")
    with contextlib.suppress(FileThere):  # of a try that was cut short
        write_new_file(kept, before, 0o644)
    entry = {"ancestry": msgspec.to_builtins(AncestryEntry.of(following.ancestry))}
    text = next_file.read_text(encoding="utf-8").rstrip("\n")
    header = "\n\n# What this epoch begins with; `pbft-ci-node succeed` wrote it.\n"
    replace_file(config.cluster_file, text + header + yaml.safe_dump(entry, sort_keys=False))
    _, written = read_cluster(config.cluster_file)
    if written.id != following.id:
        replace_file(config.cluster_file, before)
        raise ConfigError(f"{next_file}: it has keys that cannot go into a cluster file")
