"""The ledger of one simulated replica, with the semantics of `node/storage/ledger_table.py`.

A replica that took over a state knows the ledger's certified index and head, not the entries that
led there: that is a gap. It is filled from its end, by entries that are proved (`ci.ledger_gap`).
"""

from collections.abc import Sequence

from ci.ledger import MalformedEntry, VerdictEntry, decode_entry, genesis_head
from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries, shrink
from pbft.ports import Entry

# Few, so that a gap takes several pages, of several peers.
PAGE_ENTRIES = 5


class Ledger:
    """Entries by index, and gaps in order. Entries inside a gap are not among the entries."""

    def __init__(self, lineage: bytes, entries: Sequence[Entry] = ()) -> None:
        """entries: from the first one on."""
        self._genesis = genesis_head(lineage)
        self.entries: dict[int, Entry] = {}
        self.gaps: list[LedgerGap] = []
        # build -> (index of its newest verdict, the statement)
        self._statements: dict[bytes, tuple[int, bytes]] = {}
        for entry in entries:
            self._insert(entry)

    # --- reading --------------------------------------------------------------------------------

    def end(self) -> tuple[int, bytes]:
        """Index and head of the last entry, be it here or in a gap."""
        last = max(self.entries, default=0)
        if self.gaps and self.gaps[-1].last >= last:
            return self.gaps[-1].last, self.gaps[-1].head_after
        return (last, self.entries[last].head) if last else (0, self._genesis)

    def page_up_to(self, last: int, count: int) -> LedgerPage:
        """At most `count` entries that end with that index, without a hole; none of a gap."""
        first = last + 1
        while first - 1 in self.entries and last - first + 1 < count:
            first -= 1
        entries = tuple(self.entries[index] for index in range(first, last + 1))
        before = self._head_at(first - 1) if entries else None
        return LedgerPage(before or b"", entries)

    def find_statement(self, build: bytes) -> bytes | None:
        """The newest verdict statement of that build."""
        return self._statements.get(build, (0, None))[1]

    def missing(self) -> int:
        """How many entries are still to be fetched, over all gaps."""
        return sum(gap.last - gap.first + 1 for gap in self.gaps)

    # --- writing --------------------------------------------------------------------------------

    def save_entry(self, entry: Entry) -> None:
        """Append what execution gave; an entry that is here already is the same, or was wrong."""
        end, _ = self.end()
        if entry.index <= end:
            if self._head_at(entry.index) == entry.head:
                return
            self.cut(entry.index)
        assert self.end()[0] + 1 == entry.index, "entries are saved in order"
        self._insert(entry)

    def save_position(self, index: int, head: bytes, proved: tuple[int, bytes]) -> None:
        """The certified state says that the ledger has this head at this index.

        proved: what the certified state before it said, and where another ledger is cut.
        """
        end, end_head = self.end()
        if index <= end:
            if self._head_at(index) == head:
                return
            self.cut(proved[0] + 1)
            end, end_head = proved
        self.gaps.append(LedgerGap(end + 1, index, end_head, head))

    def cut(self, first: int) -> None:
        """Drop all entries from that index on, which lies in no gap."""
        self.entries = {index: entry for index, entry in self.entries.items() if index < first}
        self.gaps = [gap for gap in self.gaps if gap.first < first]

    def fill(self, gap: LedgerGap, page: LedgerPage) -> bool:
        """Put fetched entries into the gap, at its end; whether that closed it.

        Raises WrongEntries, also if the gap is another one by now: nothing is kept.
        """
        if gap not in self.gaps:
            raise WrongEntries("the gap is another one by now")
        rest = shrink(gap, page)
        place = self.gaps.index(gap)
        self.gaps[place : place + 1] = [] if rest is None else [rest]
        for entry in page.entries:
            self._insert(entry)
        return rest is None

    def _head_at(self, index: int) -> bytes | None:
        """The proved head after that entry; None where it is not known."""
        if index == 0:
            return self._genesis
        for gap in self.gaps:
            if gap.last == index:
                return gap.head_after
        return self.entries[index].head if index in self.entries else None

    def _insert(self, entry: Entry) -> None:
        self.entries[entry.index] = entry
        try:
            decoded = decode_entry(entry.body)
        except MalformedEntry:
            return
        if isinstance(decoded, VerdictEntry):
            build = bytes.fromhex(decoded.build)
            if entry.index > self._statements.get(build, (0, b""))[0]:
                self._statements[build] = (entry.index, bytes(decoded.statement))
