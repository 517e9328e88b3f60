"""A replica's requests as a client of its own group, in the store: ballots and deadline reports.

The rule: a request's number is in one commit with its bytes, and the chain of records says that
it is there, so that no number and no ballot is ever forgotten without a word.
"""

import hashlib
import sqlite3

import msgspec

from ci.ballots import OwnRequest
from node.store_damage import Doubt
from pbft.codec import MalformedMessage, decode_signed, encode_signed

OWN_REQUEST_SCHEMA = """
CREATE TABLE own_requests (
  timestamp INTEGER PRIMARY KEY, purpose TEXT NOT NULL, build BLOB NOT NULL,
  opened INTEGER NOT NULL, signed BLOB NOT NULL, is_executed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX own_requests_by_purpose ON own_requests (purpose, build, opened);
"""
# Else each look for what is pending reads all that was ever said. Older stores have none.
OWN_REQUEST_INDEX = (
    "CREATE INDEX IF NOT EXISTS own_requests_pending ON own_requests (timestamp)"
    " WHERE NOT is_executed"
)
_COLUMNS = "timestamp, purpose, build, opened, signed"


class Aside(msgspec.Struct, frozen=True, array_like=True, tag="aside"):
    """A record that something beside the records was saved: losing it, too, breaks the chain.

    own_request: purpose, build, opening number and digest of a request that must be there.
    """

    own_request: tuple[str, bytes, int, bytes] | None = None


class OwnRequestTable:
    """The own requests of one replica's store. What changes it is called in a transaction."""

    def __init__(self, database: sqlite3.Connection, doubt: Doubt) -> None:
        """doubt: is told what is found broken while the replica is at work."""
        self._database = database
        self._doubt = doubt

    def find(self, purpose: str, build: bytes, opened: int) -> OwnRequest | None:
        """What this replica has said, or is saying, about that build.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._doubt.reading():
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM own_requests"  # noqa: S608 - constants
                " WHERE purpose = ? AND build = ? AND opened = ?",
                (purpose, build, opened),
            ).fetchone()
        try:
            return _own_request(row) if row else None
        except (MalformedMessage, TypeError) as error:
            raise self._doubt.note(f"a request of this replica's own is broken: {error}") from error

    def pending(self) -> list[OwnRequest]:
        """Own requests that were not seen executed, lowest number first."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM own_requests"  # noqa: S608 - constants
            " WHERE NOT is_executed ORDER BY timestamp"
        )
        return [_own_request(row) for row in rows]

    def last_timestamp(self) -> int:
        """The highest number that this replica gave to a request of its own.

        Raises StoreDamaged, StoreUnusable.
        """
        with self._doubt.reading():
            row = self._database.execute(
                "SELECT max(coalesce((SELECT value FROM meta WHERE name = 'timestamp'), 0),"
                " coalesce((SELECT max(timestamp) FROM own_requests), 0))"
            ).fetchone()
        return int(row[0])

    def asides(self) -> list[Aside]:
        """One for each pending request."""
        return [aside_of(request) for request in self.pending()]

    def is_whole(self, asides: list[Aside]) -> bool:
        """Whether each request that these speak of is there as it was saved, in its last form."""
        wanted = {
            aside.own_request[:3]: aside.own_request[3] for aside in asides if aside.own_request
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

    def add(self, request: OwnRequest, instead_of: int | None) -> None:
        """Insert it, in the place of another one, and note that its number is used."""
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
        """These are pending no more."""
        self._database.executemany(
            "UPDATE own_requests SET is_executed = 1 WHERE timestamp = ?",
            [(timestamp,) for timestamp in timestamps],
        )


def aside_of(request: OwnRequest) -> Aside:
    """The record that is saved with this request."""
    digest = _digest(request.timestamp, encode_signed(request.signed))
    return Aside((request.purpose, request.build, request.opened, digest))


def _own_request(row: tuple[int, str, bytes, int, bytes]) -> OwnRequest:
    timestamp, purpose, build, opened, signed = row
    return OwnRequest(timestamp, purpose, build, opened, decode_signed(signed))


def _digest(timestamp: int, signed: bytes) -> bytes:
    return hashlib.sha256(timestamp.to_bytes(8, "big") + signed).digest()
