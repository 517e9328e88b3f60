"""A replica's ledger after a state transfer: fetched entries count once they are proved."""

import pytest

from ci.ledger import AppendEntry, encode_entry, genesis_head, next_head
from pbft.ports import Entry
from simulator.ledger import PAGE_ENTRIES, Ledger, WrongEntries

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


def test_a_gap_is_filled_page_by_page_and_shown_once_it_is_proved() -> None:
    entries = chain(12)
    ledger = with_gap(2, 12)
    assert ledger.end() == (12, entries[-1].head)
    assert ledger.page(1, 9) == tuple(entries[:2])
    closed: tuple[Entry, ...] = ()
    while ledger.gaps:
        assert ledger.page(3, 9) == ()
        gap = ledger.gaps[0]
        closed = ledger.fill(entries[gap.next_index - 1 :][: gap.page_entries])
    assert closed == tuple(entries[2:])
    assert ledger.page(3, PAGE_ENTRIES) == tuple(entries[2 : 2 + PAGE_ENTRIES])


def test_entries_that_do_not_chain_are_dropped_with_all_that_came_before() -> None:
    ledger = with_gap(2, 12)
    assert ledger.fill(chain(12)[2:6]) == ()
    with pytest.raises(WrongEntries, match="the head does not follow"):
        ledger.fill(chain(12, "other ")[6:8])
    assert ledger.gaps[0].next_index == 3


def test_a_chain_that_ends_elsewhere_is_dropped() -> None:
    ledger = with_gap(0, 4)
    with pytest.raises(WrongEntries, match="certified head"):
        ledger.fill(chain(4, "other "))
    assert (ledger.entries, ledger.gaps[0].fetched) == ({}, [])
    with pytest.raises(WrongEntries, match="more entries"):
        ledger.fill(chain(5))


def test_what_a_wrong_state_left_is_replaced() -> None:
    right = chain(6)
    ledger = Ledger(CLUSTER)
    for entry in chain(6, "wrong "):
        ledger.save_entry(entry)
    ledger.save_position(4, right[3].head, (0, genesis_head(CLUSTER)))
    assert (ledger.gaps[0].first, ledger.end()[0]) == (1, 4)
    assert ledger.fill(right[:4]) == tuple(right[:4])
    ledger.save_entry(right[4])
    assert ledger.end() == (5, right[4].head)
