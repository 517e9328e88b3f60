"""The durable state of a replica in SQLite: records, bodies, own requests; ledger, evidence.

The rule: `save` returns when everything is on disk, twice in the redo log or flushed in SQLite.
Only then may anything be sent. Records form a hash chain. When the files are opened, the store
repeats from the redo log what SQLite lost, and cuts a torn tail above the log's end. Damage at or
below that end means that this replica may have lost messages it sent; it is an error that names the
file. A disk that is full or gives errors is not damage: the store keeps all it has.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ci.ballots import ReplicaRequest
from ci.ledger import genesis_head
from ci.ledger_gap import LedgerGap, LedgerPage
from ci.state_partitions import ledger_position
from driver.ports import SaveFailed
from driver.turn import ExecutedBallot
from node.storage import folders
from node.storage.ballot_table import BallotTable
from node.storage.damage import (
    FullCheckMarker,
    StoreDamaged,
    StoreUnusable,
    damaged,
    is_trouble_of_the_disk,
)
from node.storage.evidence_table import EvidenceTable
from node.storage.ledger_table import LedgerTable
from node.storage.ledger_walk import LedgerWalk, WalkStep
from node.storage.own_request_table import (
    OWN_REQUEST_INDEX,
    OwnRequestTable,
    SideWriteRecord,
    side_write_of,
)
from node.storage.record_chain import (
    NO_CHAIN,
    BrokenChain,
    ChainedRecord,
    WrongChain,
    decode_record,
    encode_record,
    follow,
    next_chain,
)
from node.storage.redo_log import EntriesUnknown, RedoEntry, RedoLog
from node.storage.schema import SCHEMA, another_format, check_owner, is_empty, make_tables
from node.storage.sqlite_integrity import (
    StoreFile,
    check_all,
    check_at_start,
    check_schema,
    is_unreadable,
)
from node.storage.transaction import transaction
from pbft.ports import CheckpointRecord, Evidence, Record, SavedBody, SavedEntry

DATABASE_NAME = "replica.sqlite3"
REDO_NAME = "redo-log"
# Free pages beyond as many as are used and these (4 MiB) go back to the disk, some at each
# checkpoint: the next window wants most of them again, so not all, and not so many that the replica
# stalls.
SPARE_PAGES = 1024
RETURNED_PAGES_MAX = 2048
# SQLite's write-ahead log is cut to this size when it begins anew.
LOG_BYTES_KEPT = 16 * 1024 * 1024

_BODIES = "SELECT digest, body FROM bodies WHERE typeof(digest) || typeof(body) = 'blobblob'"

# What is read of the ledger at once, when it is checked.
CHECKED_ENTRIES = 1000
CHECKED_BYTES = 8 * 1024 * 1024

_log = logging.getLogger(__name__)


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """What one `save` was given, as the redo log keeps it."""

    records: tuple[Record, ...]
    ballots: tuple[ExecutedBallot, ...]
    evidence: tuple[Evidence, ...]


_saved_encoder = msgspec.msgpack.Encoder()
_saved_decoder = msgspec.msgpack.Decoder(_Saved)


class StoreInUse(Exception):
    """Another process has the files open; the text names the folder."""


class Store:
    """The open files of one replica. What only reads is in `ledger` and `evidence`."""

    def __init__(
        self, directory: Path, cluster_id: bytes, replica: str, *, lineage: bytes | None = None
    ) -> None:
        """Open or make them.

        lineage: the id of the cluster of epoch 0, with which the ledger begins; None: cluster_id.
        Raises StoreDamaged, also where they belong to somebody else; StoreUnusable; StoreInUse;
        OSError.
        """
        folders.make(directory)
        # What `save` was given last is committed, but `mark` did not succeed yet.
        self._is_committed = False
        # The last save that SQLite has and need not have on disk.
        self._unmarked: RedoEntry | None = None
        self._is_flushing: bool | None = None
        # What SQLite shows need not be what a power cut leaves: a commit was refused, of which
        # something is on disk, or a process was killed. The next flushed commit settles it.
        self._is_doubtful = True
        # Where the chain will end once the open transaction is committed.
        self._next = (0, NO_CHAIN)
        self._lineage = lineage or cluster_id
        self._genesis_head = genesis_head(self._lineage)
        self.path = directory / DATABASE_NAME
        try:
            # Before SQLite, whose first flush of its log flushes the folder, too.
            self._redo = RedoLog.open(directory / REDO_NAME)
        except BlockingIOError as error:
            raise StoreInUse(f"{directory} is in use by another process") from error
        except OSError as error:
            raise StoreUnusable(f"{directory / REDO_NAME}: {error}") from error
        except EntriesUnknown as error:
            raise another_format(directory / REDO_NAME, "another format", str(error)) from error
        self.full_check = FullCheckMarker(self.path)
        self._file: StoreFile | None = None
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
        except sqlite3.OperationalError as error:
            self._redo.close()
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
            self._flush_commits(True)
            self._check_owner(cluster_id, replica)
            is_thorough = self.full_check.is_noted
            self._check_structure(is_thorough)
            self._position, self._chain = self._check_chain()
            self._database.execute(OWN_REQUEST_INDEX)
            self.own_requests = OwnRequestTable(self._database, self.full_check)
            side_writes = [
                record for record in self._chained() if isinstance(record, SideWriteRecord)
            ]
            if not self.own_requests.is_whole(side_writes):
                raise self._damaged("a request of this replica's own is not what was saved")
            self.ledger = LedgerTable(self._database, self._lineage, self.full_check)
            with transaction(self._database):
                self._check_ledger(is_thorough)
            self.ballots = BallotTable(self._database, self.full_check)
            self.evidence = EvidenceTable(self._database)
            self._do_again()
            if is_thorough:
                self.full_check.settle()
        except (OSError, SaveFailed) as error:
            raise StoreUnusable(f"{self.path}: {error}") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            # What has rotted may be of another type.
            if is_trouble_of_the_disk(error):
                raise StoreUnusable(f"{self.path}: {error}") from error
            raise self._damaged(f"it cannot be read ({error})") from error

    # --- reading --------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The records from the last checkpoint record on, in order."""
        return [record for record in self._chained() if not isinstance(record, SideWriteRecord)]

    def bodies(self) -> dict[bytes, bytes]:
        """The saved bodies by digest; whoever uses one checks it against its digest.

        What a flipped bit calls text is none. Raises StoreDamaged, StoreUnusable.
        """
        with self.full_check.reading():
            return dict(self._database.execute(_BODIES))

    # --- writing --------------------------------------------------------------------------------

    def save(
        self,
        records: Sequence[Record],
        ballots: Sequence[ExecutedBallot],
        evidence: Sequence[Evidence] = (),
    ) -> None:
        """Put what one turn gave on disk, all of it or nothing. ballots: those executed in it.

        Raises SaveFailed: then nothing may be sent, and the next call must bear the same
        arguments.
        """
        if not self._is_committed:
            self._commit(records, ballots, self.evidence.new(evidence) if evidence else [])
            self._is_committed = True
        self.mark()
        self._is_committed = False

    def mark(self) -> None:
        """Let the redo log reach the last record, where it does not.

        Raises SaveFailed, and StoreDamaged where SQLite cannot go on.
        """
        if self._redo.position == self._position:
            return
        entry = self._unmarked
        if entry is None or entry.ends != self._position:
            # Only commits that are not flushed leave an entry: SQLite has the others on disk.
            if self._is_doubtful:
                with self._own_transaction():
                    self._insert(SideWriteRecord())
            entry = RedoEntry(self._position, self._position, self._chain)
        try:
            self._redo.append(entry)
        except OSError as error:
            raise SaveFailed(f"{self.path.with_name(REDO_NAME)}: {error}") from error

    def _commit(
        self,
        records: Sequence[Record],
        ballots: Sequence[ExecutedBallot],
        evidence: Sequence[Evidence],
    ) -> None:
        """In SQLite, on disk there only if the redo log does not take it."""
        if not records and not ballots and not evidence:
            return
        begins, content = self._position, b""
        if self._redo.position == begins and self._redo.takes(0) and not self._is_doubtful:
            content = _saved_encoder.encode(_Saved(tuple(records), tuple(ballots), tuple(evidence)))
        is_redone = bool(content) and self._redo.takes(len(content))
        self._apply(records, ballots, evidence, is_flushed=not is_redone)
        if is_redone:
            self._unmarked = RedoEntry(begins, self._position, self._chain, content)

    def _apply(
        self,
        records: Sequence[Record],
        ballots: Sequence[ExecutedBallot],
        evidence: Sequence[Evidence],
        *,
        is_flushed: bool,
    ) -> None:
        with self._own_transaction(is_flushed=is_flushed) as database:
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
                self._insert(SideWriteRecord())
            if ballots:
                self.ballots.save(ballots)
            if evidence:
                self.evidence.save(evidence)
        self.evidence.saved(evidence)

    def _insert(self, record: ChainedRecord) -> None:
        position, chain = self._next
        body = encode_record(record)
        if isinstance(record, CheckpointRecord):
            self._begin_generation(record)
            chain = NO_CHAIN
        position += 1
        chain = next_chain(chain, position, body)
        self._database.execute("INSERT INTO records VALUES (?, ?, ?)", (position, body, chain))
        self._next = (position, chain)
        if isinstance(record, CheckpointRecord):
            for side_write in self.own_requests.side_writes():
                self._insert(side_write)

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

    def note_ledger_position(self, index: int, head: bytes) -> None:
        """A state that is proved says that the ledger has this head at this index.

        What is not here is a gap from then on. Raises SaveFailed.
        """
        with self._own_transaction():
            self.ledger.save_position(index, head, (0, self._genesis_head))

    def next_gap(self) -> LedgerGap | None:
        """The gap in the ledger to fill first. Raises StoreDamaged, StoreUnusable."""
        return self.ledger.gap()

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

    def add_own_request(self, request: ReplicaRequest, instead_of: int | None = None) -> None:
        """Save a request of this replica's own, its number in the same commit as its bytes.

        It may be sent once `mark` has succeeded, too.
        instead_of: the number that this request had before and that was used for another.
        Raises SaveFailed.
        """
        with self._own_transaction():
            self._insert(side_write_of(request))
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
            self._redo.close()

    # --- inside ---------------------------------------------------------------------------------

    def _flush_commits(self, is_flushed: bool) -> None:
        """Whether the commits to come, and all before them, are on disk when they return."""
        if is_flushed != self._is_flushing:
            self._is_flushing = None  # until it is done
            self._database.execute(f"PRAGMA synchronous = {'FULL' if is_flushed else 'NORMAL'}")
            self._is_flushing = is_flushed

    @contextlib.contextmanager
    def _own_transaction(self, *, is_flushed: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises SaveFailed, and StoreDamaged where SQLite cannot go on."""
        self._next = (self._position, self._chain)
        was_doubtful, self._is_doubtful = self._is_doubtful, True
        try:
            self._flush_commits(is_flushed)
            with transaction(self._database) as database:
                yield database
        except sqlite3.DatabaseError as error:
            if is_trouble_of_the_disk(error):
                raise SaveFailed(f"{self.path}: {error}") from error
            raise self.full_check.note(f"it cannot be written ({error})") from error
        except StoreUnusable as error:
            raise SaveFailed(str(error)) from error
        # One that changed nothing overwrites nothing.
        is_settled = is_flushed and self._next[0] != self._position
        self._is_doubtful = was_doubtful and not is_settled
        self._position, self._chain = self._next

    def _do_again(self) -> None:
        """What the redo log has and SQLite lost. Raises StoreDamaged, SaveFailed."""
        lost = [entry for entry in self._redo.entries if entry.ends > self._position]
        for entry in lost:
            if entry.begins != self._position or not entry.content:
                break
            saved = _saved_decoder.decode(entry.content)
            self._apply(saved.records, saved.ballots, saved.evidence, is_flushed=False)
            if (self._position, self._chain) != (entry.ends, entry.chain):
                raise self._damaged(f"record {self._position} is not what the redo log says")
        if self._redo.is_broken:
            raise self._damaged(f"an entry of {REDO_NAME} is not what was saved")
        if self._position < self._redo.position:
            marked = self._redo.position
            raise self._damaged(f"its records end at {self._position}, but {marked} were saved")
        if lost:
            _log.warning("%s: the last %d saves are done again", self.path, len(lost))

    def _check_owner(self, cluster_id: bytes, replica: str) -> None:
        owner = {"cluster": cluster_id, "replica": replica.encode()}
        if is_empty(self._database):
            if self._redo.end is not None:
                raise self._damaged(f"it is empty, but {REDO_NAME} beside it is not")
            make_tables(self._database, owner)
        check_owner(self._database, self.path, owner)

    def _chained(self) -> list[ChainedRecord]:
        rows = self._database.execute("SELECT body FROM records ORDER BY position")
        return [decode_record(body) for (body,) in rows]

    def _check_structure(self, is_thorough: bool) -> None:
        """Else a broken page would show only when it is used, with the replica at work.

        Of what grows with the history, `scrub` looks at the rest while the replica works.
        """
        self._file = StoreFile(self.path)
        problem = check_schema(self._database, SCHEMA, OWN_REQUEST_INDEX)
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

        What is above the mark was told to nobody. But if it begins with a checkpoint record, all
        that was said before is in it alone: then it cannot be done without.
        """
        rows = self._database.execute("SELECT position, body, chain FROM records ORDER BY position")
        end = self._redo.end
        try:
            return follow(rows.fetchall(), {e.ends: e.chain for e in self._redo.entries})
        except WrongChain as error:
            raise self._damaged(str(error)) from error
        except BrokenChain as error:
            if end is None or error.position <= end.ends or error.first > end.ends:
                raise self._damaged(str(error)) from error
            _log.warning("%s: records after %d are torn, and are dropped", self.path, end.ends)
            self._database.execute("DELETE FROM records WHERE position > ?", (end.ends,))
            return end.ends, end.chain

    def _begin_generation(self, record: CheckpointRecord) -> None:
        """Forget what is older than this checkpoint, after comparing the ledger with it."""
        self.ledger.save_position(*ledger_position(record.parts), self._proved_position())
        self._database.execute("DELETE FROM records")
        self._database.execute("DELETE FROM bodies WHERE sequence <= ?", (record.kept_above,))
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
        record = decode_record(row[0]) if row else None
        if isinstance(record, CheckpointRecord):
            return ledger_position(record.parts)
        return 0, self._genesis_head

    def _damaged(self, what: str) -> StoreDamaged:
        return damaged(self.path, what)
