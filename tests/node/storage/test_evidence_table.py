"""Evidence is bounded per replica, and each pair is kept once."""

import sqlite3
from collections.abc import Iterator

import pytest

from node.storage.evidence_table import EVIDENCE_PER_REPLICA_MAX, EVIDENCE_SCHEMA, EvidenceTable
from pbft.messages import Signed
from pbft.ports import Evidence


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(EVIDENCE_SCHEMA)
    yield database
    database.close()


def _evidence(replica: int, number: int, payload_bytes: int = 10) -> Evidence:
    payload = b"%d" % number
    return Evidence(
        replica,
        Signed(f"node{replica}", payload.ljust(payload_bytes), bytes(64)),
        Signed(f"node{replica}", payload.rjust(payload_bytes), bytes(64)),
    )


def _save(table: EvidenceTable, *evidence: Evidence) -> list[Evidence]:
    new = table.new(evidence)
    table.save(new)
    table.saved(new)
    return new


def _kept(table: EvidenceTable) -> list[Evidence]:
    return [kept.evidence for kept in table.page(0, 1000, 10**9)]


def test_a_pair_is_kept_once_in_either_order_and_with_any_signature(
    database: sqlite3.Connection,
) -> None:
    table = EvidenceTable(database)
    one = _evidence(1, 1)
    resigned = Signed(one.first.signer, one.first.payload, b"x" * 64)
    same = [one, Evidence(1, one.second, one.first), Evidence(1, resigned, one.second)]
    assert _save(table, *same) == [one]
    assert _save(table, *same) == []
    assert EvidenceTable(database).new(same) == []
    assert _kept(table) == [one]


def test_each_replica_has_a_bound_of_its_own(database: sqlite3.Connection) -> None:
    table = EvidenceTable(database)
    flood = [_evidence(1, number) for number in range(2 * EVIDENCE_PER_REPLICA_MAX)]
    assert len(_save(table, *flood)) == EVIDENCE_PER_REPLICA_MAX
    assert _save(EvidenceTable(database), *flood) == []
    assert _save(table, _evidence(2, 1)) == [_evidence(2, 1)]
    assert table.counts() == {1: EVIDENCE_PER_REPLICA_MAX, 2: 1}


def test_bytes_are_bounded_but_the_first_pair_is_always_kept(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage.evidence_table.EVIDENCE_BYTES_PER_REPLICA_MAX", 1000)
    table = EvidenceTable(database)
    huge = _evidence(1, 1, payload_bytes=2000)
    assert _save(table, huge, _evidence(1, 2)) == [huge]
    small = [_evidence(2, number) for number in range(20)]
    assert 1 < len(_save(table, *small)) < 20
    assert _save(EvidenceTable(database), _evidence(2, 99, payload_bytes=500)) == []


def test_pages_go_on_after_a_number_and_are_bounded(database: sqlite3.Connection) -> None:
    table = EvidenceTable(database)
    evidence = [_evidence(1, number) for number in range(7)]
    _save(table, *evidence)
    seen: list[Evidence] = []
    after = 0
    while page := table.page(after, 3, 10**6):
        assert len(page) <= 3
        seen += [kept.evidence for kept in page]
        after = page[-1].number
    assert seen == evidence
    assert len(table.page(0, 10, bytes_max=1)) == 1


@pytest.mark.parametrize(
    "change",
    ["replica = 7", "replica = -1", "pair = zeroblob(32)", "first = second", "second = x'01'"],
)
def test_a_row_that_is_not_what_was_saved_accuses_nobody(
    database: sqlite3.Connection, change: str
) -> None:
    table = EvidenceTable(database)
    good, bad = _evidence(1, 1), _evidence(2, 2)
    _save(table, good, bad)
    database.execute(f"UPDATE evidence SET {change} WHERE number = 2")
    again = EvidenceTable(database)
    assert again.counts() == {1: 1}
    assert _kept(again) == [good]
    assert _save(again, bad) == [bad]
