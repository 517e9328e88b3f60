"""client.storage.build_filter, and the archive's lists by it: what they show, how far they read."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Event, Outcome
from client.storage.archive import Archive
from client.storage.build_filter import (
    ALL,
    BRANCH_CHARACTERS_MAX,
    OUTCOMES,
    STATUSES,
    BuildFilter,
    InvalidFilter,
    read_filter,
)
from client.storage.build_request import BuildRequest
from client.storage.database import FILE_NAME, Database
from client.views.build_view import BuildStatus, build_view
from tests.ci.builders import FAILED, PASSED
from tests.client.views.test_build_view import decided

REPOSITORIES = ("https://example.org/a.git", "https://example.org/b.git", "no address")
BRANCHES = ("master", "feature/x", "it's; --")
# the columns that make a state, and what view says of them
STATES: tuple[dict[str, object], ...] = (
    {},
    {"signed_at": 1.0},
    {"opened_at": 1.0},
    {"refused": "no"},
    {"opened_at": 1.0, "refused": "no"},
    {"skipped": "[skip ci]"},
    {"withdrawn": "x", "never_asked": 1},
    {"opened_at": 1.0, "withdrawn": "x"},
)


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Archive:
    """A build of each repository, branch and state."""
    archive = Archive(database, tmp_path)
    _, _, passed, _ = decided([PASSED] * 4)
    _, _, failed, _ = decided([FAILED] * 4)
    of_verdicts: tuple[dict[str, object], ...] = (
        {"statement": passed},
        {"statement": failed, "refused": "no"},
    )
    with database.transaction():
        for index, (repository, branch, columns) in enumerate(
            itertools.product(REPOSITORIES, BRANCHES, STATES + of_verdicts)
        ):
            build = index.to_bytes(32, "big")
            archive.add(build, BuildRequest(repository, branch), 1.0)
            for name, value in columns.items():
                database.write(f"UPDATE builds SET {name} = ? WHERE build = ?", (value, build))
    return archive


def shown_as(archive: Archive, number: int) -> str:
    (record,) = archive.page(number + 1, 1)
    view = build_view(record, [], [])
    return view.verdict.outcome if view.verdict else view.status.value


def test_what_a_build_is_listed_as_is_what_it_is_shown_as(
    archive: Archive, database: Database
) -> None:
    rows = database.rows("SELECT number, state FROM builds")
    assert dict(rows) == {number: shown_as(archive, number) for number, _ in rows}
    assert {state for _, state in rows} == {*STATUSES, "cancelled", "skipped", "passed", "failed"}


def test_the_names_are_those_of_the_views() -> None:
    statuses = {status.value for status in BuildStatus} - {"decided", "cancelled", "skipped"}
    assert set(STATUSES) == statuses
    assert set(OUTCOMES) == statuses | {outcome.value for outcome in Outcome}


def test_a_list_holds_all_that_match_and_no_others(archive: Archive) -> None:
    records = [(record, shown_as(archive, record.number)) for record in archive.page(None, 1000)]
    for repository, branch, outcome in itertools.product(
        (None, *REPOSITORIES, "unknown"), (None, *BRANCHES, "unknown"), (None, *OUTCOMES)
    ):
        expected = [
            record.number
            for record, shown in records
            if repository in (None, record.repository)
            and branch in (None, record.branch)
            and outcome in (None, shown)
        ]
        only = BuildFilter(repository, branch, outcome)
        found: list[int] = []
        while page := archive.page(found[-1] if found else None, 7, only):
            found.extend(record.number for record in page)
        assert found == expected, only


def test_parts_of_names_are_found_in_any_case_and_signs_stand_for_themselves(
    database: Database, tmp_path: Path
) -> None:
    archive = Archive(database, tmp_path)
    builds = (
        ("https://example.org/Shop.git", "Fix/50%_off", "ab12" * 10, "push", "Ann"),
        ("https://example.org/other.git", "fix/50x", "AB99".lower() * 10, "tag", None),
    )
    with database.transaction():
        for index, (repository, branch, commit, event, author) in enumerate(builds):
            wanted = BuildRequest(repository, branch, commit, event=Event(event), author=author)
            archive.add(index.to_bytes(32, "big"), wanted, 1.0)

    def found(**fields: str) -> list[int]:
        only = read_filter(fields, is_part=True)
        return sorted(record.number for record in archive.page(None, 9, only))

    assert found(repository="shop") == [1]
    assert found(repository="EXAMPLE.org/") == [1, 2]
    assert found(branch="FIX/") == [1, 2]
    assert found(branch="50%") == [1]
    assert found(branch="%_o") == [1]
    assert found(branch="x/5") == [1, 2]
    assert found(branch="!") == []
    assert found(commit="AB12") == [1]
    assert found(commit="ab" + "99ab") == [2]
    assert found(author="ANN") == [1]
    assert found(event="tag", branch="fix") == [2]
    exact = read_filter({"branch": "FIX/50X"})
    assert archive.page(None, 9, exact) == [], "the API takes names as they are"
    assert archive.ids_beginning("00", 9) == [bytes(32), (1).to_bytes(32, "big")]
    assert archive.ids_beginning("0" * 63 + "1", 9) == [(1).to_bytes(32, "big")]
    assert archive.ids_beginning("f", 9) == []


@pytest.fixture
def plan(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where SQLite looks for what is asked for, from then on."""
    plan: list[str] = []
    rows = database.rows

    def explain(statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        plan.extend(str(row[3]) for row in rows(f"EXPLAIN QUERY PLAN {statement}", values))
        return rows(statement, values)

    monkeypatch.setattr(database, "rows", explain)
    return plan


INDICES = {
    (False, False, False): "",
    (True, False, False): "builds_of_repository (repository=?",
    (True, True, False): "builds_of_branch (repository=? AND branch=?",
    (False, True, False): "builds_of_any_branch (branch=?",
    (False, False, True): "builds_of_state (state=?",
    (True, False, True): "builds_of_repository (repository=?",
    (True, True, True): "builds_of_branch (repository=? AND branch=?",
    (False, True, True): "builds_of_any_branch (branch=?",
}


def test_every_list_is_read_in_the_order_of_an_index(archive: Archive, plan: list[str]) -> None:
    """No list is sorted, and none but that of all builds is read through the table."""
    for has, before in itertools.product(INDICES, (None, 50)):
        repository, branch, outcome = has
        only = BuildFilter(
            "r" if repository else None, "b" if branch else None, "failed" if outcome else None
        )
        plan.clear()
        archive.page(before, 26, only)
        assert len(plan) == 1, only
        alone = "SCAN builds" if before is None else "PRIMARY KEY (rowid<?)"
        assert (INDICES[has] or alone) in plan[0], only


def test_what_is_asked_for_each_page_reads_an_index(archive: Archive, plan: list[str]) -> None:
    archive.repositories(9)
    archive.newest_branches("r", 9)
    about_builds = [step for step in plan if " builds" in step]
    assert len(about_builds) == 3
    assert all(" INDEX builds_of_" in step for step in about_builds), about_builds
    assert not any("TEMP B-TREE" in step for step in plan)


def test_repositories_and_branches_are_named_once(archive: Archive) -> None:
    assert archive.repositories(10) == sorted(REPOSITORIES)
    assert archive.repositories(2) == sorted(REPOSITORIES)[:2]
    assert archive.newest_branches(None, 1000) == list(reversed(BRANCHES))
    assert archive.newest_branches("no address", 1) == [BRANCHES[-1]]
    assert archive.newest_branches("unknown", 1000) == []


def test_counts_are_by_what_is_shown(archive: Archive) -> None:
    of_each = len(REPOSITORIES) * len(BRANCHES)
    assert archive.counts() == {
        "decided": 3 * of_each,
        "open": 4 * of_each,
        "refused": 2 * of_each,
        "skipped": of_each,
    }
    assert archive.count("building") == 2 * of_each
    assert archive.count("never heard of") == 0


def test_counts_follow_every_change_and_a_restart(
    database: Database, archive: Archive, tmp_path: Path
) -> None:
    def counted() -> dict[str, int]:
        rows = database.rows("SELECT ifnull(state, ''), count(*) FROM builds GROUP BY state")
        return {str(state): int(count) for state, count in rows}

    def kept(among: Database) -> dict[str, int]:
        rows = among.rows("SELECT state, count FROM build_counts WHERE count > 0")
        return {str(state): int(count) for state, count in rows}

    def change_and_fail() -> None:
        with database.transaction():
            for build in builds:
                archive.remove(build)
            raise ZeroDivisionError

    builds = [record.build for record in archive.page(None, 1000)]
    assert kept(database) == counted()
    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert kept(database) == counted()
    with database.transaction():
        for build in builds[::2]:
            archive.note_decided(build, b'{"predicate":{"pbftci_verdict":{"outcome":"failed"}}}', 1)
        for build in builds[::3]:
            archive.remove(build)
    assert len(kept(database)) > 1
    assert kept(database) == counted()
    # a statement that is none has no outcome; it is a decided one all the same
    with database.transaction():
        database.write("UPDATE builds SET statement = 'x' WHERE build = ?", (builds[1],))
    assert kept(database) == counted()
    (tmp_path / "again").mkdir()
    database.rows("VACUUM INTO ?", (str(tmp_path / "again" / FILE_NAME),))
    again = Database(tmp_path / "again", bytes(32), "client")
    assert kept(again) == counted()
    again.close()


def test_an_empty_archive_has_no_repositories(database: Database, tmp_path: Path) -> None:
    archive = Archive(database, tmp_path)
    assert archive.repositories(10) == []
    assert archive.page(None, 10, BuildFilter(outcome="failed")) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"repository": "", "branch": " ", "outcome": ""}, ALL),
        ({"repository": " r ", "after": "x"}, BuildFilter(repository="r")),
        ({"branch": "b", "outcome": "timed_out"}, BuildFilter(branch="b", outcome="timed_out")),
        (
            {"commit": " 12AB ", "event": "tag", "author": "a"},
            BuildFilter(commit="12ab", event="tag", author="a"),
        ),
    ],
)
def test_a_filter_is_read_from_an_address(query: dict[str, str], expected: BuildFilter) -> None:
    assert read_filter(query) == expected


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"outcome": "green"}, "passed, failed"),
        ({"outcome": "decided"}, "`outcome` is one of"),
        ({"branch": "b" * (BRANCH_CHARACTERS_MAX + 1)}, "`branch` has at most 255"),
        ({"repository": "r" * 1025}, "`repository` has at most 1024"),
        ({"commit": "abc"}, "`commit` is how a commit's id begins: at least 4"),
        ({"commit": "main"}, "`commit` is how"),
        ({"event": "nightly"}, "`event` is one of push"),
        ({"author": "a" * 256}, "`author` has at most 255"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(query: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidFilter, match=says):
        read_filter(query)


def test_the_fields_of_a_filter_make_the_same_one_again() -> None:
    only = BuildFilter(repository="r", outcome="failed")
    assert only.fields == {"repository": "r", "outcome": "failed"}
    assert read_filter(only.fields) == only
