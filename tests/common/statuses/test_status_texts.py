"""common.statuses.status_texts: what a commit status says of a build's test cases."""

from collections.abc import Mapping

import msgspec
import pytest

from ci.statement import StatementView, parse_statement
from common.statuses.status_texts import CHARACTERS_MAX, ToldCases, description_of, told_cases
from tests.ci.builders import FAILED, PASSED, World
from tests.client.tested_builds import with_tests

QUIET = ToldCases(812, 0, 0, None, 0, 0, None)
FOUR = range(4)


def text(told: ToldCases, outcome: str = "failed", exit_code: int = 1) -> str:
    return description_of(outcome, exit_code, 3, replicas=4, tests=told)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (QUIET, "812 tests"),
        (msgspec.structs.replace(QUIET, total=1), "1 test"),
        (msgspec.structs.replace(QUIET, total=None), "tests reported"),
        (msgspec.structs.replace(QUIET, total=None, warned=1), "1 warned"),
        (msgspec.structs.replace(QUIET, unsettled=1, flaky=1), "812 tests, 1 flaky"),
        (
            msgspec.structs.replace(QUIET, unsettled=3, flaky=1, warned=2),
            "812 tests, 1 flaky, 2 unsettled, 2 warned",
        ),
    ],
)
def test_a_build_without_agreed_failures(told: ToldCases, expected: str) -> None:
    assert text(told, "passed", 0) == f"3 of 4 replicas: exit 0; {expected}"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            ToldCases(812, 2, 0, 1, 0, 0, "pytest::tests.test_db::test_x"),
            "2 failed (1 new): tests.test_db::test_x",
        ),
        (ToldCases(None, 1, 0, 0, 3, 1, "test_x"), "1 failed: test_x"),
        (ToldCases(None, 1, 0, None, 0, 0, None), "1 failed"),
        (
            ToldCases(None, 0, 0, None, 2, 1, None),
            "no failed test is agreed on, 1 flaky, 1 unsettled",
        ),
        (ToldCases(812, 0, 0, None, 0, 0, None), "812 tests"),
        (ToldCases(812, 0, 3, None, 0, 0, None, 1), "812 tests, 2 warned, 1 quarantined"),
        (ToldCases(812, 0, 1, None, 0, 0, None, 1), "812 tests, 1 quarantined"),
    ],
)
def test_a_build_with_agreed_failures(told: ToldCases, expected: str) -> None:
    assert text(told) == f"3 of 4 replicas: exit 1; {expected}"


def test_no_text_is_longer_than_a_forge_takes_or_has_controls() -> None:
    long = text(ToldCases(1, 1, 0, None, 0, 0, "pytest::" + "\x1b\u202e" * 200))
    assert len(long) == CHARACTERS_MAX
    assert long.isprintable()


def statement(*reports: Mapping[str, str]) -> StatementView:
    """The statement of a build; replicas have these reports, and are red where a case failed."""
    world = World()
    build = world.open()
    for index, cases in enumerate(reports):
        found = FAILED if "failed" in cases.values() else PASSED
        world.cast(build, index, with_tests(found, cases))
    (entry,) = world.verdict_entries()
    return parse_statement(bytes(entry.statement))


def test_what_is_new_is_named_first() -> None:
    failed = statement(*[{"a": "failed", "b": "failed", "c": "passed"}] * 4)
    assert told_cases(failed) == ToldCases(None, 2, 0, None, 0, 0, "a")
    assert told_cases(failed, []) == ToldCases(None, 2, 0, 0, 0, 0, "a")
    assert told_cases(failed, ["b"]) == ToldCases(None, 2, 0, 1, 0, 0, "b")


def test_only_cases_that_are_known_to_be_are_called_flaky() -> None:
    passed = {"a": "passed", "b": "passed"}
    red = statement({"a": "failed", "b": "passed"}, {"a": "passed", "b": "failed"}, passed)
    assert told_cases(red, flaky={"a"}) == ToldCases(None, 0, 0, None, 2, 1, None)
    green = statement(*[passed] * 4)
    assert told_cases(green, flaky={"a"}) == ToldCases(2, 0, 0, None, 0, 0, None)


def test_a_statement_without_tests_says_nothing() -> None:
    world = World()
    build = world.open()
    for index in FOUR:
        world.cast(build, index, PASSED)
    (entry,) = world.verdict_entries()
    assert told_cases(parse_statement(bytes(entry.statement))) is None
