"""What `backup` and `restore` do for a gateway (decisions/0027).

The rule: the restored database is made ready beside its place and moved there as a whole. The
gateway may have gone on after the backup, so what it did then may have happened already: the
network names the timestamps that are used, and statuses that may be posted are not posted again.
"""

import argparse
import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from pathlib import Path

from client.gateway.reporting import RESTORED, Reports, make_reporter
from client.notifications.message_queue import MessageQueue
from client.storage.archive import LOG_FOLDER, LOG_SUFFIX, TESTS_SUFFIX, Archive
from client.storage.database import FILE_NAME, Database, StorageFailed
from client.storage.outbox import Kind, Outbox
from common.backups.backup_file import BackupRefused, BackupWriter
from common.backups.commands import DATA, BackedUp, Restoring, data_restored, write_stored
from common.config_error import ConfigError
from common.configuration.config import ClientConfig, load_client_config
from common.english import counted
from common.epoch_folder import CLUSTER_NAME, LINK_NAME
from common.installation import CLIENT_CONFIG
from common.membership.confirmation import read_cluster
from common.membership.epochs import earlier_ids, in_present_epoch
from common.new_file import sync_folder
from pbft.genesis import Cluster

# What `--replace` moves away is kept there until the next time.
REPLACED_FOLDER = "replaced"
_RESTORING_FOLDER = "restoring"
# As client/storage/archive names them.
_LOG = re.compile(
    rf"{LOG_FOLDER}/[0-9a-f]{{64}}/[A-Za-z0-9][A-Za-z0-9_.-]{{0,63}}"
    rf"({re.escape(LOG_SUFFIX)}|{re.escape(TESTS_SUFFIX)})"
)
# What leads from the configured cluster file to the epoch that the database is of.
_EPOCH = re.compile(rf"epoch-[1-9][0-9]{{0,9}}/({re.escape(CLUSTER_NAME)}|{re.escape(LINK_NAME)})")


def is_gateway_data(name: str) -> bool:
    """Whether a gateway's backup has such a file."""
    return name == FILE_NAME or any(known.fullmatch(name) for known in (_LOG, _EPOCH))


def add_gateway_data(config: ClientConfig, writer: BackupWriter, with_logs: bool) -> None:
    """Add the database as it is at one moment, and archived logs and test details if wanted.

    Raises ConfigError.
    """
    # beside the original, where nobody else reads it either
    with tempfile.TemporaryDirectory(prefix=".backup.", dir=_existing(config)) as folder:
        copy = Path(folder) / FILE_NAME
        _copy_database(config.data_directory / FILE_NAME, copy)
        writer.add_file(f"{DATA}{FILE_NAME}", copy)
    # later than the database, which is of an epoch that is here
    for file in sorted(config.data_directory.glob("epoch-*/*")):
        name = file.relative_to(config.data_directory).as_posix()
        if is_gateway_data(name):
            writer.add_file(f"{DATA}{name}", file)
    if with_logs:
        # later than the database: a log that this has is in its file
        for file in sorted((config.data_directory / LOG_FOLDER).rglob("*")):
            name = file.relative_to(config.data_directory).as_posix()
            if is_gateway_data(name):
                writer.add_file(f"{DATA}{name}", file)


def prepare_gateway(config: ClientConfig, restoring: Restoring) -> None:
    """Make room for the database.

    Raises ConfigError if there is one, and it is to stay; OSError.
    """
    directory = config.data_directory
    if f"{DATA}{FILE_NAME}" not in restoring.backup.files:
        raise BackupRefused(restoring.backup.file, f"has no {FILE_NAME}")
    there = sorted(directory.glob(f"{FILE_NAME}*"))
    if there and not restoring.options.replace:
        raise ConfigError(
            f"{there[0]} is there: start the gateway, which needs no backup then; if the backup is"
            f" to take its place, --replace moves it to {REPLACED_FOLDER}/"
        )
    kept = directory / REPLACED_FOLDER
    if there:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        for file in there:
            file.rename(kept / file.name)


def restore_gateway_data(config: ClientConfig, restoring: Restoring) -> list[str]:
    """Restore the database, and logs that are missing here. Raises ConfigError, OSError."""
    directory = config.data_directory
    folder = directory / _RESTORING_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    count = 0
    for stored, content in restoring.backup.contents():
        name = stored.name.removeprefix(DATA)
        if name == FILE_NAME:
            count += write_stored(folder / FILE_NAME, stored, content)
        elif stored.name.startswith(DATA):
            count += write_stored(directory / name, stored, content)
    _, cluster = read_cluster(in_present_epoch(config).cluster_file)
    posts_statuses = restoring.options.post_statuses
    unfinished = _make_ready(folder, config, cluster, posts_statuses=posts_statuses)
    (folder / FILE_NAME).rename(directory / FILE_NAME)
    sync_folder(directory)
    shutil.rmtree(folder)
    notes = [
        *data_restored(directory, count),
        f"{counted(unfinished, 'build')} had no verdict yet: the gateway asks for them again",
        "webhooks that came after the backup are not in it: let the forges deliver them again",
    ]
    if unfinished and not posts_statuses:
        notes.append(
            "no status is posted of these builds, since the gateway may have posted it; if it was"
            " stopped before the backup and never ran again, restore with --post-statuses"
        )
    return notes


def _make_ready(
    folder: Path, config: ClientConfig, cluster: Cluster, *, posts_statuses: bool
) -> int:
    """Check the database of a backup, and have it do nothing twice; how many builds are unfinished.

    Raises ConfigError: it is damaged, or of another cluster or gateway.
    """
    file = folder / FILE_NAME
    ancestors = earlier_ids(config, cluster)
    try:
        database = Database(folder, cluster.id, config.name, ancestors=ancestors)
        with contextlib.closing(database):
            problem = database.row("PRAGMA quick_check(1)")
            if problem != ("ok",):
                raise ConfigError(f"{file}: it is damaged: {problem}")
            outbox, archive = Outbox(database), Archive(database, folder)
            reporter = make_reporter(config.repositories, database)
            reports = Reports(reporter, config.public_url or "", cluster.quorums.replicas)
            rows = [row for row in outbox.unfinished() if row.kind is Kind.BUILD]
            with database.transaction():
                outbox.drop_texts()
                # a session that somebody ended since would be one again
                database.write("DELETE FROM sessions")
                if not posts_statuses:
                    for row in rows:
                        record = archive.get(row.build)
                        assert record is not None, "each build has a record"
                        reports.keep_quiet(row, record)
                    reporter.queue.settle_all(RESTORED)
                    MessageQueue(database).settle_all(RESTORED)
            # all of it in one file
            database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    except StorageFailed as error:
        raise ConfigError(str(error)) from error
    return len(rows)


def _existing(config: ClientConfig) -> Path:
    if not (config.data_directory / FILE_NAME).exists():
        raise ConfigError(
            f"{config.data_directory}: there is no {FILE_NAME}; the gateway has never run"
        )
    return config.data_directory


def _copy_database(file: Path, copy: Path) -> None:
    """SQLite's own copy of a database that may be written to meanwhile. Raises ConfigError."""
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            # in one step, so that the gateway's commits do not make it begin again and again
            source.backup(target)
    except sqlite3.Error as error:
        raise ConfigError(f"{file}: cannot be copied: {error}") from error


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--post-statuses",
        action="store_true",
        help="post the statuses of builds that had no verdict: the gateway was stopped before the"
        " backup, and has not run since",
    )


GATEWAY_BACKUP = BackedUp(
    kind="gateway",
    default=CLIENT_CONFIG,
    load=load_client_config,
    is_data=is_gateway_data,
    add_data=add_gateway_data,
    prepare=prepare_gateway,
    restore_data=restore_gateway_data,
    add_flags=_add_flags,
)
