"""Of the ledger only what is proved is given out; a gap is filled from its end."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ci.ledger import (
    LateBallotEntry,
    RecordedBallot,
    VerdictEntry,
    encode_entry,
    genesis_head,
    next_head,
)
from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries
from node.storage.damage import FullCheckMarker
from node.storage.ledger_table import LEDGER_SCHEMA, LedgerTable
from node.storage.store import DATABASE_NAME
from pbft.ports import Entry
from tests.node.chains import chain_of, page_of

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 30)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LedgerTable]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(LEDGER_SCHEMA)
    yield LedgerTable(database, CLUSTER, FullCheckMarker(tmp_path / DATABASE_NAME))
    database.close()


def _with_gap(table: LedgerTable, first: int, last: int, end: int) -> LedgerGap:
    for entry in CHAIN[: first - 1]:
        table.save_entry(entry)
    table.save_position(last, CHAIN[last - 1].head, (0, genesis_head(CLUSTER)))
    for entry in CHAIN[last:end]:
        table.save_entry(entry)
    return _gap(table)


def _page(first: int, last: int) -> LedgerPage:
    return page_of(CLUSTER, CHAIN, first, last)


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
def test_a_gap_is_filled_page_by_page_and_what_is_proved_is_given_out(
    table: LedgerTable, first: int, last: int, end: int
) -> None:
    gap = _with_gap(table, first, last, end)
    assert table.end() == (end, CHAIN[end - 1].head)
    for index in range(last, first - 1, -1):
        assert table.entries(index, 10) == []
        assert table.page_up_to(index, 10, 1 << 20).entries == ()
        assert table.missing() == index - first + 1
        assert table.entries(1, 100) == CHAIN[: first - 1]
        assert table.newest(100) == CHAIN[index:end]
        assert table.fill(gap, _page(index, index)) == (index == first)
        gap = table.gap() or gap
    assert table.gap() is None
    assert table.entries(1, 100) == CHAIN[:end]


def test_a_wrong_page_is_refused_and_a_right_one_goes_on(table: LedgerTable) -> None:
    gap = _with_gap(table, 4, 20, 25)
    assert not table.fill(gap, _page(12, 20))
    with pytest.raises(WrongEntries):
        table.fill(_gap(table), page_of(CLUSTER, chain_of(CLUSTER, 20, wrong_from=4), 8, 11))
    assert table.fill(_gap(table), _page(4, 11))
    assert table.entries(1, 100) == CHAIN[:25]


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        encode_entry(VerdictEntry("not hexadecimal", 1, (), (), (), msgspec.Raw(b"{}"))),
    ],
)
def test_a_body_that_is_no_entry_is_wrong(table: LedgerTable, body: bytes) -> None:
    head = next_head(genesis_head(CLUSTER), 1, body)
    table.save_position(1, head, (0, genesis_head(CLUSTER)))
    with pytest.raises(WrongEntries, match="malformed"):
        table.fill(_gap(table), LedgerPage(genesis_head(CLUSTER), (Entry(1, body, head),)))


def test_pages_from_both_ends_say_the_head_before_them(table: LedgerTable) -> None:
    _with_gap(table, 4, 10, 25)
    size = len(CHAIN[20].body)
    assert table.page_from(1, 9, 1 << 20) == _page(1, 3)
    assert table.page_from(11, 4, 1 << 20) == _page(11, 14)
    assert table.page_up_to(25, 4, 1 << 20) == _page(22, 25)
    assert table.page_up_to(25, 100, 1 << 20) == _page(11, 25)
    assert table.page_up_to(25, 100, 3 * size) == _page(23, 25)
    assert table.page_up_to(25, 100, 1) == _page(25, 25)
    assert table.page_up_to(10, 5, 99) == table.page_up_to(26, 5, 99) == LedgerPage(b"", ())
    assert table.page_from(5, 9, 99) == LedgerPage(b"", ())


def test_two_gaps_are_filled_one_after_the_other(table: LedgerTable) -> None:
    _with_gap(table, 3, 10, 12)
    table.save_position(20, CHAIN[19].head, (10, CHAIN[9].head))
    assert table.missing() == 16
    assert table.fill(_gap(table), _page(3, 10))
    assert (_gap(table).first, _gap(table).last) == (13, 20)
    assert table.entries(1, 100) == CHAIN[:12]
    assert table.fill(_gap(table), _page(13, 20))
    assert table.entries(1, 100) == CHAIN[:20]


def test_a_statement_in_a_gap_is_found_once_it_is_here(table: LedgerTable) -> None:
    body = encode_entry(VerdictEntry("ab" * 32, 1, (), (), (), msgspec.Raw(b'{"verdict":1}')))
    entries = [Entry(1, body, next_head(genesis_head(CLUSTER), 1, body))]
    for index in (2, 3):
        head = next_head(entries[-1].head, index, CHAIN[index - 1].body)
        entries.append(Entry(index, CHAIN[index - 1].body, head))
    table.save_position(3, entries[2].head, (0, genesis_head(CLUSTER)))
    assert not table.fill(_gap(table), page_of(CLUSTER, entries, 2, 3))
    assert table.find_statement(bytes.fromhex("ab" * 32)) is None
    assert table.fill(_gap(table), page_of(CLUSTER, entries, 1, 1))
    assert table.find_statement(bytes.fromhex("ab" * 32)) == b'{"verdict":1}'


def test_a_statement_that_has_rotted_counts_as_not_given_out(table: LedgerTable) -> None:
    """Nobody may conclude from its absence that there was no verdict."""
    body = encode_entry(VerdictEntry("ab" * 32, 1, (), (), (), msgspec.Raw(b'{"verdict":1}')))
    table.save_entry(Entry(1, body, next_head(genesis_head(CLUSTER), 1, body)))
    assert table.not_given_out() == 0
    table._database.execute("UPDATE ledger SET body = ?", (body.replace(b'":1}', b'":2}'),))
    assert table.find_statement(bytes.fromhex("ab" * 32)) is None
    assert (table.missing(), table.not_given_out()) == (0, 1)


def test_a_row_that_leads_to_another_builds_statement_gives_none(table: LedgerTable) -> None:
    """The index has no chain of its own: what has rotted in it must not turn red into green."""
    body = encode_entry(VerdictEntry("ab" * 32, 1, (), (), (), msgspec.Raw(b'{"verdict":1}')))
    table.save_entry(Entry(1, body, next_head(genesis_head(CLUSTER), 1, body)))
    other = bytes.fromhex("cd" * 32)
    table._database.execute("UPDATE verdicts SET build = ?", (other,))
    assert table.find_statement(other) is None


def test_late_ballots_are_found_by_their_build_and_none_where_some_may_be_missing(
    table: LedgerTable,
) -> None:
    head = genesis_head(CLUSTER)
    for index, name in enumerate(("ab", "cd", "ab", "ab"), 1):
        late = LateBallotEntry(name * 32, 1, RecordedBallot(replica="r", outcome="failed"), False)
        body = encode_entry(late)
        head = next_head(head, index, body)
        table.save_entry(Entry(index, body, head))
    build = bytes.fromhex("ab" * 32)

    def found(after: int = 0, count: int = 9) -> list[int] | None:
        late = table.late_ballots(build, after, count)
        return None if late is None else [index for index, _ in late]

    assert (found(), found(after=1), found(count=2)) == ([1, 3, 4], [3, 4], [1, 3])
    table._database.execute("UPDATE ledger SET body = body || ' ' WHERE position = 3")
    assert (found(), found(after=3)) == (None, [4])
    table._database.execute("UPDATE late_ballots SET build = ? WHERE position = 2", (build,))
    assert found(after=1) is None
    table.cut(4)
    assert found(after=3) == []
    table.save_position(5, b"h" * 32, table.end())
    assert (found(after=3), found(after=5)) == (None, [])


def test_a_page_is_bounded_in_bytes_but_never_empty(table: LedgerTable) -> None:
    for entry in CHAIN:
        table.save_entry(entry)
    size = len(CHAIN[0].body)
    assert table.entries(1, 100, bytes_max=1) == CHAIN[:1]
    assert table.entries(1, 100, bytes_max=3 * size) == CHAIN[:3]
    assert table.entries(1, 0) == []


@pytest.mark.parametrize("first", [4, 6])
def test_a_page_for_a_gap_that_grew_meanwhile_changes_nothing(
    table: LedgerTable, first: int
) -> None:
    gap = _with_gap(table, 4, 7, 10)
    assert table.forget(LedgerGap(8, 8, CHAIN[6].head, CHAIN[7].head))
    grown = _gap(table)
    assert (grown.first, grown.last) == (4, 8)
    assert not table.fill(gap, _page(first, 7))
    assert _gap(table) == grown
    assert table.fill(grown, _page(4, 8))
    assert table.entries(1, 100) == CHAIN[:10]


def test_a_certified_head_inside_a_gap_divides_it(table: LedgerTable) -> None:
    for entry in CHAIN[:12]:
        table.save_entry(entry)
    assert table.forget(LedgerGap(6, 8, CHAIN[4].head, CHAIN[7].head))
    table.save_position(7, CHAIN[6].head, (4, CHAIN[3].head))
    table.save_entry(CHAIN[12])
    assert table.missing() == 3
    assert table.gaps() == [
        LedgerGap(6, 7, CHAIN[4].head, CHAIN[6].head),
        LedgerGap(8, 8, CHAIN[6].head, CHAIN[7].head),
    ]
    while (gap := table.gap()) is not None:
        table.fill(gap, _page(gap.last, gap.last))
    assert table.entries(1, 100) == CHAIN[:13]
