"""client.storage.case_archive: what is kept of observations, and what it costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.case_reports import case_report
from ci.case_results import CaseOutcome, case_sha256
from ci.flaky import (
    DAY_SECONDS,
    WINDOW_BUILDS_MAX,
    BuildObservation,
    CaseObservation,
    CaseState,
    SeenBuild,
    observe,
)
from client.storage import case_archive
from client.storage.case_archive import CaseArchive, CasePlace
from client.storage.database import Database

REPOSITORY, OTHER = "https://example.org/r.git", "https://example.org/other.git"
REPLICAS = ("node0", "node1", "node2", "node3")
NOW = 100 * DAY_SECONDS


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A gateway's file."""
    database = Database(tmp_path, bytes(32), "gateway")
    yield database
    database.close()


@pytest.fixture
def cases(database: Database) -> CaseArchive:
    """What is under test."""
    return CaseArchive(database)


def seen(*failed: str, by: str = "node3", days_ago: float = 1.0, commit: str = "c") -> SeenBuild:
    """A build in which that replica saw these cases fail, and the others saw all pass."""
    observations = {
        case: CaseObservation((by,), (), tuple(sorted({*REPLICAS} - {by}))) for case in failed
    }
    observation = BuildObservation("set", REPLICAS, (), REPLICAS, observations)
    return SeenBuild(NOW - days_ago * DAY_SECONDS, commit, None, False, observation)


def put(
    cases: CaseArchive, database: Database, number: int, build: SeenBuild, name: str = REPOSITORY
) -> None:
    with database.transaction():
        cases.put(number, name, build)
        cases.update(name, 1, NOW)


def rows(database: Database, table: str) -> int:
    found = database.row(f"SELECT count(*) FROM {table}")
    assert found is not None
    return int(found[0])


def names(cases: CaseArchive, state: CaseState | None = None) -> list[str]:
    return [r.name for r in cases.page(REPOSITORY, state, after=None, cases_max=100)]


def test_states_follow_from_all_builds_of_a_repository(
    cases: CaseArchive, database: Database
) -> None:
    put(cases, database, 1, seen("x", "y", commit="c1"))
    assert cases.counts()["suspect"] == 2
    put(cases, database, 2, seen("x", by="node0", commit="c2"))
    put(cases, database, 3, seen("y", commit="c2"))
    put(cases, database, 4, seen("x", "z"), OTHER)
    assert names(cases, CaseState.FLAKY) == ["x"]
    assert names(cases, CaseState.ONE_MACHINE) == ["y"]
    assert names(cases) == ["y", "x"]
    counts = {state: count for state, count in cases.counts().items() if count}
    assert counts == {"flaky": 1, "one machine": 1, "suspect": 2}
    assert cases.standings_of(REPOSITORY, ["x", "z"]).keys() == {"x"}
    assert cases.repositories(10) == [OTHER, REPOSITORY]


def test_a_late_ballot_replaces_what_was_seen_of_its_build(
    cases: CaseArchive, database: Database
) -> None:
    put(cases, database, 1, seen("x"))
    put(cases, database, 1, seen("y"))
    assert names(cases) == ["y"]
    put(cases, database, 1, seen())
    assert (names(cases), rows(database, "test_cases"), rows(database, "test_builds")) == ([], 0, 1)


def test_a_build_without_differences_costs_one_small_row(
    cases: CaseArchive, database: Database
) -> None:
    """Whatever the number of its cases is."""
    many = {f"pytest::test_{n}": CaseOutcome.PASSED for n in range(20_000)}
    report = case_report(many)
    observation = observe(dict.fromkeys(REPLICAS, report), 1)
    put(cases, database, 1, SeenBuild(NOW, "c" * 40, "main", False, observation))
    row = database.row("SELECT length(seen) FROM test_builds")
    assert row is not None
    assert row[0] < 300
    assert rows(database, "test_observations") == rows(database, "test_cases") == 0


def test_what_one_case_did_in_each_build(cases: CaseArchive, database: Database) -> None:
    put(cases, database, 1, seen())
    put(cases, database, 2, seen("x"))
    other_cases = BuildObservation("other", REPLICAS, (), REPLICAS, {})
    put(cases, database, 3, SeenBuild(NOW, "c", None, False, other_cases))
    put(cases, database, 4, seen("x"), OTHER)
    (record,) = cases.find(case_sha256("x"), REPOSITORY)
    told = [(found.number, found.observation) for found in cases.seen(record)]
    assert told == [
        (3, None),
        (2, CaseObservation(("node3",), (), ("node0", "node1", "node2"))),
        (1, CaseObservation((), (), REPLICAS)),
    ]
    assert [r.repository for r in cases.find(case_sha256("x"))] == [OTHER, REPOSITORY]


def test_pages_follow_each_other(cases: CaseArchive, database: Database) -> None:
    put(cases, database, 1, seen("a", "b", "c", "d", "e"))
    put(cases, database, 2, seen("b", "d", commit="c2"))
    found: list[str] = []
    after = None
    while page := cases.page(REPOSITORY, None, after=after, cases_max=2):
        found += [record.name for record in page]
        after = CasePlace(page[-1].standing.score, page[-1].number)
    assert found == ["d", "b", "e", "c", "a"]


@pytest.mark.parametrize(
    ("builds", "observations", "left"),
    [(WINDOW_BUILDS_MAX + 3, 20_000, WINDOW_BUILDS_MAX), (12, 10, 5)],
    ids=["so many builds", "so many observations"],
)
def test_the_oldest_builds_go_first(
    cases: CaseArchive,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    builds: int,
    observations: int,
    left: int,
) -> None:
    monkeypatch.setattr(case_archive, "OBSERVATIONS_MAX", observations)
    with database.transaction():
        for number in range(builds):
            cases.put(number, REPOSITORY, seen("x", f"case {number}"))
        cases.update(REPOSITORY, 1, NOW)
    assert rows(database, "test_builds") == left
    assert rows(database, "test_observations") == 2 * left
    assert rows(database, "test_cases") == left + 1


def test_what_is_a_month_old_counts_no_more(cases: CaseArchive, database: Database) -> None:
    put(cases, database, 1, seen("x", days_ago=29))
    assert names(cases) == ["x"]
    with database.transaction():
        cases.update(REPOSITORY, 1, NOW + 2 * DAY_SECONDS)
    assert names(cases) == []
    assert cases.repositories(10) == []


def test_of_too_many_cases_those_seen_last_stay(
    cases: CaseArchive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_archive, "CASES_MAX", 2)
    for number, case in enumerate("abc", 1):
        put(cases, database, number, seen(case, days_ago=5 - number))
    assert sorted(names(cases)) == ["b", "c"]
    assert rows(database, "test_observations") == 2


def test_a_removed_build_is_forgotten(cases: CaseArchive, database: Database) -> None:
    put(cases, database, 1, seen("x"))
    put(cases, database, 2, seen("y"))
    with database.transaction():
        cases.remove(1)
        cases.update(REPOSITORY, 1, NOW)
    assert names(cases) == ["y"]
    assert cases.newest_build(REPOSITORY) == 2
    assert cases.newest_build(OTHER) is None


def test_counts_are_there_after_a_restart(tmp_path: Path) -> None:
    for build in (seen("x"), seen("x", "y")):
        database = Database(tmp_path, bytes(32), "gateway")
        cases = CaseArchive(database)
        put(cases, database, 1, build)
        database.close()
    database = Database(tmp_path, bytes(32), "gateway")
    assert CaseArchive(database).counts()["suspect"] == 2
    database.close()
