"""The commands `backup` and `restore` of a node's and of a gateway's program.

The rule: what a restore must not undo comes first. The program's own part looks at the data
directory and marks it before anything else is written, and the member's configuration, without
which nothing starts, comes last. A file that is there stays as it is.
"""

import argparse
import contextlib
import datetime
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from common.backups.backup_file import (
    FORMAT_VERSION,
    Backup,
    BackupRefused,
    BackupWriter,
    Header,
    Kind,
    Stored,
    new_backup,
)
from common.config_error import ConfigError
from common.configuration.config import (
    ClientConfig,
    ClusterConfig,
    NodeConfig,
    load_cluster_config,
)
from common.configuration.process_file import find_process
from common.configuration.secret_file import PRIVATE_UMASK
from common.english import counted
from common.membership.confirmation import read_cluster
from common.new_file import write_new_file
from common.version import VERSION

# What a backup calls the files of the configuration, whatever they are called on the disk.
MEMBER_FILE = "configuration/member.yml"
CLUSTER_FILE = "configuration/cluster.yml"
PRIVATE_KEY_FILE = "configuration/private-key.pem"
PUBLIC_KEYS = "configuration/public-keys/"
DATA = "data/"
CONFIGURATION_BYTES_MAX = 1024 * 1024
# What a restore leaves free of a disk.
FREE_BYTES_MIN = 64 * 1024 * 1024
SUFFIX = ".pbft-ci-backup.tar"

Config = TypeVar("Config", NodeConfig, ClientConfig)
Commands = Any  # argparse keeps the type of add_subparsers to itself


class Restoring(NamedTuple):
    """What a program's own part of a restore is given."""

    backup: Backup
    cluster_config: ClusterConfig
    options: argparse.Namespace


class BackedUp(NamedTuple, Generic[Config]):
    """How a program is backed up and restored."""

    kind: Kind
    # the configuration, unless --config names one
    default: Path
    # reads it, or a text in its place; raises ConfigError
    load: Callable[[Path, str | None], Config]
    # whether a backup has such a file below `data/`
    is_data: Callable[[str], bool]
    # puts the data into a backup; the last argument: with the logs
    add_data: Callable[[Config, BackupWriter, bool], None]
    # refuses a data directory that is not to be changed, and marks it; raises ConfigError, OSError
    prepare: Callable[[Config, Restoring], None]
    # restores the data, and says in lines what an operator should know; raises as `prepare`
    restore_data: Callable[[Config, Restoring], list[str]]
    # adds flags of its own to `restore`
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_backup(commands: Commands, program: BackedUp[Any]) -> None:
    """Add `backup` and `restore`."""
    common = argparse.ArgumentParser(add_help=False)
    # the program's own --config may stand before the command, too
    common.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    making = commands.add_parser(
        "backup",
        parents=[common],
        help=f"write what this {program.kind} needs after the loss of its disk into one file",
        description="Write configuration and data into one new file, which only its owner can"
        f" read. The {program.kind} may run meanwhile.",
    )
    making.add_argument(
        "--output", type=Path, required=True, metavar="FILE|FOLDER", help="where to write it"
    )
    making.add_argument("--with-logs", action="store_true", help="with the logs of builds")
    making.add_argument(
        "--with-private-key",
        action="store_true",
        help="with the private key: whoever has the file can then pose as this member",
    )
    making.set_defaults(run=lambda options: _backup(program, options))
    restoring = commands.add_parser(
        "restore",
        parents=[common],
        help=f"restore this {program.kind} from a backup, after the loss of its disk",
        description="Check a backup as a whole, then restore what is missing here: the"
        " configuration (at --config, and where that names its files) and the data directory.",
    )
    restoring.add_argument("file", type=Path, metavar="FILE", help="what `backup` wrote")
    restoring.add_argument(
        "--replace",
        action="store_true",
        help="move the data that is there away, although it is newer than the backup",
    )
    program.add_flags(restoring)
    restoring.set_defaults(run=lambda options: _restore(program, options))


def write_stored(target: Path, stored: Stored, content: Iterator[bytes]) -> bool:
    """Write a file of a backup where there is none; False if there is one. Raises ConfigError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except FileExistsError:
        return False
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        with open(descriptor, "wb") as stream:
            for chunk in content:
                stream.write(chunk)
            stream.flush()
            os.fsync(descriptor)
        set_modified(target, stored.modified_at)
    except BaseException as error:
        target.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(target, error) from error
        raise
    return True


def set_modified(target: Path, at: float) -> None:
    """Give a restored file or folder its time, by which it is kept. Raises OSError."""
    at = min(max(0.0, at), time.time())
    os.utime(target, (at, at))


def _backup(program: BackedUp[Any], options: argparse.Namespace) -> int:
    config = program.load(getattr(options, "config", None) or program.default, None)
    cluster_config, cluster = read_cluster(config.cluster_file)
    now = datetime.datetime.now(datetime.UTC)
    output = options.output
    if output.is_dir():
        output = output / f"{config.name}-{now.strftime('%Y%m%dT%H%M%SZ')}{SUFFIX}"
    header = Header(
        format=FORMAT_VERSION,
        kind=program.kind,
        name=config.name,
        cluster=cluster.lineage.hex(),
        version=VERSION,
        made_at=now.isoformat(timespec="seconds"),
    )
    with new_backup(output, header) as writer:
        _add(writer, MEMBER_FILE, config.file)
        _add(writer, CLUSTER_FILE, config.cluster_file)
        for name, file in _public_key_files(cluster_config).items():
            _add(writer, name, file)
        if options.with_private_key:
            _add(writer, PRIVATE_KEY_FILE, config.private_key_file)
        program.add_data(config, writer, options.with_logs)
    print(f"{output}: the backup of {config.name}; keep it on another disk")
    if not options.with_private_key:
        print(f"not in it: the private key, {config.private_key_file}")
    print("not in it: files of secrets that the configuration names; keep copies of them")
    return 0


def _restore(program: BackedUp[Any], options: argparse.Namespace) -> int:
    with Backup(options.file, lambda name: _is_expected(program, name)) as backup:
        header = backup.header
        if header.kind != program.kind:
            raise BackupRefused(backup.file, f"is the backup of a {header.kind}")
        file = Path(os.path.abspath(getattr(options, "config", None) or program.default))
        text = _text(backup, MEMBER_FILE)
        config = program.load(file, None if file.exists() else text)
        if config.name != header.name:
            raise BackupRefused(
                backup.file, f"is the backup of {header.name}, and {file} is of {config.name}"
            )
        restoring = Restoring(backup, _cluster_config(config, backup), options)
        try:
            with _private_umask():
                _check_data_directory(config, backup)
                program.prepare(config, restoring)
            notes = _restore_configuration(config, restoring)
            with _private_umask():
                notes += program.restore_data(config, restoring)
        except OSError as error:
            raise _cannot_write(config.data_directory, error) from error
        if not file.exists():
            write_new_file(file, text, 0o644)
            notes.append(f"{file}: restored")
    for note in notes:
        print(note)
    print(f"{config.name} is restored from the backup of {header.made_at}")
    return 0


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    """As nodes and gateways have it, for what is in their data directories."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def _is_expected(program: BackedUp[Any], name: str) -> bool:
    if name in (MEMBER_FILE, CLUSTER_FILE, PRIVATE_KEY_FILE):
        return True
    if name.startswith(PUBLIC_KEYS):
        return "/" not in name.removeprefix(PUBLIC_KEYS)
    return name.startswith(DATA) and program.is_data(name.removeprefix(DATA))


def _add(writer: BackupWriter, name: str, file: Path) -> None:
    """Add a small file of the configuration, which may be a link. Raises ConfigError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(CONFIGURATION_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    if len(data) > CONFIGURATION_BYTES_MAX:
        raise ConfigError(f"{file}: is no file of a configuration, it is too large")
    writer.add_bytes(name, data)


def _public_key_files(cluster_config: ClusterConfig) -> dict[str, Path]:
    """The files of public keys by their names in a backup; keys in the cluster file have none."""
    return {
        f"{PUBLIC_KEYS}{member.name}.pem": member.public_key_file
        for member in cluster_config.members
        if member.public_key_file is not None
    }


def _text(backup: Backup, name: str) -> str:
    data = backup.read(name, CONFIGURATION_BYTES_MAX)
    if data is None:
        raise BackupRefused(backup.file, f"has no {name}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BackupRefused(backup.file, f"its {name} is no text") from error


def _cluster_config(config: NodeConfig | ClientConfig, backup: Backup) -> ClusterConfig:
    """The cluster file of this machine or, if there is none, of the backup. Raises ConfigError."""
    if config.cluster_file.exists():
        _check_cluster(config.cluster_file, backup)
        return load_cluster_config(config.cluster_file)
    with tempfile.TemporaryDirectory() as folder:
        # read as what it will be; the keys that it names are elsewhere
        file = Path(folder) / config.cluster_file.name
        file.write_text(_text(backup, CLUSTER_FILE))
        return load_cluster_config(file)


def _check_cluster(file: Path, backup: Backup) -> None:
    _, cluster = read_cluster(file)
    if cluster.lineage.hex() != backup.header.cluster:
        raise BackupRefused(
            backup.file,
            f"is of the cluster {backup.header.cluster[:16]}..., and {file} is"
            f" {cluster.lineage.hex()[:16]}...",
        )


def _check_data_directory(config: NodeConfig | ClientConfig, backup: Backup) -> None:
    """Refuse one that a process uses, or whose disk is too small.

    Raises ConfigError, OSError.
    """
    directory = config.data_directory
    process = find_process(directory)
    directory.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(directory).free
    if process is not None:
        raise ConfigError(f"{directory}: process {process.pid} serves from here; stop it first")
    if free_bytes < backup.size + FREE_BYTES_MIN:
        raise ConfigError(
            f"{directory}: {free_bytes} bytes are free, and the backup needs {backup.size}"
        )


def _restore_configuration(config: NodeConfig | ClientConfig, restoring: Restoring) -> list[str]:
    """Write what is missing of it but for the member's own file; what was done. Raises ConfigError.

    If what is here then makes another cluster than the backup's, nothing of it stays.
    """
    backup = restoring.backup
    written: list[Path] = []
    try:
        if not config.cluster_file.exists():
            write_new_file(config.cluster_file, _text(backup, CLUSTER_FILE), 0o644)
            written.append(config.cluster_file)
        keys = _public_key_files(load_cluster_config(config.cluster_file))
        for name, file in keys.items():
            if not file.exists():
                write_new_file(file, _text(backup, name), 0o644)
                written.append(file)
        _check_cluster(config.cluster_file, backup)
        has_key = PRIVATE_KEY_FILE in backup.files
        if has_key and not config.private_key_file.exists():
            write_new_file(config.private_key_file, _text(backup, PRIVATE_KEY_FILE), 0o600)
            written.append(config.private_key_file)
    except BaseException:
        for file in written:
            file.unlink()
        raise
    notes = [f"{file}: restored" for file in written]
    if not config.private_key_file.exists():
        notes.append(f"{config.private_key_file}: is missing; put the private key there")
    return notes


def data_restored(directory: Path, count: int) -> list[str]:
    """The line about what came into a data directory, if anything did."""
    return [f"{directory}: {counted(count, 'file')} restored"] if count else []


def _cannot_write(target: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{target}: cannot be restored ({error.strerror})")
