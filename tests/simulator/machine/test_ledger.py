"""A replica's ledger after a state transfer: fetched entries are proved as they come."""

import pytest

from ci.ledger import AppendEntry, encode_entry, genesis_head, next_head
from ci.ledger_gap import LedgerPage, WrongEntries
from pbft.ports import Entry
from simulator.machine.ledger import PAGE_ENTRIES, Ledger

CLUSTER = bytes(range(32))


def chain(count: int, text: str = "") -> list[Entry]:
    """The first entries of a ledger."""
    entries: list[Entry] = []
    head = genesis_head(CLUSTER)
    for index in range(1, count + 1):
        body = encode_entry(AppendEntry("client", f"{text}{index}", index, "00" * 32))
        head = next_head(head, index, body)
        entries.append(Entry(index, body, head))
    return entries


def with_gap(own: int, last: int) -> Ledger:
    """A ledger that has the first entries, and took over a state at a later one."""
    entries = chain(last)
    ledger = Ledger(CLUSTER)
    for entry in entries[:own]:
        ledger.save_entry(entry)
    ledger.save_position(last, entries[-1].head, (0, genesis_head(CLUSTER)))
    return ledger


def page(entries: list[Entry], first: int, last: int) -> LedgerPage:
    """The entries `first` to `last` of a chain, as somebody who has them gives them."""
    before = entries[first - 2].head if first > 1 else genesis_head(CLUSTER)
    return LedgerPage(before, tuple(entries[first - 1 : last]))


def test_a_gap_is_filled_from_its_end_and_what_is_proved_is_given_out() -> None:
    entries = chain(12)
    ledger, whole = with_gap(2, 12), with_gap(12, 12)
    assert ledger.end() == (12, entries[-1].head)
    assert ledger.page_up_to(12, 5).entries == ()
    while ledger.gaps:
        gap = ledger.gaps[0]
        ledger.fill(gap, whole.page_up_to(gap.last, min(PAGE_ENTRIES, gap.missing)))
        first = max(3, gap.last - PAGE_ENTRIES + 1) if ledger.gaps else 1
        assert ledger.page_up_to(12, 20) == page(entries, first, 12)
    assert ledger.page_up_to(9, 4) == page(entries, 6, 9)


def test_a_wrong_page_changes_nothing() -> None:
    ledger = with_gap(2, 12)
    ledger.fill(ledger.gaps[0], page(chain(12), 9, 12))
    with pytest.raises(WrongEntries, match="certified head"):
        ledger.fill(ledger.gaps[0], page(chain(12, "other "), 5, 8))
    assert (ledger.gaps[0].first, ledger.gaps[0].last) == (3, 8)
    ledger.fill(ledger.gaps[0], page(chain(12), 3, 8))
    assert ledger.page_up_to(12, 12) == page(chain(12), 1, 12)


def test_what_a_wrong_state_left_is_replaced() -> None:
    right = chain(6)
    ledger = Ledger(CLUSTER)
    for entry in chain(6, "wrong "):
        ledger.save_entry(entry)
    ledger.save_position(4, right[3].head, (0, genesis_head(CLUSTER)))
    assert (ledger.gaps[0].first, ledger.end()[0]) == (1, 4)
    ledger.fill(ledger.gaps[0], page(right, 1, 4))
    ledger.save_entry(right[4])
    assert ledger.end() == (5, right[4].head)
