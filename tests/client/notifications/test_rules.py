"""client.notifications.rules: when a branch turns, and whom that concerns."""

import msgspec
import pytest

from ci.operations import Event
from client.notifications.message import Turn
from client.notifications.rules import is_concerned, turn_of
from client.storage.archive import BuildRecord
from common.configuration.notify_config import NotifyTarget


@pytest.mark.parametrize(
    ("outcome", "before", "turn"),
    [
        ("failed", None, Turn.BROKEN),
        ("failed", "passed", Turn.BROKEN),
        ("disputed", "passed", Turn.BROKEN),
        ("failed", "timed_out", None),
        ("passed", None, None),
        ("passed", "passed", None),
        ("passed", "failed", Turn.FIXED),
        ("cancelled", "passed", None),
        ("cancelled", "failed", None),
        ("skipped", "failed", None),
    ],
)
def test_when_a_branch_turns(outcome: str, before: str | None, turn: Turn | None) -> None:
    assert turn_of(outcome, before) is turn


_KNOWN = BuildRecord(
    number=1,
    build=bytes(32),
    repository="r",
    branch="release/1",
    commit=None,
    detail=None,
    refused=None,
    request=None,
    statement=None,
    received_at=0.0,
    resolved_at=None,
    signed_at=None,
    opened_at=None,
    decided_at=None,
    collected=False,
    author="ann",
)


def record(**more: object) -> BuildRecord:
    return msgspec.structs.replace(_KNOWN, **more)


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        ({}, True),
        ({"repositories": ("r",)}, True),
        ({"repositories": ("other",)}, False),
        ({"branches": ("main", "release/*")}, True),
        ({"branches": ("main",)}, False),
        ({"authors": ("a*",)}, True),
        ({"authors": ("bob",)}, False),
        ({"events": ("cron",)}, False),
    ],
)
def test_whom_it_concerns(rule: dict[str, tuple[str, ...]], is_told: bool) -> None:
    target = NotifyTarget("t", "webhook", **rule)  # type: ignore[arg-type]
    assert is_concerned(target, record()) is is_told


def test_pull_requests_are_not_told_of_unless_they_are_named() -> None:
    build = record(event=Event.PULL_REQUEST)
    assert not is_concerned(NotifyTarget("t", "webhook"), build)
    assert is_concerned(NotifyTarget("t", "webhook", events=("pull_request",)), build)
