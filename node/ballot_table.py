"""The ballots that were executed: anybody may ask for them, and check each by its signature."""

import logging
import sqlite3
from collections.abc import Sequence

from node.store_damage import Doubt
from pbft.codec import MalformedMessage, decode_signed, encode_signed
from pbft.messages import Signed

BALLOT_SCHEMA = """
CREATE TABLE ballots (
  build BLOB NOT NULL, opened INTEGER NOT NULL, replica TEXT NOT NULL, signed BLOB NOT NULL,
  PRIMARY KEY (build, opened, replica)
) WITHOUT ROWID;
"""

# Build, the sequence number that opened it, replica, its signed request.
ExecutedBallot = tuple[bytes, int, str, Signed]

_log = logging.getLogger(__name__)


class BallotTable:
    """The table of one store. doubt: notes what cannot be read."""

    def __init__(self, database: sqlite3.Connection, doubt: Doubt) -> None:
        self._database = database
        self._doubt = doubt

    def of(self, build: bytes) -> list[tuple[int, str, Signed]]:
        """(opening sequence number, replica, signed request) of all ballots on that build.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._doubt.reading():
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
