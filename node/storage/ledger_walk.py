"""Follows the ledger's chain through the store in bounded steps, and finds what is damaged.

The rule: an entry is right if its head follows from the head before it, and a head is right if the
next entry follows from it. So a damaged stretch begins with the first entry that does not follow,
and ends before the first that follows again. Damage at the very end is found with the next entry,
or at the next start, when execution has reached it.
"""

import msgspec

from ci.ledger import next_head
from ci.ledger_gap import LedgerGap
from node.storage.ledger_table import LedgerTable


class WalkStep(msgspec.Struct, frozen=True):
    """What one step found. damaged: stretches, as the gaps that they should be.

    mended: gaps whose own first head was wrong, as they should be. is_at_end: nothing more to see.
    """

    damaged: tuple[LedgerGap, ...]
    mended: tuple[LedgerGap, ...]
    is_at_end: bool


class LedgerWalk:
    """One way through the ledger, from a place whose head is known."""

    def __init__(self, table: LedgerTable, index: int, head: bytes) -> None:
        """index, head: of the last entry that needs no look; see `from_genesis`."""
        self._table = table
        self.index = index
        self._head = head
        # The first entry that did not follow, and the head before it.
        self._broken_since: tuple[int, bytes] | None = None
        self._damaged: list[LedgerGap] = []
        self._mended: list[LedgerGap] = []

    @classmethod
    def from_genesis(cls, table: LedgerTable) -> "LedgerWalk":
        """A walk over everything."""
        return cls(table, 0, table.genesis)

    @property
    def is_lost(self) -> bool:
        """The entry where it stands is another one now: what comes after is not known to follow."""
        return (self._table.head_at(self.index) or b"") != self._head

    def step(self, entries_max: int, bytes_max: int) -> WalkStep:
        """Look at some more; nothing is changed. Raises StoreDamaged, StoreUnusable."""
        self._damaged, self._mended = [], []
        gaps = self._table.gaps()
        end = self._table.end()[0]
        last = min(self.index + entries_max, end)
        bytes_left = bytes_max
        while self.index < last and bytes_left > 0:
            gap = next((gap for gap in gaps if gap.last > self.index), None)
            if gap is not None and gap.first <= self.index + 1:
                self._pass(gap)
                continue
            until = last if gap is None else min(last, gap.first - 1)
            for position, body, head in self._table.rows(self.index + 1, until, bytes_left):
                bytes_left -= len(body)
                self._look(position, body, head)
            if bytes_left > 0 and self.index < until:
                self._miss(until)
        return WalkStep(tuple(self._damaged), tuple(self._mended), self.index >= end)

    def finish(self) -> tuple[LedgerGap, ...]:
        """What is damaged up to the very end, if the last head is right."""
        self._damaged = []
        if self._broken_since is not None:
            self._close()
        return tuple(self._damaged)

    def _look(self, position: int, body: bytes, head: bytes) -> None:
        follows = position == self.index + 1 and next_head(self._head, position, body) == head
        if not follows:
            self._broken_since = self._broken_since or (self.index + 1, self._head)
        elif self._broken_since is not None:
            self._close()
        self.index, self._head = position, head

    def _miss(self, until: int) -> None:
        """There is no entry up to there, and no gap that says so."""
        self._broken_since = self._broken_since or (self.index + 1, self._head)
        self.index, self._head = until, b""

    def _close(self) -> None:
        """The entry where it stands is the last one that is damaged."""
        assert self._broken_since is not None
        first, before = self._broken_since
        self._damaged.append(LedgerGap(first, self.index, before, self._head))
        self._broken_since = None

    def _pass(self, gap: LedgerGap) -> None:
        """Go on behind a gap: what is in it is fetched from the peers, who prove it."""
        if self._broken_since is not None:
            self._close()
        elif gap.first == self.index + 1 and gap.head_before != self._head:
            # The chain has led here. Where the walk begins inside, it knows another entry's head.
            self._mended.append(LedgerGap(gap.first, gap.last, self._head, gap.head_after))
        self.index, self._head = gap.last, gap.head_after
