"""common.repositories.schedule: when a schedule is due, and which are refused."""

import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.operations import SubmitBuild
from common.config_error import ConfigError
from common.repositories.schedule import (
    CRON_CHARACTERS_MAX,
    NAME_PATTERN,
    SCHEDULES_MAX,
    Schedule,
    check_schedules,
    cron_problem,
    last_due,
)

NIGHTLY = Schedule("nightly", "main", "17 3 * * *")


def minute(text: str) -> int:
    """The minutes since 1970 of a time in UTC."""
    return int(datetime.datetime.fromisoformat(f"{text}+00:00").timestamp()) // 60


@pytest.mark.parametrize(
    ("cron", "now", "due"),
    [
        ("17 3 * * *", "2026-03-02T03:16", "2026-03-01T03:17"),
        ("17 3 * * *", "2026-03-02T03:17", "2026-03-02T03:17"),
        ("17 3 * * *", "2026-03-02T03:18", "2026-03-02T03:17"),
        ("* * * * *", "2026-03-02T03:18", "2026-03-02T03:18"),
        ("*/15 9-17 * * 1-5", "2026-03-01T12:00", "2026-02-27T17:45"),
        ("0 0 29 2 *", "2026-03-02T03:18", "2024-02-29T00:00"),
        # central Europe's clocks leave this hour out, UTC does not
        ("30 2 * * *", "2026-03-29T02:30", "2026-03-29T02:30"),
    ],
)
def test_when_it_was_due_last(cron: str, now: str, due: str) -> None:
    assert last_due(cron, minute(now)) == minute(due)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "0 * * * * *",
        "@daily",
        "60 * * * *",
        "x * * * *",
        "0 0 30 2 *",
        "*/0 * * * *",
    ],
)
def test_what_is_no_schedule(cron: str) -> None:
    assert cron_problem(cron) is not None


WORDS = st.sampled_from(
    [
        "*",
        "*/5",
        "0",
        "7",
        "1-5",
        "2-4/2",
        "1,2",
        "L",
        "LW",
        "1#5",
        "MON",
        "JAN",
        "60",
        "x",
        "²",
        "/",
    ]
)


@given(st.lists(WORDS, min_size=5, max_size=5), st.integers(0, 60_000_000))
def test_whatever_is_taken_was_due_by_then_or_never(words: list[str], now: int) -> None:
    cron = " ".join(words)
    if cron_problem(cron) is None:
        due = last_due(cron, now)
        assert due is None or due <= now


def test_schedules_that_are_wrong_are_refused_with_their_place() -> None:
    def refused(*schedules: Schedule) -> str:
        with pytest.raises(ConfigError) as caught:
            check_schedules(schedules, Path("client.yml"), "repositories[0]")
        return str(caught.value)

    check_schedules([NIGHTLY], Path("client.yml"), "repositories[0]")
    assert "repositories[0].schedules[1].name" in refused(NIGHTLY, NIGHTLY)
    branch = msgspec.structs.replace(NIGHTLY, branch="a..b")
    assert "repositories[0].schedules[0].branch" in refused(branch)
    cron = msgspec.structs.replace(NIGHTLY, cron="17 3 * *")
    assert "4 fields" in refused(cron)
    many = [Schedule(f"s{n}", "main", "17 3 * * *") for n in range(SCHEDULES_MAX + 1)]
    assert f"at most {SCHEDULES_MAX}" in refused(*many)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a/b"},
        {"name": ""},
        {"cron": "*" * (CRON_CHARACTERS_MAX + 1)},
        {"timezone": "Europe/Vienna"},
    ],
)
def test_what_the_file_cannot_say(fields: dict[str, str]) -> None:
    whole = {"name": "nightly", "branch": "main", "cron": "17 3 * * *"} | fields
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(whole, Schedule)


def test_a_name_is_what_the_replicas_take() -> None:
    (field,) = (f for f in msgspec.structs.fields(SubmitBuild) if f.name == "schedule")
    assert repr(NAME_PATTERN) in str(field.type)
