"""The errors of a damaged store, and the marker that makes the next start check the whole store.

The rule: a start checks what the replica needs before it votes. A scrub checks the rest while the
replica works. If a read meets something that only a check of the whole file can judge, the store
first puts a marker file beside the database. The next start then checks everything before the
replica sends anything.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from node.storage import folders

MARKER_NAME = "check-everything"

_DISK_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


class StoreDamaged(Exception):
    """The files are not what this replica saved. The text names the file and the remedy."""


class StoreNotOurs(StoreDamaged):
    """The files are whole, but of another cluster, replica or format: a mistake, no damage."""


class StoreUnusable(Exception):
    """The disk cannot be used now (full, input/output error); its files may be undamaged."""


def is_trouble_of_the_disk(error: Exception) -> bool:
    """Whether SQLite met a disk that is full, busy or refuses, rather than wrong contents."""
    # The low byte is the kind of error, the others give details.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_TROUBLE


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for what was found in that file."""
    return StoreDamaged(
        f"{path}: {what}. This replica may have forgotten what it said, so it must not"
        " vote again before nothing of that can matter"
    )


class FullCheckMarker:
    """The file `check-everything`: the next start checks the whole store before it votes."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._marker = database.with_name(MARKER_NAME)
        # Why the marker was put there, if this process did it.
        self.reason: str | None = None

    @property
    def is_noted(self) -> bool:
        """Whether the marker is there."""
        return self._marker.exists()

    def note(self, reason: str) -> StoreDamaged:
        """Put the marker on disk. Returns the error to raise."""
        self.reason = self.reason or reason
        # If the disk refuses it, the next write reports that.
        with contextlib.suppress(OSError):
            self._marker.touch(mode=0o600)
            folders.sync(self._marker.parent)
        return damaged(self._database, reason)

    def settle(self) -> None:
        """Remove the marker: all was checked and is right. Raises OSError."""
        self._marker.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Translate SQLite's errors of reads while the replica is at work.

        Raises StoreDamaged if SQLite finds its file broken, StoreUnusable if it cannot read.
        """
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_trouble_of_the_disk(error):
                raise StoreUnusable(f"{self._database}: {error}") from error
            raise self.note(f"it cannot be read ({error})") from error
