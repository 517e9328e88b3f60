"""What a replica must not forget, in SQLite: records, bodies, its own requests; ledger, evidence.

The rule: `save` returns when everything is on disk (synchronous=FULL, then the high-water mark),
and only then may anything be sent. Records form a hash chain. When the database is opened, a
torn tail above the mark is cut; damage at or below it means that this replica may have forgotten
what it said, and is an error that names the file. A disk that is full or gives errors is not
damage: nothing is given up for it.
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
from ci.ledger_gap import LedgerGap, LedgerPage
from ci.parts import ledger_position
from node import folders
from node.evidence_table import EVIDENCE_SCHEMA, EvidenceTable
from node.high_water_mark import HighWaterMark, MarkFile
from node.ledger_table import LEDGER_SCHEMA, LedgerTable
from node.ledger_walk import LedgerWalk, WalkStep
from node.own_request_table import (
    OWN_REQUEST_INDEX,
    OWN_REQUEST_SCHEMA,
    Aside,
    OwnRequestTable,
    aside_of,
)
from node.store_damage import (
    Doubt,
    StoreDamaged,
    StoreNotOurs,
    StoreUnusable,
    damaged,
    is_trouble_of_the_disk,
)
from node.structure import StoreFile, check_all, check_at_start, check_schema, is_unreadable
from node.transaction import transaction
from pbft.codec import MalformedMessage, decode_signed, encode_signed
from pbft.messages import Signed
from pbft.ports import (
    Base,
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
# Free pages beyond as many as are used and these (4 MiB) go back to the disk, some at each base:
# the next window wants most of them again, so not all, and not so many that the replica stalls.
SPARE_PAGES = 1024
RETURNED_PAGES_MAX = 2048
# SQLite's write-ahead log is cut to this size when it begins anew.
LOG_BYTES_KEPT = 16 * 1024 * 1024

_SCHEMA = f"""
{LEDGER_SCHEMA}
{EVIDENCE_SCHEMA}
{OWN_REQUEST_SCHEMA}
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (position INTEGER PRIMARY KEY, body BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE bodies (digest BLOB PRIMARY KEY, sequence INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX bodies_by_sequence ON bodies (sequence);
CREATE TABLE ballots (
  build BLOB NOT NULL, opened INTEGER NOT NULL, replica TEXT NOT NULL, signed BLOB NOT NULL,
  PRIMARY KEY (build, opened, replica)
) WITHOUT ROWID;
"""

_BODIES = "SELECT digest, body FROM bodies WHERE typeof(digest) || typeof(body) = 'blobblob'"

# What is read of the ledger at once, when it is checked.
CHECKED_ENTRIES = 1000
CHECKED_BYTES = 8 * 1024 * 1024

_ChainedRecord = SavedMessage | SavedPrepared | SavedRecovery | Executed | Base | Aside
_record_encoder = msgspec.msgpack.Encoder()
_record_decoder: msgspec.msgpack.Decoder[_ChainedRecord] = msgspec.msgpack.Decoder(_ChainedRecord)
_log = logging.getLogger(__name__)


class StoreInUse(Exception):
    """Another process has the files open; the text names the folder."""


class SaveFailed(Exception):
    """Nothing of this save is on disk (disk full, input/output error); it may be tried again."""


class Store:
    """The open files of one replica. What only reads is in `ledger` and `evidence`."""

    def __init__(self, directory: Path, cluster_id: bytes, replica: str) -> None:
        """Open or make them.

        Raises StoreDamaged, also where they belong to somebody else; StoreUnusable; StoreInUse;
        OSError.
        """
        folders.make(directory)
        # What `save` was given last is committed, the mark after it is not on disk yet.
        self._is_committed = False
        # Where the chain will end once the open transaction is committed.
        self._next = (0, NO_CHAIN)
        self._genesis_head = genesis_head(cluster_id)
        self.path = directory / DATABASE_NAME
        try:
            self._mark_file = MarkFile.open(directory / MARK_NAME, is_exclusive=True)
        except BlockingIOError as error:
            raise StoreInUse(f"{directory} is in use by another process") from error
        self.doubt = Doubt(self.path)
        self._file: StoreFile | None = None
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
        except sqlite3.OperationalError as error:
            self._mark_file.close()
            raise StoreUnusable(f"{self.path}: {error}") from error
        try:
            self._open_database(cluster_id, replica)
        except BaseException:
            # Closed late it would remove a write-ahead log of this name, whosever it is by then.
            with contextlib.suppress(sqlite3.Error):
                self.close()
            raise

    def _open_database(self, cluster_id: bytes, replica: str) -> None:
        try:
            # Of a new file; one that was made without stays as it is.
            self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
            self._database.execute("PRAGMA synchronous = FULL")
            self._check_owner(cluster_id, replica)
            is_thorough = self.doubt.is_noted
            self._check_structure(is_thorough)
            self._position, self._chain = self._check_chain()
            self._database.execute(OWN_REQUEST_INDEX)
            self.own_requests = OwnRequestTable(self._database, self.doubt)
            asides = [record for record in self._chained() if isinstance(record, Aside)]
            if not self.own_requests.is_whole(asides):
                raise self._damaged("a request of this replica's own is not what was saved")
            self.ledger = LedgerTable(self._database, cluster_id, self.doubt)
            with transaction(self._database):
                self._check_ledger(is_thorough)
            self.evidence = EvidenceTable(self._database)
            if is_thorough:
                self.doubt.settle()
        except OSError as error:
            raise StoreUnusable(f"{self.path}: {error}") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            # What has rotted may be of another type.
            if is_trouble_of_the_disk(error):
                raise StoreUnusable(f"{self.path}: {error}") from error
            raise self._damaged(f"it cannot be read ({error})") from error

    # --- reading --------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The records from the last base on, in order."""
        return [record for record in self._chained() if not isinstance(record, Aside)]

    def bodies(self) -> dict[bytes, bytes]:
        """The saved bodies by digest; whoever uses one checks it against its digest.

        What a flipped bit calls text is none. Raises StoreDamaged, StoreUnusable.
        """
        with self.doubt.reading():
            return dict(self._database.execute(_BODIES))

    def ballots(self, build: bytes) -> list[tuple[int, str, Signed]]:
        """(opening sequence number, replica, signed request) of all ballots on that build."""
        with self.doubt.reading():
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
        if not self._is_committed:
            self._commit(records, ballots, self.evidence.new(evidence) if evidence else [])
            self._is_committed = True
        self.mark()
        self._is_committed = False

    def mark(self) -> None:
        """Put the mark on disk where it is not at the last record. Raises SaveFailed."""
        mark = self._mark_file.mark
        if mark is not None and mark.position == self._position:
            return
        try:
            self._mark_file.write(HighWaterMark(self._position, self._chain))
        except OSError as error:
            raise SaveFailed(f"{self.path.with_name(MARK_NAME)}: {error}") from error

    def _commit(
        self,
        records: Sequence[Record],
        ballots: Sequence[tuple[bytes, int, str, Signed]],
        evidence: Sequence[Evidence],
    ) -> None:
        if not records and not ballots and not evidence:
            return
        with self._own_transaction() as database:
            before = self._next
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
                    self._insert(record)
            if self._next == before:
                self._insert(Aside())
            if ballots:
                database.executemany(
                    "INSERT OR IGNORE INTO ballots VALUES (?, ?, ?, ?)",
                    [(b, opened, name, encode_signed(s)) for b, opened, name, s in ballots],
                )
            if evidence:
                self.evidence.save(evidence)
        self.evidence.saved(evidence)

    def _insert(self, record: _ChainedRecord) -> None:
        position, chain = self._next
        body = _record_encoder.encode(record)
        if isinstance(record, Base):
            self._begin_generation(record)
            chain = NO_CHAIN
        position += 1
        chain = _next_chain(chain, position, body)
        self._database.execute("INSERT INTO records VALUES (?, ?, ?)", (position, body, chain))
        self._next = (position, chain)
        if isinstance(record, Base):
            for aside in self.own_requests.asides():
                self._insert(aside)

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

    def fill_gap(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """Keep fetched entries, the last of this gap; whether they closed it.

        Raises WrongEntries and SaveFailed: nothing changed.
        """
        with self._own_transaction():
            return self.ledger.fill(gap, page)

    def repair_ledger(self, step: WalkStep) -> int:
        """Make gaps of what a walk found damaged; how many entries. Raises SaveFailed."""
        if not step.damaged and not step.mended:
            return 0
        with self._own_transaction():
            return self._repair(step)

    def add_own_request(self, request: OwnRequest, instead_of: int | None = None) -> None:
        """Save a request of this replica's own, its number in the same commit as its bytes.

        It may be sent once `mark` has succeeded, too.
        instead_of: the number that this request had before and that was used for another.
        Raises SaveFailed.
        """
        with self._own_transaction():
            self._insert(aside_of(request))
            self.own_requests.add(request, instead_of)

    def forget_own_requests(self, executed: Sequence[int]) -> None:
        """Note that these numbers were executed, so need not be sent again; may be lost."""
        with contextlib.suppress(SaveFailed), self._own_transaction():
            self.own_requests.note_executed(list(executed))

    def close(self) -> None:
        """Close the files."""
        try:
            self._database.close()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._mark_file.close()

    # --- inside ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _own_transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises SaveFailed, and StoreDamaged where SQLite cannot go on."""
        self._next = (self._position, self._chain)
        try:
            with transaction(self._database) as database:
                yield database
        except sqlite3.DatabaseError as error:
            if is_trouble_of_the_disk(error):
                raise SaveFailed(f"{self.path}: {error}") from error
            raise self.doubt.note(f"it cannot be written ({error})") from error
        except StoreUnusable as error:
            raise SaveFailed(str(error)) from error
        self._position, self._chain = self._next

    def _check_owner(self, cluster_id: bytes, replica: str) -> None:
        wanted = {"cluster": cluster_id, "replica": replica.encode()}
        if self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            if self._mark_file.mark is not None:
                raise self._damaged("it is empty, but the high-water mark beside it is not")
            # In one transaction: a crash must not leave a store that belongs to nobody.
            with transaction(self._database) as database:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
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

    def _chained(self) -> list[_ChainedRecord]:
        rows = self._database.execute("SELECT body FROM records ORDER BY position")
        return [_record_decoder.decode(body) for (body,) in rows]

    def _check_structure(self, is_thorough: bool) -> None:
        """Else a broken page would show only when it is used, with the replica at work.

        Of what grows with the history, `node.scrub` looks at the rest while the replica works.
        """
        self._file = StoreFile(self.path)
        problem = check_schema(self._database, _SCHEMA, OWN_REQUEST_INDEX)
        if problem is None and is_thorough:
            problem = check_all(self._database)
        elif problem is None:
            problem = check_at_start(self._database, self._file)
        if problem is None:
            return
        if is_unreadable(problem):
            raise StoreUnusable(f"{self.path}: {problem}")
        raise self._damaged(f"its structure is broken: {problem}")

    def _check_ledger(self, is_thorough: bool) -> None:
        """Make gaps of damaged entries among the newest, or all: they are fetched anew.

        The newest are those after the last certified state, which execution comes to again.
        """
        self.ledger.empty_gaps()
        walk = LedgerWalk.from_genesis(self.ledger)
        if not is_thorough:
            proved = self._proved_position()
            if proved[0] <= self.ledger.end()[0]:
                walk = LedgerWalk(self.ledger, *proved)
        while not (step := walk.step(CHECKED_ENTRIES, CHECKED_BYTES)).is_at_end:
            self._repair(step)
        self._repair(step)
        for damage in walk.finish():
            self.ledger.forget(damage)

    def _repair(self, step: WalkStep) -> int:
        """How many entries it makes gaps of; inside a transaction."""
        for gap in step.mended:
            self.ledger.mend(gap)
        return sum(damage.missing for damage in step.damaged if self.ledger.forget(damage))

    def _check_chain(self) -> tuple[int, bytes]:
        """Follow the chain; cut a broken tail above the mark; the last position and digest.

        What is above the mark was told to nobody. But if it begins with a base, all that was said
        before is in it alone: then it cannot be done without.
        """
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
                if mark is None or row_position <= marked or first > marked:
                    raise self._damaged(f"record {row_position} is not what was saved")
                return self._cut_above(mark)
            position, chain = row_position, row_chain
            if mark is not None and position == marked and chain != mark.chain:
                raise self._damaged(f"record {position} is not what the high-water mark says")
        if position < marked:
            raise self._damaged(f"its records end at {position}, but {marked} were saved")
        return position, chain

    def _cut_above(self, mark: HighWaterMark) -> tuple[int, bytes]:
        """Drop the transactions above the mark; what is the last position and digest then."""
        _log.warning("%s: records after %d are torn, and are dropped", self.path, mark.position)
        self._database.execute("DELETE FROM records WHERE position > ?", (mark.position,))
        return mark.position, mark.chain

    def _begin_generation(self, base: Base) -> None:
        """Forget what is older than this base, after comparing the ledger with what it says."""
        self.ledger.save_position(*ledger_position(base.parts), self._proved_position())
        self._database.execute("DELETE FROM records")
        self._database.execute("DELETE FROM bodies WHERE sequence <= ?", (base.kept_above,))
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        spare = free - (pages - free) - SPARE_PAGES
        for _ in range(min(spare, RETURNED_PAGES_MAX)):
            # It frees a page with each step, and sqlite3 takes but one of a statement without rows.
            self._database.execute("PRAGMA incremental_vacuum(1)")

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
        return damaged(self.path, what)


def _next_chain(chain: bytes, position: int, body: bytes) -> bytes:
    return hashlib.sha256(chain + position.to_bytes(8, "big") + body).digest()
