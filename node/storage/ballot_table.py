"""The ballots that were executed. Anybody may read them and check each by its signature."""

import logging
import sqlite3
from collections.abc import Sequence

from driver.turn import ExecutedBallot
from node.storage.damage import FullCheckMarker
from pbft.codec import MalformedMessage, decode_signed, encode_signed
from pbft.messages import Signed

BALLOT_SCHEMA = """
CREATE TABLE ballots (
  build BLOB NOT NULL, opened INTEGER NOT NULL, replica TEXT NOT NULL, signed BLOB NOT NULL,
  PRIMARY KEY (build, opened, replica)
) WITHOUT ROWID;
"""

_log = logging.getLogger(__name__)


class BallotTable:
    """The table of one store. full_check: notes what cannot be read."""

    def __init__(self, database: sqlite3.Connection, full_check: FullCheckMarker) -> None:
        self._database = database
        self._full_check = full_check

    def of(self, build: bytes) -> list[tuple[int, str, Signed]]:
        """(opening sequence number, replica, signed request) of all ballots on that build.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._full_check.reading():
            rows = self._database.execute(
                "SELECT opened, replica, signed FROM ballots WHERE build = ?"
                " ORDER BY opened, replica",
                (build,),
            ).fetchall()
        found = []
        for opened, replica, signed in rows:
            try:
                found.append((opened, replica, decode_signed(signed)))
            except (MalformedMessage, TypeError):
                # Its signature would tell: nobody counts it.
                _log.error("a ballot of %s on build %s is damaged", replica, build.hex()[:12])
        return found

    def save(self, ballots: Sequence[ExecutedBallot]) -> None:
        """Keep them, inside a transaction. Raises sqlite3.Error."""
        self._database.executemany(
            "INSERT OR IGNORE INTO ballots VALUES (?, ?, ?, ?)",
            [(build, opened, name, encode_signed(s)) for build, opened, name, s in ballots],
        )
