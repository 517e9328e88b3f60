"""What a replica must not forget, in SQLite: records, bodies, its own requests; ledger, evidence.

The rule: `save` returns when everything is on disk (synchronous=FULL, then the high-water mark),
and only then may anything be sent. Records form a hash chain. When the database is opened, a
torn tail above the mark is cut; damage at or below it means that this replica may have forgotten
what it said, and is an error that names the file.
"""

import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ci.ballots import OwnRequest
from ci.ledger import genesis_head
from ci.parts import ledger_position
from node.evidence_table import EVIDENCE_SCHEMA, EvidenceTable
from node.high_water_mark import HighWaterMark, MarkFile
from node.ledger_table import LEDGER_SCHEMA, LedgerGap, LedgerTable, WrongEntries
from node.transaction import transaction
from pbft.codec import decode_signed, encode_signed
from pbft.messages import Signed
from pbft.ports import (
    Base,
    Entry,
    Evidence,
    Executed,
    Record,
    SavedBody,
    SavedEntry,
    SavedMessage,
    SavedPrepared,
    SavedRecovery,
)

# 2: prepared certificates, COMMITs with what they decided, evidence, gaps in the ledger.
FORMAT_VERSION = 2
DATABASE_NAME = "replica.sqlite3"
MARK_NAME = "high-water-mark"
NO_CHAIN = bytes(32)

_SCHEMA = f"""
{LEDGER_SCHEMA}
{EVIDENCE_SCHEMA}
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (position INTEGER PRIMARY KEY, body BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE bodies (digest BLOB PRIMARY KEY, sequence INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX bodies_by_sequence ON bodies (sequence);
CREATE TABLE ballots (
  build BLOB NOT NULL, opened INTEGER NOT NULL, replica TEXT NOT NULL, signed BLOB NOT NULL,
  PRIMARY KEY (build, opened, replica)
) WITHOUT ROWID;
CREATE TABLE own_requests (
  timestamp INTEGER PRIMARY KEY, purpose TEXT NOT NULL, build BLOB NOT NULL,
  opened INTEGER NOT NULL, signed BLOB NOT NULL, is_executed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX own_requests_by_purpose ON own_requests (purpose, build, opened);
"""

_ChainedRecord = SavedMessage | SavedPrepared | SavedRecovery | Executed | Base
_record_encoder = msgspec.msgpack.Encoder()
_record_decoder: msgspec.msgpack.Decoder[_ChainedRecord] = msgspec.msgpack.Decoder(_ChainedRecord)
_log = logging.getLogger(__name__)


class StoreDamaged(Exception):
    """The files are not what this replica saved; the text names the file and what to do."""


class StoreNotOurs(StoreDamaged):
    """The files are whole, but of another cluster, replica or format: a mistake, no damage."""


class StoreInUse(Exception):
    """Another process has the files open; the text names the folder."""


class SaveFailed(Exception):
    """Nothing of this save is on disk (disk full, input/output error); it may be tried again."""


class Store:
    """The open files of one replica. What only reads is in `ledger` and `evidence`."""

    def __init__(self, directory: Path, cluster_id: bytes, replica: str) -> None:
        """Open or make them.

        Raises StoreDamaged, also where they belong to somebody else; StoreInUse; OSError.
        """
        directory.mkdir(parents=True, exist_ok=True)
        # The records are committed, the mark after them is not on disk yet.
        self._is_mark_due = False
        self._genesis_head = genesis_head(cluster_id)
        self.path = directory / DATABASE_NAME
        try:
            self._mark_file = MarkFile.open(directory / MARK_NAME, is_exclusive=True)
        except BlockingIOError as error:
            raise StoreInUse(f"{directory} is in use by another process") from error
        self._database = sqlite3.connect(self.path, isolation_level=None)
        try:
            self._open_database(cluster_id, replica)
        except BaseException:
            # Closed late it would remove a write-ahead log of this name, whosever it is by then.
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._mark_file.close()
            raise

    def _open_database(self, cluster_id: bytes, replica: str) -> None:
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._check_owner(cluster_id, replica)
            self._position, self._chain = self._check_chain()
            self.ledger = LedgerTable(self._database, cluster_id)
            self.evidence = EvidenceTable(self._database)
        except sqlite3.DatabaseError as error:
            raise self._damaged(f"SQLite cannot read it ({error})") from error

    # --- reading --------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The records from the last base on, in order."""
        rows = self._database.execute("SELECT body FROM records ORDER BY position")
        return [_record_decoder.decode(body) for (body,) in rows]

    def bodies(self) -> dict[bytes, bytes]:
        """The saved bodies by digest; whoever uses one checks it against its digest."""
        return dict(self._database.execute("SELECT digest, body FROM bodies"))

    def ballots(self, build: bytes) -> list[tuple[int, str, Signed]]:
        """(opening sequence number, replica, signed request) of all ballots on that build."""
        rows = self._database.execute(
            "SELECT opened, replica, signed FROM ballots WHERE build = ? ORDER BY opened, replica",
            (build,),
        )
        return [(opened, replica, decode_signed(signed)) for opened, replica, signed in rows]

    def own_request(self, purpose: str, build: bytes, opened: int) -> OwnRequest | None:
        """What this replica has said, or is saying, about that build."""
        row = self._database.execute(
            "SELECT timestamp, purpose, build, opened, signed FROM own_requests"
            " WHERE purpose = ? AND build = ? AND opened = ?",
            (purpose, build, opened),
        ).fetchone()
        return _own_request(row) if row else None

    def own_requests_pending(self) -> list[OwnRequest]:
        """Own requests that were not seen executed, lowest number first."""
        rows = self._database.execute(
            "SELECT timestamp, purpose, build, opened, signed FROM own_requests"
            " WHERE NOT is_executed ORDER BY timestamp"
        )
        return [_own_request(row) for row in rows]

    def last_own_timestamp(self) -> int:
        """The highest number that this replica gave to a request of its own."""
        row = self._database.execute("SELECT value FROM meta WHERE name = 'timestamp'").fetchone()
        return int(row[0]) if row else 0

    # --- writing --------------------------------------------------------------------------------

    def save(
        self,
        records: Sequence[Record],
        ballots: Sequence[tuple[bytes, int, str, Signed]],
        evidence: Sequence[Evidence] = (),
    ) -> None:
        """Put what one turn gave on disk, in one transaction, then the mark.

        ballots: (build, opening sequence number, replica, signed request) executed in this turn.
        Raises SaveFailed: then nothing may be sent, and the next call must bear the same
        arguments.
        """
        try:
            if not self._is_mark_due:
                self._commit(records, ballots, self.evidence.new(evidence))
            if self._mark_file.mark is None or self._position != self._mark_file.mark.position:
                self._is_mark_due = True
                self._mark_file.write(HighWaterMark(self._position, self._chain))
            self._is_mark_due = False
        except (sqlite3.OperationalError, OSError) as error:
            raise SaveFailed(f"{self.path}: {error}") from error

    def _commit(
        self,
        records: Sequence[Record],
        ballots: Sequence[tuple[bytes, int, str, Signed]],
        evidence: Sequence[Evidence],
    ) -> None:
        if not records and not ballots and not evidence:
            return
        position, chain = self._position, self._chain
        with transaction(self._database) as database:
            for record in records:
                if isinstance(record, SavedBody):
                    database.execute(
                        "INSERT INTO bodies VALUES (?, ?, ?) ON CONFLICT (digest)"
                        " DO UPDATE SET sequence = max(sequence, excluded.sequence)",
                        (record.digest, record.sequence, record.body),
                    )
                elif isinstance(record, SavedEntry):
                    self.ledger.save_entry(record.entry)
                else:
                    body = _record_encoder.encode(record)
                    if isinstance(record, Base):
                        self._begin_generation(record)
                        chain = NO_CHAIN
                    position += 1
                    chain = _next_chain(chain, position, body)
                    database.execute(
                        "INSERT INTO records VALUES (?, ?, ?)", (position, body, chain)
                    )
            database.executemany(
                "INSERT OR IGNORE INTO ballots VALUES (?, ?, ?, ?)",
                [(b, opened, name, encode_signed(signed)) for b, opened, name, signed in ballots],
            )
            self.evidence.save(evidence)
        self._position, self._chain = position, chain
        self.evidence.saved(evidence)

    def agree_ledger(self, index: int, head: bytes) -> None:
        """Compare the ledger's end with what execution came to. Raises StoreDamaged, SaveFailed.

        Entries beyond that belong to records that were cut, or to a wrong state that was
        replaced: they go.
        """
        if self.ledger.end()[0] > index:
            _log.warning("ledger entries after %d were not executed, and are dropped", index)
            with self._own_transaction():
                self.ledger.cut(index + 1)
        if self.ledger.end() != (index, head):
            raise self._damaged(f"its ledger does not end with entry {index} as execution gives it")

    def fill_gap(self, gap: LedgerGap, entries: Sequence[Entry]) -> bool:
        """Keep fetched entries that follow in this gap; whether they closed it.

        Raises WrongEntries; then everything that was fetched for this gap is dropped, because
        it is not known who lied. Raises SaveFailed: nothing changed.
        """
        try:
            with self._own_transaction():
                return self.ledger.fill(gap, entries)
        except WrongEntries:
            with self._own_transaction():
                self.ledger.empty(gap)
            raise

    def add_own_request(self, request: OwnRequest, instead_of: int | None = None) -> None:
        """Save a request of this replica's own, its number in the same commit as its bytes.

        instead_of: the number that this request had before and that was used for another.
        Raises SaveFailed.
        """
        with self._own_transaction() as database:
            if instead_of is not None:
                database.execute("DELETE FROM own_requests WHERE timestamp = ?", (instead_of,))
            database.execute(
                "INSERT INTO own_requests (timestamp, purpose, build, opened, signed)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    request.timestamp,
                    request.purpose,
                    request.build,
                    request.opened,
                    encode_signed(request.signed),
                ),
            )
            database.execute(
                "INSERT OR REPLACE INTO meta VALUES ('timestamp', ?)", (request.timestamp,)
            )

    def forget_own_requests(self, executed: Sequence[int]) -> None:
        """Note that these numbers were executed, so need not be sent again; may be lost."""
        with contextlib.suppress(sqlite3.OperationalError), transaction(self._database) as database:
            database.executemany(
                "UPDATE own_requests SET is_executed = 1 WHERE timestamp = ?",
                [(timestamp,) for timestamp in executed],
            )

    def close(self) -> None:
        """Close the files."""
        self._database.close()
        self._mark_file.close()

    # --- inside ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _own_transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that is no turn's. Raises SaveFailed."""
        try:
            with transaction(self._database) as database:
                yield database
        except sqlite3.OperationalError as error:
            raise SaveFailed(f"{self.path}: {error}") from error

    def _check_owner(self, cluster_id: bytes, replica: str) -> None:
        wanted = {"cluster": cluster_id, "replica": replica.encode()}
        if self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            if self._mark_file.mark is not None:
                raise self._damaged("it is empty, but the high-water mark beside it is not")
            self._database.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
            with transaction(self._database) as database:
                database.execute(
                    "INSERT INTO meta VALUES ('format', ?)", (str(FORMAT_VERSION).encode(),)
                )
                database.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())
        meta = dict(self._database.execute("SELECT name, value FROM meta"))
        version = int(meta.get("format", b"0"))
        if version != FORMAT_VERSION:
            raise StoreNotOurs(
                f"{self.path}: format {version}, this version reads {FORMAT_VERSION} and carries"
                " nothing over; use the version that wrote it, or begin a new cluster, all"
                " replicas with a data_directory of their own"
            )
        for name, value in wanted.items():
            if meta.get(name) != value:
                raise StoreNotOurs(
                    f"{self.path}: it belongs to another {name}; a changed cluster.yml or key is"
                    " a new cluster: give it a data_directory of its own"
                )

    def _check_chain(self) -> tuple[int, bytes]:
        """Follow the chain; cut a broken tail above the mark; the last position and digest."""
        mark = self._mark_file.mark
        marked = mark.position if mark else 0
        position, chain = 0, NO_CHAIN
        first: int | None = None
        rows = self._database.execute("SELECT position, body, chain FROM records ORDER BY position")
        for row_position, body, row_chain in rows.fetchall():
            if first is None:
                first = row_position
                position = row_position - 1
            is_next = row_position == position + 1
            if not is_next or _next_chain(chain, row_position, body) != row_chain:
                if row_position <= marked:
                    raise self._damaged(f"record {row_position} is not what was saved")
                self._database.execute("DELETE FROM records WHERE position >= ?", (row_position,))
                break
            position, chain = row_position, row_chain
            if mark is not None and position == marked and chain != mark.chain:
                raise self._damaged(f"record {position} is not what the high-water mark says")
        if position < marked:
            raise self._damaged(f"its records end at {position}, but {marked} were saved")
        return position, chain

    def _begin_generation(self, base: Base) -> None:
        """Forget what is older than this base, after comparing the ledger with what it says."""
        self.ledger.save_position(*ledger_position(base.parts), self._proved_position())
        self._database.execute("DELETE FROM records")
        self._database.execute("DELETE FROM bodies WHERE sequence <= ?", (base.kept_above,))

    def _proved_position(self) -> tuple[int, bytes]:
        """Index and head of the ledger in the last certified state."""
        row = self._database.execute(
            "SELECT body FROM records ORDER BY position LIMIT 1"
        ).fetchone()
        record = _record_decoder.decode(row[0]) if row else None
        if isinstance(record, Base):
            return ledger_position(record.parts)
        return 0, self._genesis_head

    def _damaged(self, what: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path}: {what}. This replica may have forgotten what it said, so it must not"
            " vote again before nothing of that can matter"
        )


def _own_request(row: tuple[int, str, bytes, int, bytes]) -> OwnRequest:
    timestamp, purpose, build, opened, signed = row
    return OwnRequest(timestamp, purpose, build, opened, decode_signed(signed))


def _next_chain(chain: bytes, position: int, body: bytes) -> bytes:
    return hashlib.sha256(chain + position.to_bytes(8, "big") + body).digest()
