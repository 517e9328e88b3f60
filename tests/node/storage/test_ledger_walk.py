"""A walk over the ledger finds what is damaged, wherever it is and however it is cut into steps."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.ledger import genesis_head
from ci.ledger_gap import LedgerGap
from node.storage.damage import FullCheckMarker
from node.storage.ledger_table import LEDGER_SCHEMA, LedgerTable
from node.storage.ledger_walk import LedgerWalk
from node.storage.store import DATABASE_NAME
from tests.node.chains import chain_of, page_of

CLUSTER = bytes(range(32))
COUNT = 24
CHAIN = chain_of(CLUSTER, COUNT)
DAMAGES = (
    "UPDATE ledger SET body = x'00' WHERE position = ?",
    "UPDATE ledger SET body = 'text' WHERE position = ?",
    "UPDATE ledger SET head = zeroblob(32) WHERE position = ?",
    "UPDATE ledger SET head = 7 WHERE position = ?",
    "DELETE FROM ledger WHERE position = ?",
    "UPDATE ledger SET position = position + 1000000 WHERE position = ?",
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger's tables in memory."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(LEDGER_SCHEMA)
    yield database
    database.close()


def _table(database: sqlite3.Connection, tmp_path: Path) -> LedgerTable:
    table = LedgerTable(database, CLUSTER, FullCheckMarker(tmp_path / DATABASE_NAME))
    for entry in CHAIN:
        table.save_entry(entry)
    return table


def _repair(table: LedgerTable, entries_max: int, bytes_max: int = 1 << 20) -> None:
    walk = LedgerWalk.from_genesis(table)
    is_at_end = False
    while not is_at_end:
        assert not walk.is_lost
        step = walk.step(entries_max, bytes_max)
        is_at_end = step.is_at_end
        for gap in step.mended:
            table.mend(gap)
        for damaged in step.damaged:
            assert table.forget(damaged)


def _fetch(table: LedgerTable) -> None:
    """What `node.replica.ledger_catch_up` does, from a peer that has everything."""
    while (gap := table.gap()) is not None:
        table.fill(gap, page_of(CLUSTER, CHAIN, max(gap.first, gap.last - 4), gap.last))


def test_a_whole_ledger_has_nothing_to_repair(database: sqlite3.Connection, tmp_path: Path) -> None:
    table = _table(database, tmp_path)
    _repair(table, 5)
    assert table.gap() is None


@pytest.mark.parametrize("statement", DAMAGES)
@pytest.mark.parametrize("entries_max", [1, 2, 1000])
def test_damage_is_not_served_is_found_and_is_fetched_again(
    database: sqlite3.Connection, tmp_path: Path, statement: str, entries_max: int
) -> None:
    for position in (1, 2, 11, COUNT - 2):
        table = _table(database, tmp_path)
        database.execute(statement, (position,))
        if "1000000" in statement:
            table.cut(COUNT + 1)  # as a start does with what was not executed
        served = table.entries(1, 100)
        assert served == CHAIN[: len(served)]
        assert len(served) in (position - 1, position)
        page = table.page_up_to(COUNT, 100, 1 << 20)
        assert list(page.entries) == CHAIN[-len(page.entries) :]
        assert page == page_of(CLUSTER, CHAIN, page.entries[0].index, COUNT)
        _repair(table, entries_max)
        gap = table.gap()
        assert gap is not None
        assert gap.first <= position <= gap.last
        assert gap.missing <= 2
        _fetch(table)
        assert table.entries(1, 100) == CHAIN
        table.cut(1)
        table.suspected.clear()


def test_any_damage_of_many_rows_and_gaps_is_repaired(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """But for the last two entries, of which only those that follow tell."""
    chance = random.Random(7)
    for number in range(150):
        table = _table(database, tmp_path)
        for _ in range(chance.randrange(3)):
            first = chance.randrange(2, COUNT - 2)
            last = min(COUNT - 2, first + chance.randrange(4))
            # One that overlaps another is not found as it should be, and that is right.
            table.forget(LedgerGap(first, last, CHAIN[first - 2].head, CHAIN[last - 1].head))
        for _ in range(chance.randrange(1, 5)):
            database.execute(chance.choice(DAMAGES[:5]), (chance.randrange(1, COUNT - 1),))
        if chance.random() < 0.3:
            database.execute("UPDATE gaps SET head_before = zeroblob(32)")
        if chance.random() < 0.3:
            database.execute("UPDATE gaps SET head_after = zeroblob(32)")
        _repair(table, chance.choice([1, 3, 1000]), chance.choice([1, 300, 1 << 20]))
        _fetch(table)
        assert table.entries(1, 100) == CHAIN, number
        table.cut(1)


def test_a_head_that_was_replaced_under_it_is_noticed(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    table = _table(database, tmp_path)
    walk = LedgerWalk.from_genesis(table)
    walk.step(10, 1 << 20)
    assert not walk.is_lost
    other = chain_of(CLUSTER, COUNT, wrong_from=6)
    table.cut(6)
    for entry in other[5:]:
        table.save_entry(entry)
    assert walk.is_lost


def test_what_changed_meanwhile_is_not_forgotten(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    table = _table(database, tmp_path)
    assert not table.forget(LedgerGap(3, 4, bytes(32), CHAIN[3].head))
    assert not table.forget(LedgerGap(3, 4, CHAIN[1].head, bytes(32)))
    assert table.entries(1, 100) == CHAIN


def test_of_the_last_entry_it_shows_with_the_next(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    table = _table(database, tmp_path)
    table.cut(COUNT)
    database.execute("UPDATE ledger SET body = x'00' WHERE position = ?", (COUNT - 1,))
    _repair(table, 5)
    assert table.gap() is None
    assert table.entries(1, 100) == CHAIN[: COUNT - 2]
    table.save_entry(CHAIN[-1])
    _repair(table, 5)
    _fetch(table)
    assert table.entries(1, 100) == CHAIN


def test_an_empty_ledger_is_whole(database: sqlite3.Connection, tmp_path: Path) -> None:
    table = LedgerTable(database, CLUSTER, FullCheckMarker(tmp_path / DATABASE_NAME))
    walk = LedgerWalk.from_genesis(table)
    assert walk.step(5, 5).is_at_end
    assert walk.finish() == ()
    assert table.genesis == genesis_head(CLUSTER)


def test_a_walk_that_begins_inside_a_gap_leaves_it_as_it_is(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """A start walks from the certified position; damage beside it may have made a gap across it."""
    table = _table(database, tmp_path)
    assert table.forget(LedgerGap(9, 12, CHAIN[7].head, CHAIN[11].head))
    walk = LedgerWalk(table, 10, CHAIN[9].head)
    step = walk.step(1000, 1 << 20)
    assert (step.mended, step.damaged, step.is_at_end) == ((), (), True)
    _fetch(table)
    assert table.entries(1, 100) == CHAIN
