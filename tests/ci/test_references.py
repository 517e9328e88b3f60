"""Event, ref and branch of a request are one claim; what does not fit together is refused."""

import pytest

from ci.operations import Event
from ci.references import branch_ref, full_ref, target_of
from tests.ci.builders import World, reason_of

FITTING = [
    (Event.PUSH, "main", None),
    (Event.PUSH, "a/b", "refs/heads/a/b"),
    (Event.TAG, "v1", "refs/tags/v1"),
    (Event.PULL_REQUEST, "main", "refs/pull/7/head"),
    (Event.PULL_REQUEST, "main", "refs/merge-requests/12/head"),
    (Event.PULL_REQUEST, "main", "refs/pull-requests/12/from"),
    # of Bitbucket Cloud, which has no refs of requests
    (Event.PULL_REQUEST, "main", "refs/heads/other"),
    (Event.MERGE_GROUP, "main", "refs/heads/gh-readonly-queue/main/pr-1-0"),
    (Event.MERGE_GROUP, "a/b", "refs/heads/gh-readonly-queue/a/b/pr-1-0"),
]
LIES = [
    # the audit's: ledgered as passed for `when: {branch: main}`
    (Event.TAG, "main", "refs/heads/main", "event is tag"),
    (Event.TAG, "main", None, "event is tag"),
    (Event.TAG, "v1", "refs/tags/v2", "event is tag"),
    (Event.TAG, "v1", "refs/pull/7/head", "event is tag"),
    (Event.PUSH, "main", "refs/heads/other", "event is push"),
    (Event.PUSH, "main", "refs/tags/main", "event is push"),
    (Event.PUSH, "main", "refs/pull/7/head", "event is push"),
    (Event.PULL_REQUEST, "main", None, "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/heads/main", "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/tags/main", "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/pull/0/head", "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/pull/7/merge", "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/pull/7/head/x", "event is pull_request"),
    (Event.PULL_REQUEST, "main", "refs/pull-requests/7/head", "event is pull_request"),
    (Event.MERGE_GROUP, "main", None, "event is merge_group"),
    (Event.MERGE_GROUP, "main", "refs/heads/main", "event is merge_group"),
    (Event.MERGE_GROUP, "main", "refs/heads/gh-readonly-queue/main", "event is merge_group"),
    (Event.MERGE_GROUP, "a", "refs/heads/gh-readonly-queue/a/b/pr-1-0", "event is merge_group"),
    (Event.MERGE_GROUP, "main", "refs/pull/7/head", "event is merge_group"),
    (Event.CRON, "main", None, "event is cron"),
]


@pytest.mark.parametrize(("event", "branch", "ref"), FITTING)
def test_one_claim_is_opened(event: Event, branch: str, ref: str | None) -> None:
    world = World()
    build = world.open(event=event, branch=branch, ref=ref)
    assert world.application.open_builds()[build].event is event


@pytest.mark.parametrize(("event", "branch", "ref", "reason"), LIES)
def test_what_does_not_fit_together_is_refused(
    event: Event, branch: str, ref: str | None, reason: str
) -> None:
    world = World()
    assert reason in reason_of(world.submit(event=event, branch=branch, ref=ref))
    assert world.application.open_builds() == {}


def test_the_ref_and_the_target_are_full_names() -> None:
    assert full_ref("main", None) == "refs/heads/main"
    assert full_ref("v1", "refs/tags/v1") == "refs/tags/v1"
    assert target_of(Event.PULL_REQUEST, "main") == "refs/heads/main"
    assert target_of(Event.PUSH, "main") is None


def test_a_branch_is_given_by_its_full_or_its_short_name() -> None:
    assert branch_ref("a/b") == branch_ref("refs/heads/a/b") == "refs/heads/a/b"
    assert branch_ref("refs/tags/v1") == "refs/tags/v1", "which is no branch"
