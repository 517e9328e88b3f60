"""Which process serves from a data directory, and what came of its last reload.

The process holds a lock on the file as long as it lives, so a file that a crash left behind names
nobody: its lock is free. Commands read the file to know whom to send SIGHUP.
"""

import fcntl
import os
from pathlib import Path

import msgspec

from common.config_error import ConfigError

FILE_NAME = "process.json"
BYTES_MAX = 64 * 1024


class LastReload(msgspec.Struct, frozen=True):
    """How often a process was asked to reload, and what came of the last time.

    text: one line, for people.
    """

    count: int
    is_taken: bool
    text: str


class RunningProcess(msgspec.Struct, frozen=True):
    """The process that serves from a data directory."""

    pid: int
    reload: LastReload | None = None


class ProcessFile:
    """The file of this process, with its lock."""

    def __init__(self, directory: Path) -> None:
        """Take the file of a data directory that no other process serves from.

        Raises ConfigError: it cannot be written, or another process has it.
        """
        self._file = directory / FILE_NAME
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(RunningProcess(os.getpid()))
        except OSError as error:
            raise ConfigError(
                f"{self._file} cannot be written ({error.strerror}); each process needs a"
                " data_directory of its own that it can write to"
            ) from error

    def note_reload(self, reload: LastReload) -> None:
        """Show what came of a reload to whoever asked for it. Raises OSError."""
        self._write(RunningProcess(os.getpid(), reload))

    def close(self) -> None:
        """Give the lock back; from then on nobody serves from there."""
        os.close(self._descriptor)

    def _write(self, process: RunningProcess) -> None:
        # In its place: another file under this name would not be locked.
        data = msgspec.json.encode(process)
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))


def find_process(directory: Path) -> RunningProcess | None:
    """The process that serves from this data directory; None if there is none.

    Raises OSError if this user may not know, and ConfigError if it is of a newer version.
    """
    try:
        descriptor = os.open(directory / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None
        try:
            return msgspec.json.decode(os.pread(descriptor, BYTES_MAX, 0), type=RunningProcess)
        except msgspec.ValidationError as error:
            raise ConfigError.at(
                directory / FILE_NAME,
                "",
                f"is not what this version reads ({error})",
                "use the commands of the version of PBFT/CI that runs here",
            ) from error
        except msgspec.DecodeError:
            pass
        # Read while it was written: the next look finds it whole.
        return find_process(directory)
    finally:
        os.close(descriptor)
