"""The ledger in the store: entries, verdicts by build, and gaps that are still to be filled.

A replica that took over a state knows the ledger's certified index and head, not the entries that
led there: that is a gap. It is filled from its end, by entries that are proved (`ci.ledger_gap`).
So whatever is read here is proved.
"""

import logging
import sqlite3
from collections.abc import Iterable

from ci.ledger import VerdictEntry, decode_entry, genesis_head, next_head
from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries, shrink
from pbft.ports import Entry

LEDGER_SCHEMA = """
CREATE TABLE ledger (position INTEGER PRIMARY KEY, body BLOB NOT NULL, head BLOB NOT NULL);
CREATE TABLE verdicts (
  build BLOB NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (build, position)
) WITHOUT ROWID;
CREATE TABLE gaps (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
  head_before BLOB NOT NULL, head_after BLOB NOT NULL
);
"""

_log = logging.getLogger(__name__)


class LedgerTable:
    """The ledger of one replica. `save_*` are called inside the store's transaction."""

    def __init__(self, database: sqlite3.Connection, cluster_id: bytes) -> None:
        self._database = database
        self._genesis = genesis_head(cluster_id)

    # --- reading --------------------------------------------------------------------------------

    def end(self) -> tuple[int, bytes]:
        """Index and head of the last entry, be it here or in a gap; 0 for the empty ledger."""
        row: tuple[int, bytes] | None = self._database.execute(
            "SELECT position, head FROM ledger ORDER BY position DESC LIMIT 1"
        ).fetchone()
        gap: tuple[int, bytes] | None = self._database.execute(
            "SELECT last, head_after FROM gaps ORDER BY first DESC LIMIT 1"
        ).fetchone()
        if gap is not None and (row is None or row[0] <= gap[0]):
            return gap
        return row or (0, self._genesis)

    def entries(self, first: int, count: int, bytes_max: int | None = None) -> list[Entry]:
        """At most `count` entries from index `first` on without a hole; none inside a gap.

        bytes_max: after the first, no more than these together.
        """
        end = first + count - 1
        gap = self._database.execute(
            "SELECT first FROM gaps WHERE last >= ? ORDER BY first LIMIT 1", (first,)
        ).fetchone()
        if gap is not None:
            end = min(end, gap[0] - 1)
        rows = self._database.execute(
            "SELECT position, body, head FROM ledger WHERE position BETWEEN ? AND ?"
            " ORDER BY position",
            (first, end),
        )
        return _take(rows, bytes_max)

    def page_from(self, first: int, count: int, bytes_max: int) -> LedgerPage:
        """As `entries`, with the head before them."""
        entries = self.entries(first, count, bytes_max)
        before = self._head_at(first - 1) if entries else None
        return LedgerPage(before or b"", tuple(entries))

    def page_up_to(self, last: int, count: int, bytes_max: int) -> LedgerPage:
        """At most `count` entries that end with index `last`, without a hole; none inside a gap.

        bytes_max: before the last, no more than these together with it.
        """
        gap = self._database.execute(
            "SELECT last FROM gaps WHERE first <= ? ORDER BY first DESC LIMIT 1", (last,)
        ).fetchone()
        first = max(last - count + 1, gap[0] + 1 if gap is not None else 1)
        rows = self._database.execute(
            "SELECT position, body, head FROM ledger WHERE position BETWEEN ? AND ?"
            " ORDER BY position DESC",
            (first, last),
        )
        entries = _take(rows, bytes_max)
        if not entries or entries[0].index != last:
            return LedgerPage(b"", ())
        entries.reverse()
        before = self._head_at(entries[0].index - 1)
        return LedgerPage(before or b"", tuple(entries))

    def newest(self, count: int) -> list[Entry]:
        """The last entries behind all gaps, at most `count`, in order."""
        last_gap = self._database.execute("SELECT max(last) FROM gaps").fetchone()[0] or 0
        first = max(last_gap + 1, self.end()[0] - count + 1)
        return self.entries(first, count)

    def find_statement(self, build: bytes) -> bytes | None:
        """The newest verdict statement of that build."""
        row = self._database.execute(
            "SELECT ledger.body FROM verdicts JOIN ledger USING (position) WHERE build = ?"
            " ORDER BY position DESC LIMIT 1",
            (build,),
        ).fetchone()
        if row is None:
            return None
        entry = decode_entry(row[0])
        if not isinstance(entry, VerdictEntry) or bytes.fromhex(entry.build) != build:
            # The row that led here is not what was saved: better no answer than another build's.
            return None
        return bytes(entry.statement)

    def gap(self) -> LedgerGap | None:
        """The first gap, where there is one."""
        row = self._database.execute(
            "SELECT first, last, head_before, head_after FROM gaps ORDER BY first LIMIT 1"
        ).fetchone()
        return None if row is None else LedgerGap(*row)

    def missing(self) -> int:
        """How many entries are still to be fetched, over all gaps."""
        total: int = self._database.execute(
            "SELECT coalesce(sum(last - first + 1), 0) FROM gaps"
        ).fetchone()[0]
        return total

    # --- writing, inside a transaction ----------------------------------------------------------

    def save_entry(self, entry: Entry) -> None:
        """Append what execution gave.

        An entry that is here already is the same, or it and those after it came from a state
        that was found to be wrong and was replaced: then they go.
        """
        end, _ = self.end()
        if entry.index <= end:
            if self._head_at(entry.index) == entry.head:
                return
            _log.warning("ledger entry %d was wrong, and is replaced", entry.index)
            self.cut(entry.index)
        assert self.end()[0] + 1 == entry.index, "entries are saved in order"
        self._insert(entry)

    def save_position(self, index: int, head: bytes, proved: tuple[int, bytes]) -> None:
        """The certified state says that the ledger has this head at this index.

        proved: what the certified state before it said. Where we have no entry at the index,
        there is a gap from here on; where we have another one, all since `proved` may be wrong.
        """
        end, end_head = self.end()
        if index <= end:
            if self._head_at(index) == head:
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
        for statement in (
            "DELETE FROM ledger WHERE position >= ?",
            "DELETE FROM verdicts WHERE position >= ?",
            "DELETE FROM gaps WHERE first >= ?",
        ):
            self._database.execute(statement, (first,))

    def fill(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """Put a page into the gap, at its end; whether that closed it.

        Raises WrongEntries where it does not belong there; then nothing may be kept of this.
        """
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

    def forget_damaged(self) -> None:
        """Make gaps of entries that are not what was saved: they are fetched anew.

        A head from which the next entry follows is right; of the last one it shows when execution
        has come there. Raises WrongEntries where it cannot be told what is right.
        """
        index, head = 0, self._genesis
        for first, last, head_before, head_after in self._gaps():
            self._repair(index, head, first - 1)
            if self._head_at(first - 1) != head_before:
                raise WrongEntries(f"the gap from {first} on does not follow from what is before")
            # What lies in a gap is not proved: there is nothing, or an older version's pages.
            self._delete(first, last)
            index, head = last, head_after
        self._repair(index, head, None)

    def _gaps(self) -> list[tuple[int, int, bytes, bytes]]:
        rows = self._database.execute(
            "SELECT first, last, head_before, head_after FROM gaps ORDER BY first"
        )
        return rows.fetchall()

    def _repair(self, index: int, head: bytes, last: int | None) -> None:
        """Make gaps of what is broken between the proved entry `index` and `last`."""
        end = self.end()[0] if last is None else last
        for first, last_broken, head_before, head_after in self._broken(index, head, end):
            if index > 0 and first == index + 1:
                raise WrongEntries(f"entry {first} does not follow from the gap before it")
            _log.error("ledger entries %d to %d are fetched anew", first, last_broken)
            self._delete(first, last_broken)
            self._database.execute(
                "INSERT INTO gaps VALUES (?, ?, ?, ?)",
                (first, last_broken, head_before, head_after),
            )

    def _broken(self, index: int, head: bytes, last: int) -> list[tuple[int, int, bytes, bytes]]:
        """First, last, head before and head after of what does not follow from `index`."""
        found: list[tuple[int, int, bytes, bytes]] = []
        since: tuple[int, bytes] | None = None
        rows = self._database.execute(
            "SELECT position, body, head FROM ledger WHERE position BETWEEN ? AND ?"
            " ORDER BY position",
            (index + 1, last),
        )
        for position, body, row_head in rows:
            if position != index + 1 or next_head(head, position, body) != row_head:
                since = since or (index + 1, head)
            elif since is not None:
                found.append((since[0], index, since[1], head))
                since = None
            index, head = position, row_head
        if since is not None:
            found.append((since[0], index, since[1], head))
        return found

    # --- inside ---------------------------------------------------------------------------------

    def _head_at(self, index: int) -> bytes | None:
        """The proved head after that entry; None where it is not known."""
        if index == 0:
            return self._genesis
        row = self._database.execute(
            "SELECT head_after FROM gaps WHERE last = ? UNION ALL"
            " SELECT head FROM ledger WHERE position = ?",
            (index, index),
        ).fetchone()
        return row[0] if row else None

    def _delete(self, first: int, last: int) -> None:
        for table in ("ledger", "verdicts"):
            self._database.execute(
                f"DELETE FROM {table} WHERE position BETWEEN ? AND ?",  # noqa: S608 - constants
                (first, last),
            )

    def _insert(self, entry: Entry) -> None:
        """Raises ValueError for a body that is no entry."""
        decoded = decode_entry(entry.body)
        self._database.execute(
            "INSERT INTO ledger VALUES (?, ?, ?)", (entry.index, entry.body, entry.head)
        )
        if isinstance(decoded, VerdictEntry):
            self._database.execute(
                "INSERT INTO verdicts VALUES (?, ?)", (bytes.fromhex(decoded.build), entry.index)
            )


def _take(rows: Iterable[tuple[int, bytes, bytes]], bytes_max: int | None) -> list[Entry]:
    """The first of them: at least one, and after it no more than these bytes together."""
    entries: list[Entry] = []
    size = 0
    for row in rows:
        entry = Entry(*row)
        size += len(entry.body)
        if entries and bytes_max is not None and size > bytes_max:
            break
        entries.append(entry)
    return entries
