"""A replica as its configuration and its disk have it: who it is, and where it goes on."""

import logging
import os
from typing import NamedTuple

from ci.admission import room_refusal
from ci.application import BuildApplication
from ci.limits import ALL, Limits, encode_limits
from ci.state_partitions import ledger_position
from common.configuration.config import (
    ConfigError,
    NodeConfig,
    check_confirmed,
    check_node_listen,
    load_cluster_config,
)
from common.configuration.keys import verify
from common.epoch_folder import epoch_folder
from common.links.members import replicas_for
from common.membership.epochs import read_seat_key
from common.web.peers import Peers
from driver.ports import SaveFailed
from node.replica.runtime import Runtime
from node.storage import recovery_files
from node.storage.damage import StoreDamaged, StoreNotOurs, StoreUnusable
from node.storage.epoch_folder import read_begin
from node.storage.store import Store, StoreInUse
from pbft.authentication import Identity
from pbft.core import Settings
from pbft.genesis import Cluster
from pbft.replica import DamagedRecords, OlderRecords

# What a ballot that settles nothing may wait for others: more than replicas of equal speed are
# apart with a build, less than people notice.
BATCH_DELAY_SECONDS = 0.25

NOBODY_VOUCHES = (
    "With f = 0 no other replica can vouch for what is lost, and an older"
    " copy lacks it too: bring back the files as they were, or start a new cluster"
)

_log = logging.getLogger(__name__)


class Member(NamedTuple):
    """The replica as a member of its cluster: who it is, by which rules, who the others are."""

    identity: Identity
    limits: Limits
    replicas: Peers

    def others(self) -> Peers:
        """The other replicas."""
        return self.replicas.only(name for name in self.replicas if name != self.identity.name)


def read_member(config: NodeConfig) -> Member:
    """What the cluster file and the key file say, held against node.yml. Raises ConfigError."""
    cluster_config = load_cluster_config(config.cluster_file)
    limits = cluster_config.limits_as(Limits)
    cluster = cluster_config.cluster(encode_limits(limits))
    if reason := room_refusal(cluster, limits):
        raise ConfigError(f"{cluster_config.file}: {reason}")
    _check_stand_by(config, limits)
    entry = cluster_config.replica_entry(config.name, config.file)
    check_node_listen(config, cluster_config)
    check_confirmed(config, cluster_config, cluster)
    signing_key = read_seat_key(config, cluster, entry.public_key_file or cluster_config.file)
    replicas = replicas_for(cluster_config, cluster, config.name, signing_key=signing_key)
    return Member(Identity(cluster, config.name, signing_key.sign), limits, replicas)


def _open_store(config: NodeConfig, cluster: Cluster) -> Store:
    """The files in the data directory. Raises StoreDamaged, StoreUnusable, ConfigError."""
    try:
        folder = epoch_folder(config.data_directory, cluster.epoch)
        return Store(folder, cluster.id, config.name, lineage=cluster.lineage)
    except StoreInUse as error:
        raise ConfigError.at(
            config.file,
            "data_directory",
            f"{error}, perhaps this node runs already",
            "each node has a data_directory of its own",
        ) from error
    except OSError as error:
        raise ConfigError.at(
            config.file,
            "data_directory",
            f"{config.data_directory} cannot be used ({error.strerror})",
            "a folder that can be written to",
        ) from error


def open_replica(config: NodeConfig, identity: Identity, limits: Limits) -> Runtime:
    """The replica as its disk has it; where the disk forgot something, one that recovers.

    Raises StoreDamaged: the files are somebody else's, or nobody could vouch for what is lost
    because f is 0. Raises StoreUnusable: the disk refuses, which is no reason to forget what is
    on it. Raises ConfigError.
    """
    directory = epoch_folder(config.data_directory, identity.cluster.epoch)
    is_alone = identity.cluster.quorums.faults_max == 0
    if is_alone and recovery_files.is_begun(directory):
        raise StoreDamaged(f"{directory / recovery_files.MARKER_NAME}: {NOBODY_VOUCHES}")
    if not recovery_files.is_begun(directory):
        try:
            return restored(config, identity, limits)
        except StoreNotOurs:
            raise
        except StoreDamaged as error:
            if is_alone:
                raise StoreDamaged(f"{error}. {NOBODY_VOUCHES}") from error
            _log.critical("%s", error)
    try:
        kept = recovery_files.begin(directory)
        runtime = _unrestored(config, identity, limits)
        begin = read_begin(config.data_directory, identity.cluster)
        if begin is not None:
            # The new store has nothing of the ledger, and the state goes on from here.
            runtime.store.note_ledger_position(*ledger_position(begin))
        runtime.begin_recovery(os.urandom(32))
        recovery_files.finish(directory)
    except (OSError, SaveFailed) as error:
        raise StoreDamaged(f"{directory}: no recovery can begin here: {error}") from error
    _log.critical("recovering: it votes on nothing for now; the damaged files are in %s", kept)
    return runtime


def restored(config: NodeConfig, identity: Identity, limits: Limits) -> Runtime:
    """Continue from the disk. Raises StoreDamaged, StoreUnusable, ConfigError."""
    runtime = _unrestored(config, identity, limits)
    try:
        runtime.restore()
    except DamagedRecords as error:
        runtime.store.close()
        raise StoreDamaged(f"{runtime.store.path}: {error}") from error
    except OlderRecords as error:
        runtime.store.close()
        raise StoreNotOurs(
            f"{runtime.store.path}: {error}; run the version that wrote it until no replica"
            " recovers, then stop all replicas and start this version"
        ) from error
    except SaveFailed as error:
        runtime.store.close()
        raise StoreUnusable(str(error)) from error
    except (StoreDamaged, StoreUnusable):
        runtime.store.close()
        raise
    return runtime


def _unrestored(config: NodeConfig, identity: Identity, limits: Limits) -> Runtime:
    """A replica that has read nothing yet. Raises StoreDamaged, StoreUnusable, ConfigError."""
    try:
        begin = read_begin(config.data_directory, identity.cluster)
    except OSError as error:
        raise StoreUnusable(f"{config.data_directory}: {error}") from error
    store = _open_store(config, identity.cluster)
    ledger = store.ledger
    application = BuildApplication(
        identity.cluster,
        limits,
        ledger.find_statement,
        missing_entries=ledger.not_given_out,
        verify=verify,
    )
    return Runtime(
        identity,
        store,
        application,
        settings=Settings(
            view_change_seconds=config.view_change_seconds,
            view_change_seconds_max=config.view_change_seconds_max,
            batch_delay_seconds=min(BATCH_DELAY_SECONDS, config.view_change_seconds / 8),
        ),
        begin=begin,
    )


def _check_stand_by(config: NodeConfig, limits: Limits) -> None:
    """Who stands by must have time to build before the others give up. Raises ConfigError."""
    most = limits.deadline_seconds / 2
    if limits.executors != ALL and config.stand_by_seconds > most:
        raise ConfigError.at(
            config.file,
            "stand_by_seconds",
            f"{config.stand_by_seconds:g} is more than half of deadline_seconds in"
            f" {config.cluster_file}",
            f"at most {most:g} is allowed with executors: {limits.executors}",
        )
