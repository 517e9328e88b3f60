"""A replica's requests as a client of its own group, in the store: ballots and deadline reports.

The rule: a request's timestamp is saved in one commit with its bytes, and the chain of records
names both. So a lost timestamp or ballot breaks the chain, and is found.
"""

import hashlib
import sqlite3

import msgspec

from ci.ballots import ReplicaRequest
from node.storage.damage import FullCheckMarker
from pbft.codec import MalformedMessage, decode_signed, encode_signed

OWN_REQUEST_SCHEMA = """
CREATE TABLE own_requests (
  timestamp INTEGER PRIMARY KEY, purpose TEXT NOT NULL, build BLOB NOT NULL,
  opened INTEGER NOT NULL, signed BLOB NOT NULL, is_executed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX own_requests_by_purpose ON own_requests (purpose, build, opened);
"""
# Without the index each search for pending requests reads all requests. Older stores have none.
OWN_REQUEST_INDEX = (
    "CREATE INDEX IF NOT EXISTS own_requests_pending ON own_requests (timestamp)"
    " WHERE NOT is_executed"
)
_COLUMNS = "timestamp, purpose, build, opened, signed"


class SideWriteRecord(msgspec.Struct, frozen=True, array_like=True, tag="aside"):
    """A record of a row that was saved beside the records: losing that row breaks the chain, too.

    own_request: purpose, build, opening sequence number and digest of a request that must be there.
    """

    own_request: tuple[str, bytes, int, bytes] | None = None


class OwnRequestTable:
    """The own requests of one replica's store. The caller opens a transaction for changes."""

    def __init__(self, database: sqlite3.Connection, full_check: FullCheckMarker) -> None:
        """full_check: gets what is found broken while the replica is at work."""
        self._database = database
        self._full_check = full_check

    def find(self, purpose: str, build: bytes, opened: int) -> ReplicaRequest | None:
        """The request of this replica about that build; None if there is none.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._full_check.reading():
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM own_requests"  # noqa: S608 - constants
                " WHERE purpose = ? AND build = ? AND opened = ?",
                (purpose, build, opened),
            ).fetchone()
        try:
            return _own_request(row) if row else None
        except (MalformedMessage, TypeError) as error:
            raise self._full_check.note(
                f"a request of this replica's own is broken: {error}"
            ) from error

    def pending(self) -> list[ReplicaRequest]:
        """Own requests that were not seen executed, lowest timestamp first."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM own_requests"  # noqa: S608 - constants
            " WHERE NOT is_executed ORDER BY timestamp"
        )
        return [_own_request(row) for row in rows]

    def last_timestamp(self) -> int:
        """The highest timestamp that this replica gave to a request of its own.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._full_check.reading():
            row = self._database.execute(
                "SELECT max(coalesce((SELECT value FROM meta WHERE name = 'timestamp'), 0),"
                " coalesce((SELECT max(timestamp) FROM own_requests), 0))"
            ).fetchone()
        return int(row[0])

    def side_writes(self) -> list[SideWriteRecord]:
        """The records of all pending requests."""
        return [side_write_of(request) for request in self.pending()]

    def is_whole(self, side_writes: list[SideWriteRecord]) -> bool:
        """Whether each request that these name is there as it was last saved."""
        wanted = {
            side_write.own_request[:3]: side_write.own_request[3]
            for side_write in side_writes
            if side_write.own_request
        }
        for key, digest in wanted.items():
            row = self._database.execute(
                "SELECT timestamp, signed FROM own_requests"
                " WHERE purpose = ? AND build = ? AND opened = ?",
                key,
            ).fetchone()
            if row is None or _digest(*row) != digest:
                return False
        return True

    def add(self, request: ReplicaRequest, instead_of: int | None) -> None:
        """Insert the request and note that its timestamp is used.

        instead_of: it replaces this one.
        """
        if instead_of is not None:
            self._database.execute("DELETE FROM own_requests WHERE timestamp = ?", (instead_of,))
        self._database.execute(
            f"INSERT INTO own_requests ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
            (
                request.timestamp,
                request.purpose,
                request.build,
                request.opened,
                encode_signed(request.signed),
            ),
        )
        self._database.execute(
            "INSERT OR REPLACE INTO meta VALUES ('timestamp', ?)", (request.timestamp,)
        )

    def note_executed(self, timestamps: list[int]) -> None:
        """Mark these requests as executed."""
        self._database.executemany(
            "UPDATE own_requests SET is_executed = 1 WHERE timestamp = ?",
            [(timestamp,) for timestamp in timestamps],
        )


def side_write_of(request: ReplicaRequest) -> SideWriteRecord:
    """The record that is saved with this request."""
    digest = _digest(request.timestamp, encode_signed(request.signed))
    return SideWriteRecord((request.purpose, request.build, request.opened, digest))


def _own_request(row: tuple[int, str, bytes, int, bytes]) -> ReplicaRequest:
    timestamp, purpose, build, opened, signed = row
    return ReplicaRequest(timestamp, purpose, build, opened, decode_signed(signed))


def _digest(timestamp: int, signed: bytes) -> bytes:
    return hashlib.sha256(timestamp.to_bytes(8, "big") + signed).digest()
