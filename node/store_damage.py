"""What is wrong with a replica's files, and the note that makes the next start look at all of them.

The rule: a start looks into what the replica may not speak without, and into the rest while it is
at work. So where anything is met that only a look at the whole file can judge, that is noted
beside the file before anything else is done; the next start looks at everything before it speaks.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from node import folders

DOUBT_NAME = "check-everything"

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
    """The files are not what this replica saved; the text names the file and what to do."""


class StoreNotOurs(StoreDamaged):
    """The files are whole, but of another cluster, replica or format: a mistake, no damage."""


class StoreUnusable(Exception):
    """The disk cannot be used now (full, input/output error); what is on it may well be whole."""


def is_trouble_of_the_disk(error: Exception) -> bool:
    """Whether it is full, busy or refuses, rather than holding something wrong."""
    # The low byte is the kind, the others say more about it.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_TROUBLE


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error that says what was found in that file."""
    return StoreDamaged(
        f"{path}: {what}. This replica may have forgotten what it said, so it must not"
        " vote again before nothing of that can matter"
    )


class Doubt:
    """Whether the file is to be looked at as a whole before the replica speaks again."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._note = database.with_name(DOUBT_NAME)
        # Why, where it was met in this life of the process.
        self.reason: str | None = None

    @property
    def is_noted(self) -> bool:
        """Whether the note is there."""
        return self._note.exists()

    def note(self, reason: str) -> StoreDamaged:
        """Put the note on disk; what is to be raised."""
        self.reason = self.reason or reason
        # A disk that does not take it is told of by whoever writes next.
        with contextlib.suppress(OSError):
            self._note.touch(mode=0o600)
            folders.sync(self._note.parent)
        return damaged(self._database, reason)

    def settle(self) -> None:
        """All was looked at and is as it should be. Raises OSError."""
        self._note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around reads while the replica is at work.

        Raises StoreDamaged where SQLite finds its file broken, StoreUnusable where it cannot read.
        """
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_trouble_of_the_disk(error):
                raise StoreUnusable(f"{self._database}: {error}") from error
            raise self.note(f"it cannot be read ({error})") from error
