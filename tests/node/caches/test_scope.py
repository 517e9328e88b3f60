"""Whose caches a build reads, and who writes them."""

import pytest

from ci.operations import Event
from node.caches.scope import Branches, Scope, scope_of

TIP = "a" * 40
OLD = "b" * 40
PUSH, TAG, REQUEST = Event.PUSH, Event.TAG, Event.PULL_REQUEST


def find(
    event: Event,
    reference: str,
    *,
    commit: str = TIP,
    target: str = "main",
    default: str | None = "main",
    cache_branches: tuple[str, ...] | None = None,
) -> Scope | None:
    return scope_of(
        event,
        reference,
        commit,
        target=target,
        branches=Branches(default, TIP),
        cache_branches=cache_branches,
    )


def test_a_push_to_the_branch_of_head_writes() -> None:
    assert find(PUSH, "refs/heads/main") == Scope("main", is_written=True)


def test_a_commit_below_the_head_only_reads() -> None:
    """It is on the branch, and perhaps came in with another one: a rebuild must not write it."""
    assert find(PUSH, "refs/heads/main", commit=OLD) == Scope("main", is_written=False)


@pytest.mark.parametrize(
    ("event", "reference", "target"),
    [
        (PUSH, "refs/heads/feature", "feature"),
        # what a request says of its branch gives it nothing to write
        (PUSH, "refs/heads/feature", "main"),
        (PUSH, "refs/heads/refs/heads/main", "main"),
        (PUSH, "refs/pull/1/head", "main"),
        (REQUEST, "refs/pull/1/head", "main"),
        (REQUEST, "refs/heads/main", "main"),
        (REQUEST, "refs/pull/1/head", "feature"),
        # a forge without refs of requests: the branch of the request itself
        (REQUEST, "refs/heads/feature", "main"),
        (Event.MERGE_GROUP, "refs/heads/gh-readonly-queue/main/pr-1", "main"),
        # a schedule is no push
        (Event.CRON, "refs/heads/main", "main"),
    ],
)
def test_others_only_read_what_the_branch_of_head_wrote(
    event: Event, reference: str, target: str
) -> None:
    assert find(event, reference, target=target) == Scope("main", is_written=False)


def test_a_tag_neither_reads_nor_writes() -> None:
    assert find(TAG, "refs/tags/main") is None
    assert find(TAG, "refs/tags/v1", cache_branches=("**",)) is None


def test_the_operator_names_the_branches() -> None:
    named = ("main", "release/*")
    assert find(PUSH, "refs/heads/release/1", cache_branches=named) == Scope("release/1", True)
    assert find(REQUEST, "refs/pull/1/head", target="release/1", cache_branches=named) == Scope(
        "release/1", False
    )
    assert find(PUSH, "refs/heads/feature", cache_branches=named) == Scope("main", False)
    # not the branch of HEAD
    only = ("release/*",)
    assert find(PUSH, "refs/heads/main", cache_branches=only) is None
    assert find(PUSH, "refs/heads/main", cache_branches=()) is None
    assert find(PUSH, "refs/heads/main", default=None) is None
