"""What `backup` and `restore` do for a node (decisions/0027).

The rule: nothing of the store is in a backup, and none of it comes back. Before anything else is
restored, the data directory says that a recovery has begun: so a restored replica never votes
before nothing of what it said and forgot can matter.
"""

import re
from pathlib import Path

from common.backups.backup_file import BackupWriter
from common.backups.commands import (
    DATA,
    BackedUp,
    Restoring,
    data_restored,
    set_modified,
    write_stored,
)
from common.config_error import ConfigError
from common.configuration.config import NodeConfig, load_node_config
from common.epoch_folder import BEGIN_NAME, EPOCH_FOLDERS, epoch_folder
from common.installation import NODE_CONFIG
from node.outputs.kept_builds import WORK_FOLDER
from node.storage import folders, recovery_files
from node.storage.store import DATABASE_NAME, REDO_NAME
from pbft.quorums import quorums_for

BUILDS = "builds"
# As node/builds names a build's folder, node/outputs what it keeps there.
_KEPT = re.compile(
    r"builds/(?P<folder>[0-9a-f]{64}-[0-9]{1,20})/"
    r"(?:log|tests\.json|artifacts/(?:index\.json|[0-9a-f]{64}))"
)


def is_node_data(name: str) -> bool:
    """Whether a node's backup has such a file."""
    return _KEPT.fullmatch(name) is not None


def add_node_data(config: NodeConfig, writer: BackupWriter, with_logs: bool) -> None:
    """Add logs, test cases and artifacts of the builds that do not run, if they are wanted."""
    if not with_logs:
        return
    builds = config.data_directory / BUILDS
    for folder in sorted(builds.iterdir()) if builds.is_dir() else ():
        if (folder / WORK_FOLDER).exists():
            continue
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(config.data_directory).as_posix()
            if is_node_data(name):
                # False: the node keeps it no longer
                writer.add_file(f"{DATA}{name}", file)


def prepare_node(config: NodeConfig, restoring: Restoring) -> None:
    """Have the next start recover.

    Raises ConfigError if there is a store, or nobody else has one; OSError.
    """
    replicas = len(restoring.cluster_config.replicas)
    if quorums_for(replicas).faults_max == 0:
        raise ConfigError(
            f"{config.cluster_file}: with {replicas} replica(s) no other one has the state, and a"
            " backup has none: start a new cluster"
        )
    ancestry = restoring.cluster_config.ancestry
    directory = _present_folder(config.data_directory, ancestry.epoch if ancestry else 0)
    folders.make(directory)
    stored = [directory / name for name in (DATABASE_NAME, REDO_NAME)]
    there = next((file for file in stored if file.exists()), None)
    if there is not None and not restoring.options.replace:
        raise ConfigError(
            f"{there} is there: start the node, which needs no backup then; if the replica is to"
            " forget it and recover, use --replace"
        )
    recovery_files.begin(directory)


def _present_folder(data_directory: Path, epoch: int) -> Path:
    """Of the last epoch that the replica began here. epoch: of the cluster file; that of a later
    one lies in that later epoch's folder."""
    names = [begin.parent.name for begin in data_directory.glob(f"{EPOCH_FOLDERS}/{BEGIN_NAME}")]
    begun = [int(number) for name in names if (number := name.partition("-")[2]).isdecimal()]
    return epoch_folder(data_directory, max([epoch, *begun]))


def restore_node_data(config: NodeConfig, restoring: Restoring) -> list[str]:
    """Restore logs, test cases and artifacts that are missing here. Raises ConfigError."""
    directory = config.data_directory
    count = 0
    times: dict[Path, float] = {}
    for stored, content in restoring.backup.contents():
        name = stored.name.removeprefix(DATA)
        kept = _KEPT.fullmatch(name)
        if kept is None or not stored.name.startswith(DATA):
            continue
        count += write_stored(directory / name, stored, content)
        folder = directory / BUILDS / kept["folder"]
        times[folder] = max(times.get(folder, 0.0), stored.modified_at)
    for folder, modified_at in times.items():
        # the age of the build, for `builds_days_max`
        set_modified(folder, modified_at)
    return [
        *data_restored(directory, count),
        "at its next start the replica recovers: it gets state and ledger from the others, and"
        " votes when that is safe",
    ]


NODE_BACKUP = BackedUp(
    kind="node",
    default=NODE_CONFIG,
    load=load_node_config,
    is_data=is_node_data,
    add_data=add_node_data,
    prepare=prepare_node,
    restore_data=restore_node_data,
)
