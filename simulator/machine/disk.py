"""A simulated disk with the semantics of the node's store: transactions, a hash chain, a mark.

The mark stands for the end that the node's redo log tells; that the redo log also does again what
SQLite lost is not in here, so this disk loses more than the real one (tests/node has that).
A transaction is written (volatile), then on disk, then marked; a crash in between loses it, tears
it or keeps it. Rows form a hash chain; the high-water mark is kept apart. When the disk is opened,
what is broken above the mark is cut, and what is broken or missing at or below it is damage: the
replica may have forgotten what it said.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from ci.assignments import Key
from ci.ballots import ReplicaRequest
from ci.ledger_gap import LedgerGap, LedgerPage
from ci.state_partitions import ledger_position
from driver.ports import SaveFailed
from pbft.ports import CheckpointRecord, Entry, Executed, Record, SavedBody, SavedEntry
from simulator.machine.ledger import Ledger
from simulator.world.seeded_random import SeededRandom

NO_CHAIN = bytes(32)

Mark = tuple[int, bytes]

ROTTEN_MARK = "the high-water mark cannot be read"

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class DiskDamaged(Exception):
    """What is on disk is not what was saved."""


class Row(msgspec.Struct):
    """One record as bytes, with its place in the chain."""

    position: int
    body: bytes
    chain: bytes


class Disk:
    """What one replica has on disk."""

    def __init__(self, lineage: bytes, entries: Sequence[Entry] = ()) -> None:
        """entries: of the ledger, from the first one on."""
        self.rows: list[Row] = []
        self.saved_bodies: dict[bytes, tuple[int, bytes]] = {}
        self.ledger = Ledger(lineage, entries)
        self._genesis = Ledger(lineage).end()
        self._own_requests: dict[tuple[str, bytes, int], ReplicaRequest] = {}
        self._own_pending: dict[int, ReplicaRequest] = {}
        self._last_own_timestamp = 0
        # Written in turn; the newest that can be read counts.
        self._marks: list[Mark | None] = [None, None]
        self._mark_turn = 0
        # Payloads of messages saved since the last checkpoint record, for the message checker.
        self.saved_payloads: dict[bytes, None] = {}
        self.checkpoint_sequence = 0
        self.refuses = False  # the disk is full, or gives input/output errors
        self._written: list[Record] | None = None
        self._position = 0
        self._chain = NO_CHAIN

    # --- writing --------------------------------------------------------------------------------

    def write(self, records: list[Record]) -> None:
        """Begin a transaction: nothing of it is safe yet. Raises SaveFailed."""
        if self.refuses:
            raise SaveFailed("the disk refuses")
        self._written = records

    def sync(self) -> None:
        """The transaction is on disk."""
        assert self._written is not None
        records, self._written = self._written, None
        self._apply(records)

    def set_mark(self) -> None:
        """The mark after the transaction is on disk. Raises SaveFailed."""
        if self.refuses:
            raise SaveFailed("the disk refuses")
        self._marks[self._mark_turn] = (self._position, self._chain)
        self._mark_turn = 1 - self._mark_turn

    @property
    def mark(self) -> Mark | None:
        """The last record that is known to be on disk: its position, and the chain there."""
        readable = [mark for mark in self._marks if mark is not None]
        return max(readable, default=None)

    @property
    def is_guarded(self) -> bool:
        """Whether whatever is lost now is noticed: the mark is at the last record."""
        is_marked = self.mark is not None and self.mark[0] == self._position
        return is_marked and self._written is None

    def _apply(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, SavedBody):
                # A faulty primary may order one body under several numbers: the last one counts.
                last = max(record.sequence, self.saved_bodies.get(record.digest, (0, b""))[0])
                self.saved_bodies[record.digest] = (last, record.body)
                continue
            if isinstance(record, SavedEntry):
                self.ledger.save_entry(record.entry)
                continue
            body = _encoder.encode(record)
            if isinstance(record, CheckpointRecord):
                self._forget_before(record)
            elif not isinstance(record, Executed):
                signed = getattr(record, "signed", None)
                if signed is not None:
                    self.saved_payloads[signed.payload] = None
            self._position += 1
            self._chain = _next_chain(self._chain, self._position, body)
            self.rows.append(Row(self._position, body, self._chain))

    def _forget_before(self, record: CheckpointRecord) -> None:
        length, head = ledger_position(record.parts)
        self.ledger.save_position(length, head, self._proved_position())
        self.rows = []
        self._chain = NO_CHAIN
        self.saved_payloads = {}
        self.checkpoint_sequence = record.sequence
        kept = record.kept_above
        self.saved_bodies = {d: body for d, body in self.saved_bodies.items() if body[0] > kept}

    def _proved_position(self) -> tuple[int, bytes]:
        """Index and head of the ledger in the last certified state."""
        record = _decoder.decode(self.rows[0].body) if self.rows else None
        return (
            ledger_position(record.parts) if isinstance(record, CheckpointRecord) else self._genesis
        )

    def agree_ledger(self, index: int, head: bytes) -> None:
        """Compare the ledger's end with what execution came to. Raises DiskDamaged.

        Entries beyond that belong to records that were cut: they go.
        """
        if self.ledger.end()[0] > index:
            self.ledger.cut(index + 1)
        if self.ledger.end() != (index, head):
            raise DiskDamaged(f"the ledger does not end with entry {index}")

    def note_ledger_position(self, index: int, head: bytes) -> None:
        """A state that is proved says that the ledger has this head at this index."""
        self.ledger.save_position(index, head, self._genesis)

    # --- the replica's own requests --------------------------------------------------------------

    def pending_requests(self) -> list[ReplicaRequest]:
        """As driver.ports.RequestDisk."""
        return list(self._own_pending.values())

    def has_request(self, purpose: str, key: Key) -> bool:
        """As driver.ports.RequestDisk."""
        return (purpose, *key) in self._own_requests

    def last_timestamp(self) -> int:
        """As driver.ports.RequestDisk."""
        return self._last_own_timestamp

    def add_request(self, request: ReplicaRequest, instead_of: int | None) -> None:
        """As driver.ports.RequestDisk. Raises SaveFailed."""
        if self.refuses:
            raise SaveFailed("the disk refuses")
        assert request.timestamp > self._last_own_timestamp
        self._last_own_timestamp = request.timestamp
        if instead_of is not None:
            del self._own_pending[instead_of]
        self._own_requests[request.purpose, request.build, request.opened] = request
        self._own_pending[request.timestamp] = request

    def secure_requests(self) -> None:
        """As driver.ports.RequestDisk: here a request needs no mark of its own."""

    def forget_requests(self, timestamps: Sequence[int]) -> None:
        """As driver.ports.RequestDisk."""
        for timestamp in timestamps:
            del self._own_pending[timestamp]

    # --- gaps in the ledger ----------------------------------------------------------------------

    def next_gap(self) -> LedgerGap | None:
        """As driver.ports.LedgerDisk."""
        return self.ledger.gaps[0] if self.ledger.gaps else None

    def fill_gap(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """As driver.ports.LedgerDisk. Raises WrongEntries, SaveFailed."""
        if self.refuses:
            raise SaveFailed("the disk refuses")
        return self.ledger.fill(gap, page)

    # --- faults ---------------------------------------------------------------------------------

    def crash(self, chance: SeededRandom) -> str:
        """The process is killed; says what became of a transaction that was being written."""
        if self._written is None:
            return "idle"
        if chance.random() < 0.5:
            # The commit had reached the disk before the process could know.
            self.sync()
            return "kept"
        # Lost, or torn at some byte: its checksum fails, and all of it is cut.
        self._written = None
        return "torn" if chance.random() < 0.8 else "lost"

    def rot(self, chance: SeededRandom) -> str | None:
        """Flip a bit, misdirect a write or drop acknowledged rows; says what, None where there is
        nothing. All but a rotten mark means that something said may be forgotten.
        """
        if not self.rows or self.mark is None:
            return None
        kind = chance.choice(("row", "row", "dropped", "body", "misdirected", "mark"))
        if kind == "mark":
            # The slot written last can be read no more; the one before it still can.
            self._marks[1 - self._mark_turn] = None
            return ROTTEN_MARK
        if kind == "misdirected" and len(self.rows) > 1:
            written = self.rows.pop()
            hit = chance.choice(self.rows)
            hit.body = written.body
            return f"row {written.position} was written over row {hit.position}"
        if kind == "dropped":
            count = chance.randint(1, len(self.rows))
            del self.rows[-count:]
            return f"{count} acknowledged rows dropped"
        if kind == "body" and self.saved_bodies:
            digest = chance.choice(list(self.saved_bodies))
            sequence, body = self.saved_bodies[digest]
            self.saved_bodies[digest] = (sequence, _flipped(body, chance))
            return "a bit of a body flipped"
        row = chance.choice(self.rows)
        row.body = _flipped(row.body, chance)
        return f"a bit of row {row.position} flipped"

    # --- reading --------------------------------------------------------------------------------

    def bodies(self) -> dict[bytes, bytes]:
        """As driver.ports.RecordDisk."""
        return {digest: body for digest, (_, body) in self.saved_bodies.items()}

    def records(self) -> list[Record]:
        """As driver.ports.RecordDisk: at a start, where damage shows. Raises DiskDamaged."""
        marked = self.mark[0] if self.mark else 0
        newest = self._marks.index(self.mark) if self.mark else 0
        self._mark_turn = 1 - newest
        position, chain = (self.rows[0].position - 1 if self.rows else 0), NO_CHAIN
        records: list[Record] = []
        for row in self.rows:
            if (
                row.position != position + 1
                or _next_chain(chain, row.position, row.body) != row.chain
            ):
                if row.position <= marked:
                    raise DiskDamaged(f"record {row.position} is not what was saved")
                self.rows = [kept for kept in self.rows if kept.position < row.position]
                break
            position, chain = row.position, row.chain
            if position == marked and self.mark is not None and chain != self.mark[1]:
                raise DiskDamaged(f"record {position} is not what the high-water mark says")
            records.append(_decoder.decode(row.body))
        if position < marked:
            raise DiskDamaged(f"records end at {position}, but {marked} were saved")
        self._position, self._chain = position, chain
        if not self.is_guarded and not self.refuses:
            self.set_mark()  # a slot that was read no more is one again
        return records


def _flipped(data: bytes, chance: SeededRandom) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _next_chain(chain: bytes, position: int, body: bytes) -> bytes:
    return hashlib.sha256(chain + position.to_bytes(8, "big") + body).digest()
