"""`succeed`: a node takes over from the epoch that has ended (docs/decisions/0058).

A member of the epoch before gives the file with the next members, as they were proposed; its store
has the rest. A new member has the new cluster file from the others, and the state from one of them:
the fingerprint that it confirmed says whether that is the right one.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from common.config_error import ConfigError
from common.configuration.config import NodeConfig, load_node_config
from common.epoch_folder import BEGIN_NAME, LINK_NAME, epoch_folder, keep_passed_link
from common.installation import NODE_CONFIG
from common.membership.confirmation import description, read_cluster
from common.membership.epochs import (
    Following,
    cluster_file_text,
    in_present_epoch,
    read_agreed,
    read_seat_key,
)
from common.membership.link_search import ProvedEpoch
from driver.ports import SaveFailed
from node.opening import read_member, restored
from node.storage.damage import StoreDamaged, StoreUnusable
from node.storage.epoch_folder import read_state, take_over
from node.storage.ledger_table import LedgerTable
from pbft.core import Core
from pbft.epoch_link import EpochLink
from pbft.genesis import Ancestry
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
        folder = go_over(config, NextEpoch.of_own(following, core), runtime.store.ledger)
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


def load_present(path: Path) -> NodeConfig:
    """A node's file, in its present epoch. Raises ConfigError."""
    return in_present_epoch(load_node_config(path))


def leaving(name: str, epoch: int) -> str:
    """What the operator of a member that leaves is told."""
    return (
        f"{name} is no replica of epoch {epoch}; leave the node running until the others have"
        " succeeded, then destroy its key"
    )


class NextEpoch(msgspec.Struct, frozen=True):
    """What a node begins the next epoch with.

    parts: the state. link: what leads there from the epoch before. passed: the epochs between the
    present one and the next, if this node was away for them. has_forgotten: it may have voted in
    the next epoch and forgotten it.
    """

    following: Following
    parts: Mapping[str, bytes]
    link: EpochLink
    passed: tuple[ProvedEpoch, ...] = ()
    has_forgotten: bool = False

    @classmethod
    def of_own(cls, following: Following, core: Core) -> Self:
        """Of a replica that has sealed its epoch."""
        parts = core.checkpoints.stable_parts
        return cls(
            following, parts, EpochLink.of(following.cluster, core.checkpoints.stable, parts)
        )


def go_over(config: NodeConfig, begun: NextEpoch, ledger: LedgerTable) -> Path:
    """Make the folder of the next epoch, complete or not at all; it decides where the node starts.

    ledger: of this node, in its present epoch. Raises ConfigError, OSError, StoreUnusable,
    SaveFailed.
    """
    for passed in begun.passed:
        keep_passed_link(config.data_directory, passed.cluster.epoch, passed.link)
    return take_over(
        config.data_directory,
        begun.following.cluster,
        config.name,
        parts=begun.parts,
        entries=_entries(ledger),
        link=begun.link,
        cluster_file=cluster_file_text(begun.following),
        has_forgotten=begun.has_forgotten,
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
    state = core.checkpoints.stable.digest
    ancestry = Ancestry(cluster.lineage, cluster.epoch + 1, cluster.id, core.low, state)
    return read_agreed(next_file, ancestry, core.execution.configuration)


def _entries(ledger: LedgerTable) -> Iterator[Entry]:
    """The ledger from its first entry on, up to a gap or its end."""
    first = 1
    while entries := ledger.entries(first, READ_ENTRIES, READ_BYTES):
        yield from entries
        first = entries[-1].index + 1
