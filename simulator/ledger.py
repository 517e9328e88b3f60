"""The ledger of one simulated replica, with the semantics of `node/ledger_table.py`.

A replica that took over a state knows the ledger's certified index and head, not the entries that
led there: that is a gap. What is fetched for it is given out only once its chain arrives exactly
at the certified head.
"""

from collections.abc import Sequence

import msgspec

from ci.ledger import MalformedEntry, VerdictEntry, decode_entry, genesis_head, verify_chain
from pbft.ports import Entry

# Few, so that a gap takes several pages, of several peers.
PAGE_ENTRIES = 5


class Gap(msgspec.Struct):
    """Entries `first` to `last` are missing; `fetched` are those so far that may be the ones."""

    first: int
    last: int
    head_before: bytes
    head_after: bytes
    fetched: list[Entry] = []

    @property
    def next_index(self) -> int:
        """The index from which on entries are to be asked for."""
        return self.first + len(self.fetched)

    @property
    def page_entries(self) -> int:
        """How many are to be asked for at once."""
        return min(PAGE_ENTRIES, self.last - self.next_index + 1)


class WrongEntries(Exception):
    """Entries that do not belong into the gap; the text says why."""


class Ledger:
    """Entries by index, and gaps in order. Entries inside a gap are not among the entries."""

    def __init__(self, cluster_id: bytes) -> None:
        self._genesis = genesis_head(cluster_id)
        self.entries: dict[int, Entry] = {}
        self.gaps: list[Gap] = []
        # build -> (index of its newest verdict, the statement)
        self._statements: dict[bytes, tuple[int, bytes]] = {}

    # --- reading --------------------------------------------------------------------------------

    def end(self) -> tuple[int, bytes]:
        """Index and head of the last entry, be it here or in a gap."""
        last = max(self.entries, default=0)
        if self.gaps and self.gaps[-1].last >= last:
            return self.gaps[-1].last, self.gaps[-1].head_after
        return (last, self.entries[last].head) if last else (0, self._genesis)

    def page(self, first: int, count: int) -> tuple[Entry, ...]:
        """At most `count` entries from that index on, without a hole; none of a gap."""
        page = []
        for index in range(first, first + count):
            if index not in self.entries:
                break
            page.append(self.entries[index])
        return tuple(page)

    def find_statement(self, build: bytes) -> bytes | None:
        """The newest verdict statement of that build."""
        return self._statements.get(build, (0, None))[1]

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
        self.gaps.append(Gap(end + 1, index, end_head, head))

    def cut(self, first: int) -> None:
        """Drop all entries from that index on, which lies in no gap."""
        self.entries = {index: entry for index, entry in self.entries.items() if index < first}
        self.gaps = [gap for gap in self.gaps if gap.first < first]

    def fill(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """Put fetched entries into the first gap; all of the gap's entries once that closed it.

        Raises WrongEntries where they do not follow or end at another head than the certified
        one: then nothing that was fetched for this gap is kept, as it is not known who lied.
        """
        gap = self.gaps[0]
        if gap.next_index + len(entries) - 1 > gap.last:
            raise WrongEntries("more entries than were asked for")
        head = gap.fetched[-1].head if gap.fetched else gap.head_before
        broken = verify_chain(entries, head, gap.next_index - 1)
        if broken is not None:
            gap.fetched = []
            raise WrongEntries(f"entry {broken.index}: {broken.reason}")
        gap.fetched = [*gap.fetched, *entries]
        if gap.next_index <= gap.last:
            return ()
        if gap.fetched[-1].head != gap.head_after:
            gap.fetched = []
            raise WrongEntries("the chain does not end at the certified head")
        del self.gaps[0]
        for entry in gap.fetched:
            self._insert(entry)
        return tuple(gap.fetched)

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
