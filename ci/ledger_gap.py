"""Entries that a ledger lacks, fetched from its end backwards.

The rule: a page counts only where it ends at the head that is proved already. The head after an
entry stands for everything up to it, so what such a page holds is proved at once, and so is the
head before it, where the next page must end. Nobody can make us keep, or drop, anything wrong.
"""

import msgspec

from ci.ledger import verify_chain
from pbft.ports import Entry


class WrongEntries(Exception):
    """Entries that do not belong into the gap; the text says why."""


class LedgerGap(msgspec.Struct, frozen=True):
    """Entries `first` to `last` are missing; the chain's heads before and after them are known."""

    first: int
    last: int
    head_before: bytes
    head_after: bytes

    @property
    def missing(self) -> int:
        """How many entries are still to be fetched."""
        return self.last - self.first + 1


class LedgerPage(msgspec.Struct, frozen=True):
    """Entries that follow each other, and the head (32 bytes) before the first of them."""

    before: bytes
    entries: tuple[Entry, ...]


def shrink(gap: LedgerGap, page: LedgerPage) -> LedgerGap | None:
    """What is still missing once this page is in; None: nothing. The page is proved then.

    Raises WrongEntries where it is not the last entries of the gap.
    """
    entries = page.entries
    if not entries:
        raise WrongEntries("no entries")
    first, last = entries[0].index, entries[-1].index
    if last != gap.last or first < gap.first:
        raise WrongEntries(f"entries {first} to {last} instead of the last up to {gap.last}")
    broken = verify_chain(entries, page.before, first - 1)
    if broken is not None:
        raise WrongEntries(f"entry {broken.index}: {broken.reason}")
    if entries[-1].head != gap.head_after:
        raise WrongEntries("the chain does not end at the certified head")
    if first > gap.first:
        return LedgerGap(gap.first, first - 1, gap.head_before, page.before)
    if page.before != gap.head_before:
        raise WrongEntries("the chain does not begin at our own head")
    return None
