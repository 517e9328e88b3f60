"""client.views.change_view: what a build changed, in the words of the builds around it."""

import pytest

from ci.operations import Outcome
from client.storage.archive import BuildRecord
from client.views.change_view import Around, WhatChanged, what_changed
from common.forges.web_pages import WebPages
from common.git_commits import CommitFacts
from tests.client.views.test_build_view import record

PAGES = WebPages("github", "https://h.example/o/r")
OLD, MIDDLE, NEW = (digit * 40 for digit in "123")
KNOWN = {
    NEW: CommitFacts(NEW, (MIDDLE,), "new", "Ada", 3, 3),
    MIDDLE: CommitFacts(MIDDLE, (OLD,), "middle", "Ada", 2, 2),
    OLD: CommitFacts(OLD, (), "old", "Ada", 1, 1),
}


def build_of(commit: str | None, number: int) -> BuildRecord:
    return record(build=number.to_bytes(32), commit=commit, number=number, decided_at=float(number))


GREEN, FIRST, LAST = (build_of(commit, n) for n, commit in enumerate((OLD, MIDDLE, NEW), 1))


def changed(
    build: BuildRecord,
    outcome: str | None,
    *,
    green: BuildRecord | None = GREEN,
    red: BuildRecord | None = None,
    reds: int = 0,
) -> WhatChanged:
    around = Around(outcome, green, red, reds, {})
    return what_changed(build, around, KNOWN.get, pages=PAGES)


def new_in(found: WhatChanged) -> list[str]:
    assert found.commits is not None
    return [commit.subject for commit in found.commits.shown]


def test_of_a_red_branch_the_first_red_build_counts() -> None:
    found = changed(LAST, Outcome.FAILED, red=FIRST, reds=2)
    assert found.green is not None
    assert found.red is not None
    assert (found.green.id, found.red.id) == (GREEN.build.hex(), FIRST.build.hex())
    assert (found.is_red, found.is_first, found.reds) == (True, False, 2)
    assert new_in(found) == ["middle"]
    assert found.comparison == f"https://h.example/o/r/compare/{OLD}...{MIDDLE}"
    assert changed(FIRST, Outcome.FAILED, red=FIRST, reds=1).is_first


def test_of_a_green_one_all_that_came_since_the_last_green_one() -> None:
    found = changed(LAST, Outcome.PASSED, red=FIRST, reds=1)
    assert (found.is_red, found.is_first, found.reds) == (False, False, 1)
    assert new_in(found) == ["new", "middle"]
    assert found.comparison == f"https://h.example/o/r/compare/{OLD}...{NEW}"


def test_an_open_build_on_a_red_branch_shows_what_made_it_red() -> None:
    assert new_in(changed(LAST, None, red=FIRST, reds=1)) == ["middle"]
    assert new_in(changed(LAST, None)) == ["new", "middle"]


def test_without_a_green_one_or_a_commit_there_is_nothing_to_compare() -> None:
    for found in (
        changed(LAST, Outcome.FAILED, green=None, red=LAST, reds=1),
        changed(build_of(None, 3), Outcome.FAILED, red=build_of(None, 3), reds=1),
    ):
        assert (found.commits, found.comparison) == (None, None)


def test_of_the_same_commit_there_is_no_comparison() -> None:
    again = build_of(OLD, 2)
    found = changed(again, Outcome.FAILED, red=again, reds=1)
    assert found.commits is not None
    assert (found.commits.count, found.comparison) == (0, None)


@pytest.mark.parametrize(
    ("outcomes", "is_unsteady"),
    [
        ({"passed": 2, "failed": 4}, True),
        ({"passed": 2, "cancelled": 1, "skipped": 1}, False),
        ({"failed": 2, "disputed": 1}, False),
        ({}, False),
    ],
)
def test_a_commit_that_passed_and_failed_is_unsteady(
    outcomes: dict[str, int], is_unsteady: bool
) -> None:
    found = what_changed(LAST, Around(None, None, None, 0, outcomes), KNOWN.get, pages=None)
    assert found.is_unsteady is is_unsteady
    assert found.of_commit == tuple(outcomes.items())
