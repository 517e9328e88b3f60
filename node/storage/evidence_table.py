"""Proof of misbehaviour in the store: both originals of two messages that contradict each other.

Bounded per replica in number and bytes: one pair proves as much as a thousand.
"""

import collections
import hashlib
import logging
import sqlite3
from collections.abc import Sequence

import msgspec

from pbft.codec import MalformedMessage, decode_signed, encode_signed
from pbft.messages import Signed
from pbft.ports import Evidence

EVIDENCE_SCHEMA = """
CREATE TABLE evidence (
  number INTEGER PRIMARY KEY AUTOINCREMENT, replica INTEGER NOT NULL, pair BLOB NOT NULL UNIQUE,
  first BLOB NOT NULL, second BLOB NOT NULL
);
"""
EVIDENCE_PER_REPLICA_MAX = 100
# Two VIEW-CHANGEs may have megabytes each. The first pair of a replica is kept whatever its size.
EVIDENCE_BYTES_PER_REPLICA_MAX = 32 * 1024 * 1024

_log = logging.getLogger(__name__)


class KeptEvidence(msgspec.Struct, frozen=True):
    """One pair, and its number in this store, for paging."""

    number: int
    evidence: Evidence


class EvidenceTable:
    """The evidence of one replica's store. `save` is called inside the store's transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        # Pairs that are on disk, so that a flood of contradictions costs no transactions.
        self._known: set[bytes] = set()
        self._counts: collections.Counter[int] = collections.Counter()
        self._bytes: collections.Counter[int] = collections.Counter()
        damaged: list[int] = []
        rows = database.execute("SELECT number, replica, pair, first, second FROM evidence")
        for number, replica, pair, first, second in rows:
            if _is_whole(replica, pair, first, second=second):
                self._note(replica, pair, len(first) + len(second))
            else:
                damaged.append(number)
        for number in damaged:
            _log.error("evidence %d is damaged, and is dropped", number)
            database.execute("DELETE FROM evidence WHERE number = ?", (number,))

    def counts(self) -> dict[int, int]:
        """Pairs by replica, of those that have any."""
        return dict(self._counts)

    def page(self, after: int, count: int, bytes_max: int) -> list[KeptEvidence]:
        """At most `count` pairs numbered above `after`; after the first, at most these bytes."""
        kept: list[KeptEvidence] = []
        size = 0
        rows = self._database.execute(
            "SELECT number, replica, first, second FROM evidence WHERE number > ?"
            " ORDER BY number LIMIT ?",
            (after, count),
        )
        for number, replica, first, second in rows:
            size += len(first) + len(second)
            if kept and size > bytes_max:
                break
            kept.append(
                KeptEvidence(number, Evidence(replica, decode_signed(first), decode_signed(second)))
            )
        return kept

    def new(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """Those that are to be saved: neither known nor beyond the bounds."""
        wanted: list[Evidence] = []
        pairs: set[bytes] = set()
        counts, sizes = self._counts.copy(), self._bytes.copy()
        for item in evidence:
            pair = _pair(item)
            count, size = counts[item.replica], sizes[item.replica] + _size(item)
            is_full = count >= EVIDENCE_PER_REPLICA_MAX or size > EVIDENCE_BYTES_PER_REPLICA_MAX
            if pair in self._known or pair in pairs or (count > 0 and is_full):
                continue
            pairs.add(pair)
            counts[item.replica] += 1
            sizes[item.replica] = size
            wanted.append(item)
        return wanted

    def save(self, evidence: Sequence[Evidence]) -> None:
        """Put what `new` gave on disk; `saved` follows once it is committed."""
        self._database.executemany(
            "INSERT INTO evidence (replica, pair, first, second) VALUES (?, ?, ?, ?)",
            [
                (item.replica, _pair(item), encode_signed(item.first), encode_signed(item.second))
                for item in evidence
            ],
        )

    def saved(self, evidence: Sequence[Evidence]) -> None:
        """What `save` wrote is committed."""
        for item in evidence:
            self._note(item.replica, _pair(item), _size(item))

    def _note(self, replica: int, pair: bytes, size: int) -> None:
        self._known.add(pair)
        self._counts[replica] += 1
        self._bytes[replica] += size


def _is_whole(replica: int, pair: bytes, first: bytes, *, second: bytes) -> bool:
    """Whether a row is what was saved, as far as its digest tells: a proof must not be wrong."""
    try:
        return _pair(Evidence(replica, decode_signed(first), decode_signed(second))) == pair
    except (MalformedMessage, OverflowError):
        return False


def _pair(evidence: Evidence) -> bytes:
    """Equal for the same two payloads in either order: of one there may be many signatures."""
    digests = sorted(_digest(signed) for signed in (evidence.first, evidence.second))
    return hashlib.sha256(evidence.replica.to_bytes(8, "big") + b"".join(digests)).digest()


def _digest(signed: Signed) -> bytes:
    return hashlib.sha256(signed.payload).digest()


def _size(evidence: Evidence) -> int:
    return len(encode_signed(evidence.first)) + len(encode_signed(evidence.second))
