"""The ledger in the store: entries, each build's verdicts and late ballots, and gaps to fill.

A replica that took over a state knows the ledger's certified index and head, but not the entries
before them: that is a gap. It is filled from its end, with entries that are proved
(`ci.ledger_gap`).

The rule: the table returns an entry only if it follows from the head before it, so a damaged entry
is never served. An entry that does not follow is `suspected`. `ledger_walk` then finds what is
damaged, and `forget` makes a gap of that, so that it is fetched again.
"""

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ci.ledger import LateBallotEntry, VerdictEntry, decode_entry, genesis_head, next_head
from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries, shrink
from node.storage.damage import FullCheckMarker
from pbft.ports import Entry

LEDGER_SCHEMA = """
CREATE TABLE ledger (position INTEGER PRIMARY KEY, body BLOB NOT NULL, head BLOB NOT NULL);
CREATE TABLE verdicts (
  build BLOB NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (build, position)
) WITHOUT ROWID;
CREATE TABLE late_ballots (
  build BLOB NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (build, position)
) WITHOUT ROWID;
CREATE TABLE gaps (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
  head_before BLOB NOT NULL, head_after BLOB NOT NULL
);
"""

# What has rotted may be of any type.
_ENTRY = "position, coalesce(CAST(body AS BLOB), x''), coalesce(CAST(head AS BLOB), x'')"
# How many places are remembered until they are looked into.
SUSPECTED_MAX = 1000
# The tables that find an entry by its build.
_BY_BUILD = ("verdicts", "late_ballots")
POSITION_MAX = 2**62

_OfBuild = TypeVar("_OfBuild", VerdictEntry, LateBallotEntry)

_log = logging.getLogger(__name__)


class LedgerTable:
    """The ledger of one replica. `save_*` are called inside the store's transaction."""

    def __init__(
        self, database: sqlite3.Connection, lineage: bytes, full_check: FullCheckMarker
    ) -> None:
        """lineage: of the cluster. full_check: is told where SQLite finds its file broken.

        All reads raise as `FullCheckMarker.reading`.
        """
        self._database = database
        self._full_check = full_check
        self.genesis = genesis_head(lineage)
        # Entries that were asked for and not given out, since they do not follow.
        self.suspected: set[int] = set()

    # --- reading --------------------------------------------------------------------------------

    def end(self) -> tuple[int, bytes]:
        """Index and head of the last entry, be it here or in a gap; 0 for the empty ledger."""
        row: tuple[int, bytes] | None = self._row(
            "SELECT position, head FROM ledger ORDER BY position DESC LIMIT 1"
        )
        gap: tuple[int, bytes] | None = self._row(
            "SELECT last, head_after FROM gaps ORDER BY first DESC LIMIT 1"
        )
        if gap is not None and (row is None or row[0] <= gap[0]):
            return gap
        return row or (0, self.genesis)

    def entries(self, first: int, count: int, bytes_max: int | None = None) -> list[Entry]:
        """At most `count` entries from index `first` on without a hole; none inside a gap.

        bytes_max: after the first, no more than these together.
        """
        end = first + count - 1
        gap = self._row("SELECT first FROM gaps WHERE last >= ? ORDER BY first LIMIT 1", (first,))
        if gap is not None:
            end = min(end, gap[0] - 1)
        found = self._take(first, end, "ASC", bytes_max=bytes_max)
        return found[: self._following(first - 1, found)]

    def page_from(self, first: int, count: int, bytes_max: int) -> LedgerPage:
        """As `entries`, with the head before them."""
        entries = self.entries(first, count, bytes_max)
        before = self.head_at(first - 1) if entries else None
        return LedgerPage(before or b"", tuple(entries))

    def page_up_to(self, last: int, count: int, bytes_max: int) -> LedgerPage:
        """At most `count` entries that end with index `last`, without a hole; none inside a gap.

        bytes_max: before the last, no more than these together with it.
        """
        gap = self._row(
            "SELECT last FROM gaps WHERE first <= ? ORDER BY first DESC LIMIT 1", (last,)
        )
        first = max(last - count + 1, gap[0] + 1 if gap is not None else 1)
        entries = self._take(first, last, "DESC", bytes_max=bytes_max)
        entries.reverse()
        # What comes after damage is good again: its own chain leads to the last one's head.
        while entries:
            following = self._following(entries[0].index - 1, entries)
            if following == len(entries):
                break
            del entries[: following + 1]
        if not entries or entries[-1].index != last:
            return LedgerPage(b"", ())
        before = self.head_at(entries[0].index - 1)
        return LedgerPage(before or b"", tuple(entries))

    def newest(self, count: int) -> list[Entry]:
        """The last entries behind all gaps, at most `count`, in order."""
        gap = self._row("SELECT max(last) FROM gaps")
        last_gap = gap[0] or 0 if gap is not None else 0
        first = max(last_gap + 1, self.end()[0] - count + 1)
        return self.entries(first, count)

    def find_statement(self, build: bytes) -> bytes | None:
        """The newest verdict statement of that build."""
        found = self.find_verdict(build)
        return None if found is None else bytes(found[1].statement)

    def find_verdict(
        self, build: bytes, last: int = POSITION_MAX
    ) -> tuple[int, VerdictEntry] | None:
        """The newest verdict of that build among the entries up to index `last`, and its index."""
        row = self._row(
            f"SELECT {_ENTRY} FROM verdicts JOIN ledger USING (position)"  # noqa: S608 - constants
            " WHERE build = ? AND position <= ? ORDER BY position DESC LIMIT 1",
            (build, last),
        )
        entry = None if row is None else self._about(build, VerdictEntry, Entry(*row))
        return None if entry is None else (row[0], entry)

    def late_ballots(
        self, build: bytes, after: int, count: int
    ) -> list[tuple[int, LateBallotEntry]] | None:
        """The first `count` late ballots on that build after index `after`, with their indexes.

        None where entries after that index are missing, or are not what was saved: they may be
        late ballots as well.
        """
        if self._row("SELECT first FROM gaps WHERE last > ?", (after,)) is not None:
            return None
        with self._full_check.reading():
            rows = self._database.execute(
                f"SELECT {_ENTRY} FROM late_ballots JOIN ledger"  # noqa: S608 - constants
                " USING (position) WHERE build = ? AND position > ? ORDER BY position LIMIT ?",
                (build, after, count),
            ).fetchall()
        found = []
        for row in rows:
            entry = self._about(build, LateBallotEntry, Entry(*row))
            if entry is None:
                return None
            found.append((row[0], entry))
        return found

    def gap(self) -> LedgerGap | None:
        """The first gap, where there is one."""
        row = self._row(
            "SELECT first, last, head_before, head_after FROM gaps ORDER BY first LIMIT 1"
        )
        return None if row is None else LedgerGap(*row)

    def missing(self) -> int:
        """How many entries are still to be fetched, over all gaps."""
        row = self._row("SELECT coalesce(sum(last - first + 1), 0) FROM gaps")
        return int(row[0]) if row is not None else 0

    def not_given_out(self) -> int:
        """How many entries are not given out for now: those missing and those suspected."""
        return self.missing() + len(self.suspected)

    # --- writing, inside a transaction ----------------------------------------------------------

    def save_entry(self, entry: Entry) -> None:
        """Append what execution gave.

        An entry that is here already is the same, or it and those after it came from a state
        that was found to be wrong and was replaced: then they go. Raises ValueError where entries
        are missing before it: only what has rotted leads to that.
        """
        end, _ = self.end()
        if entry.index <= end:
            if self.head_at(entry.index) == entry.head:
                return
            _log.warning("ledger entry %d was wrong, and is replaced", entry.index)
            self.cut(entry.index)
        if self.end()[0] + 1 != entry.index:
            raise ValueError(f"ledger entry {entry.index} does not follow the last one")
        self._insert(entry)

    def save_position(self, index: int, head: bytes, proved: tuple[int, bytes]) -> None:
        """The certified state says that the ledger has this head at this index.

        proved: what the certified state before it said. Where we have no entry at the index,
        there is a gap from here on; where we have another one, all since `proved` may be wrong.
        Where a gap was made of it, that is two gaps now: what comes after is there, or executed.
        """
        end, end_head = self.end()
        if index <= end:
            if self.head_at(index) == head or self._divide(index, head):
                return
            _log.warning("ledger entries after %d are wrong, and are fetched anew", proved[0])
            self.cut(proved[0] + 1)
            end, end_head = proved
        _log.warning("ledger entries %d to %d are missing, and are fetched", end + 1, index)
        self._database.execute(
            "INSERT INTO gaps VALUES (?, ?, ?, ?)", (end + 1, index, end_head, head)
        )

    def cut(self, first: int) -> None:
        """Drop all entries from index `first` on, which lies in no gap."""
        for table in ("ledger", *_BY_BUILD):
            self._database.execute(
                f"DELETE FROM {table} WHERE position >= ?",  # noqa: S608 - constants
                (first,),
            )
        self._database.execute("DELETE FROM gaps WHERE first >= ?", (first,))

    def fill(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """Put a page into the gap, at its end; whether that closed it.

        Nothing is kept where the gap is another one by now: `forget` may have made it larger, and
        what came to it would be missing without a gap that says so.
        Raises WrongEntries where it does not belong there; then nothing may be kept of this.
        """
        if gap not in self.gaps():
            return False
        rest = shrink(gap, page)
        for entry in page.entries:
            try:
                self._insert(entry)
            except ValueError as error:
                raise WrongEntries(f"entry {entry.index} is malformed: {error}") from error
        if rest is None:
            self._database.execute("DELETE FROM gaps WHERE first = ?", (gap.first,))
        else:
            self._database.execute(
                "UPDATE gaps SET last = ?, head_after = ? WHERE first = ?",
                (rest.last, rest.head_after, gap.first),
            )
        return rest is None

    def forget(self, damaged: LedgerGap) -> bool:
        """Make a gap of entries that are not what was saved; False: they changed meanwhile.

        Damage beside a gap makes that gap larger: what stands at its edge may be what has rotted.
        """
        if self.head_at(damaged.first - 1) != damaged.head_before:
            return False
        first, last, before, after = msgspec.structs.astuple(damaged)
        for gap in self.gaps():
            if gap.last == damaged.first - 1:
                first, before = gap.first, gap.head_before
            if gap.first == damaged.last + 1:
                last, after = gap.last, gap.head_after
        if last == damaged.last and self.head_at(last) != after:
            return False
        self._delete(first, last)
        self._database.execute("DELETE FROM gaps WHERE first BETWEEN ? AND ?", (first, last))
        self._database.execute("INSERT INTO gaps VALUES (?, ?, ?, ?)", (first, last, before, after))
        _log.error("ledger entries %d to %d are damaged, and are fetched anew", first, last)
        return True

    def empty_gaps(self) -> None:
        """Drop what lies in gaps: it is not proved, be it of a page that was left half there."""
        for gap in self.gaps():
            self._delete(gap.first, gap.last)

    def mend(self, gap: LedgerGap) -> None:
        """The chain led up to this gap: that is the head before it, whatever the gap said."""
        _log.error("the gap from ledger entry %d on had a wrong head, and is mended", gap.first)
        self._database.execute(
            "UPDATE gaps SET head_before = ? WHERE first = ? AND last = ?",
            (gap.head_before, gap.first, gap.last),
        )

    # --- for the walk over it -------------------------------------------------------------------

    def rows(self, first: int, last: int, bytes_max: int) -> list[tuple[int, bytes, bytes]]:
        """Index, body and head of the entries in that range as they stand on the disk, in order.

        bytes_max: of the bodies; the one that goes beyond it is the last.
        """
        entries = self._take(first, last, "ASC", bytes_max=bytes_max, is_exceeded=True)
        return [(entry.index, entry.body, entry.head) for entry in entries]

    def gaps(self) -> list[LedgerGap]:
        """All gaps, in order."""
        with self._full_check.reading():
            rows = self._database.execute(
                "SELECT first, last, head_before, head_after FROM gaps ORDER BY first"
            ).fetchall()
        return [LedgerGap(*row) for row in rows]

    def head_at(self, index: int) -> bytes | None:
        """The proved head after that entry; None where it is not known."""
        if index == 0:
            return self.genesis
        row = self._row(
            "SELECT CAST(head_after AS BLOB) FROM gaps WHERE last = ? UNION ALL"
            " SELECT CAST(head AS BLOB) FROM ledger WHERE position = ?",
            (index, index),
        )
        return row[0] if row else None

    # --- inside ---------------------------------------------------------------------------------

    def _row(self, query: str, values: Sequence[object] = ()) -> Any:
        with self._full_check.reading():
            return self._database.execute(query, values).fetchone()

    def _take(
        self,
        first: int,
        last: int,
        order: str,
        *,
        bytes_max: int | None,
        is_exceeded: bool = False,
    ) -> list[Entry]:
        """Entries in that range: at least one, and after it no more than these bytes together.

        is_exceeded: with the one that goes beyond. Each is read only when it is wanted.
        """
        entries: list[Entry] = []
        size = 0
        with self._full_check.reading():
            for row in self._database.execute(
                f"SELECT {_ENTRY} FROM ledger WHERE position BETWEEN ? AND ?"  # noqa: S608
                f" ORDER BY position {order}",
                (first, last),
            ):
                entry = Entry(*row)
                size += len(entry.body)
                is_beyond = bytes_max is not None and size > bytes_max
                if is_beyond and entries and not is_exceeded:
                    break
                entries.append(entry)
                if is_beyond:
                    break
        return entries

    def _about(self, build: bytes, kind: type[_OfBuild], entry: Entry) -> _OfBuild | None:
        """The entry decoded, if it is one of that kind about that build, and as it was saved."""
        if not self._following(entry.index - 1, [entry]):
            return None
        decoded = decode_entry(entry.body)
        if not isinstance(decoded, kind) or bytes.fromhex(decoded.build) != build:
            # The row that led here is not what was saved: better no answer than another build's.
            return None
        return decoded

    def _following(self, index: int, entries: Sequence[Entry]) -> int:
        """How many of these, from the first on, follow from the entry `index` and each other."""
        head = self.head_at(index)
        for count, entry in enumerate(entries):
            if head is None or entry.index != index + 1:
                follows = False
            else:
                follows = next_head(head, entry.index, entry.body) == entry.head
            if not follows:
                if len(self.suspected) < SUSPECTED_MAX:
                    self.suspected.add(entry.index)
                _log.error("ledger entry %d is not what was saved: it is not used", entry.index)
                return count
            index, head = entry.index, entry.head
        return len(entries)

    def _divide(self, index: int, head: bytes) -> bool:
        """Make two gaps of the one that has this entry, not as its last; False: none has."""
        gap = next((gap for gap in self.gaps() if gap.first <= index < gap.last), None)
        if gap is None:
            return False
        self._database.execute(
            "UPDATE gaps SET last = ?, head_after = ? WHERE first = ?", (index, head, gap.first)
        )
        self._database.execute(
            "INSERT INTO gaps VALUES (?, ?, ?, ?)", (index + 1, gap.last, head, gap.head_after)
        )
        return True

    def _delete(self, first: int, last: int) -> None:
        for table in ("ledger", *_BY_BUILD):
            self._database.execute(
                f"DELETE FROM {table} WHERE position BETWEEN ? AND ?",  # noqa: S608 - constants
                (first, last),
            )

    def _insert(self, entry: Entry) -> None:
        """Raises ValueError for a body that is no entry."""
        decoded = decode_entry(entry.body)
        self._database.execute(
            "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", (entry.index, entry.body, entry.head)
        )
        if isinstance(decoded, VerdictEntry | LateBallotEntry):
            table = "verdicts" if isinstance(decoded, VerdictEntry) else "late_ballots"
            self._database.execute(
                f"INSERT OR IGNORE INTO {table} VALUES (?, ?)",  # noqa: S608 - constants
                (bytes.fromhex(decoded.build), entry.index),
            )
