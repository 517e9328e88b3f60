"""Of the ledger only what is proved is given out; fetched entries wait until their chain fits."""

import sqlite3
from collections.abc import Iterator

import msgspec
import pytest

from ci.ledger import VerdictEntry, encode_entry, genesis_head, next_head
from node.ledger_table import LEDGER_SCHEMA, LedgerGap, LedgerTable, WrongEntries
from pbft.ports import Entry
from tests.node.chains import chain_of

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 30)


@pytest.fixture
def table() -> Iterator[LedgerTable]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(LEDGER_SCHEMA)
    yield LedgerTable(database, CLUSTER)
    database.close()


def _with_gap(table: LedgerTable, first: int, last: int, end: int) -> LedgerGap:
    for entry in CHAIN[: first - 1]:
        table.save_entry(entry)
    table.save_position(last, CHAIN[last - 1].head, (0, genesis_head(CLUSTER)))
    for entry in CHAIN[last:end]:
        table.save_entry(entry)
    return _gap(table)


def _gap(table: LedgerTable) -> LedgerGap:
    gap = table.gap()
    assert gap is not None
    return gap


def test_an_empty_ledger_ends_at_its_genesis(table: LedgerTable) -> None:
    assert table.end() == (0, genesis_head(CLUSTER))
    assert table.entries(1, 10) == []
    assert table.newest(10) == []
    assert table.missing() == 0


def test_a_position_that_is_ours_makes_no_gap(table: LedgerTable) -> None:
    for entry in CHAIN[:5]:
        table.save_entry(entry)
    for entry in CHAIN[2:5]:
        table.save_position(entry.index, entry.head, (0, genesis_head(CLUSTER)))
    assert table.gap() is None
    assert table.entries(1, 10) == CHAIN[:5]


@pytest.mark.parametrize(("first", "last", "end"), [(1, 1, 1), (1, 20, 20), (4, 20, 25), (9, 9, 9)])
def test_a_gap_is_not_given_out_and_can_be_filled_page_by_page(
    table: LedgerTable, first: int, last: int, end: int
) -> None:
    gap = _with_gap(table, first, last, end)
    assert table.end() == (end, CHAIN[end - 1].head)
    for index in range(first, last + 1):
        assert table.entries(index, 10) == []
        assert table.missing() == last - index + 1
        assert table.entries(1, 100) == CHAIN[: first - 1]
        assert table.newest(100) == CHAIN[last:end]
        assert table.fill(gap, [CHAIN[index - 1]]) == (index == last)
        gap = table.gap() or gap
    assert table.gap() is None
    assert table.entries(1, 100) == CHAIN[:end]


@pytest.mark.parametrize(
    "wrong",
    [
        [CHAIN[4]],  # not the next
        [CHAIN[3], CHAIN[5]],
        [Entry(4, CHAIN[3].body, bytes(32))],
        [Entry(4, CHAIN[4].body, CHAIN[3].head)],
        chain_of(CLUSTER, 20, wrong_from=4)[3:],  # a chain that fits, but to another head
        CHAIN[3:21],  # beyond the gap
    ],
)
def test_entries_that_do_not_lead_to_the_certified_head_are_wrong(
    table: LedgerTable, wrong: list[Entry]
) -> None:
    gap = _with_gap(table, 4, 20, 25)
    with pytest.raises(WrongEntries):
        table.fill(gap, wrong)
    table.empty(gap)
    assert table.fill(_gap(table), CHAIN[3:20])
    assert table.entries(1, 100) == CHAIN[:25]


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        encode_entry(VerdictEntry("not hexadecimal", 1, (), (), (), msgspec.Raw(b"{}"))),
    ],
)
def test_a_body_that_is_no_entry_is_wrong(table: LedgerTable, body: bytes) -> None:
    gap = _with_gap(table, 4, 20, 25)
    with pytest.raises(WrongEntries, match="malformed"):
        table.fill(gap, [Entry(4, body, next_head(gap.head, 4, body))])


def test_two_gaps_are_filled_one_after_the_other(table: LedgerTable) -> None:
    _with_gap(table, 3, 10, 12)
    table.save_position(20, CHAIN[19].head, (10, CHAIN[9].head))
    assert table.missing() == 16
    assert table.fill(_gap(table), CHAIN[2:10])
    assert (_gap(table).first, _gap(table).last) == (13, 20)
    assert table.entries(1, 100) == CHAIN[:12]
    assert table.fill(_gap(table), CHAIN[12:20])
    assert table.entries(1, 100) == CHAIN[:20]


def test_a_statement_in_a_gap_is_not_believed_before_it_is_proved(table: LedgerTable) -> None:
    body = encode_entry(VerdictEntry("ab" * 32, 1, (), (), (), msgspec.Raw(b'{"verdict":1}')))
    entries = [Entry(1, body, next_head(genesis_head(CLUSTER), 1, body))]
    for index in (2, 3):
        head = next_head(entries[-1].head, index, CHAIN[index - 1].body)
        entries.append(Entry(index, CHAIN[index - 1].body, head))
    table.save_position(3, entries[2].head, (0, genesis_head(CLUSTER)))
    assert not table.fill(_gap(table), entries[:2])
    assert table.find_statement(bytes.fromhex("ab" * 32)) is None
    assert table.fill(_gap(table), entries[2:])
    assert table.find_statement(bytes.fromhex("ab" * 32)) == b'{"verdict":1}'


def test_a_page_is_bounded_in_bytes_but_never_empty(table: LedgerTable) -> None:
    for entry in CHAIN:
        table.save_entry(entry)
    size = len(CHAIN[0].body)
    assert table.entries(1, 100, bytes_max=1) == CHAIN[:1]
    assert table.entries(1, 100, bytes_max=3 * size) == CHAIN[:3]
    assert table.entries(1, 0) == []
