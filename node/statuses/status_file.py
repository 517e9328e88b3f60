"""The SQLite file of a node's commit statuses: which are to be posted, and which were posted.

The protocol needs nothing of it. If it is damaged or gone, statuses of builds decided before are
not posted again.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config_error import ConfigError
from common.statuses.status_queue import SCHEMA

FILE_NAME = "statuses.sqlite3"
FORMAT_VERSION = 1
# in the place of a ledger index
_UNKNOWN = -1
POSITION_SCHEMA = """
CREATE TABLE IF NOT EXISTS told (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    ledger_index INTEGER NOT NULL
);
"""


class StatusFile:
    """The open file; common.statuses.status_queue.Database."""

    def __init__(self, directory: Path, ledger_index: int | None) -> None:
        """Open or make it. ledger_index: where the telling begins if the file is new; None: that is
        not known yet.

        Raises ConfigError.
        """
        self.path = directory / FILE_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version not in (0, FORMAT_VERSION):
                raise ConfigError.at(
                    self.path,
                    "",
                    f"has format {version}, this version reads {FORMAT_VERSION}",
                    "use the version of PBFT/CI that wrote it, or a newer one",
                )
            self._connection.executescript(
                f"BEGIN;{SCHEMA}{POSITION_SCHEMA}PRAGMA user_version={FORMAT_VERSION};COMMIT;"
            )
            begins = _UNKNOWN if ledger_index is None else ledger_index
            self._connection.execute("INSERT OR IGNORE INTO told VALUES (1, ?)", (begins,))
        except (sqlite3.Error, OSError) as error:
            raise ConfigError.at(
                self.path, "", f"cannot be used: {error}", "move it away: it is made anew"
            ) from error

    @property
    def told(self) -> int | None:
        """The index of the last ledger entry that was told; None: where the telling begins is not
        known yet. Raises sqlite3.Error."""
        found = self.row("SELECT ledger_index FROM told")
        assert found is not None
        return None if found[0] == _UNKNOWN else int(found[0])

    def note_told(self, ledger_index: int) -> None:
        """All up to this entry is told; inside a transaction."""
        self.write("UPDATE told SET ledger_index = ?", (ledger_index,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when the block is left. Raises sqlite3.Error."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def write(self, statement: str, values: Sequence[Any] = ()) -> int:
        """One changing statement, inside a transaction. Gives back how many rows it touched."""
        assert self._connection.in_transaction, "a write outside a transaction"
        return self._connection.execute(statement, values).rowcount

    def row(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of one query, or None. Raises sqlite3.Error."""
        row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row
