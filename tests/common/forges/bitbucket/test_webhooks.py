"""common.forges.bitbucket.webhooks: bodies as Bitbucket Cloud documents them (docs/FACTS.md)."""

from collections.abc import Mapping

import pytest

from ci.operations import Event
from common.forge_words import ForgeWords
from common.forges.bitbucket.webhooks import NO_FORKS, check_signature, parse
from common.forges.registry import forge_of
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import REFS_PER_PUSH_MAX, Action, ForgeEvent, Refusal
from common.forges.shared.signatures import Proof
from tests.common.forges.deliveries import (
    BEFORE,
    BITBUCKET_URL,
    FORK,
    NOW,
    OTHER_SECRET,
    PUSHED,
    SECRET,
    bitbucket,
    body_of,
)

URLS = (
    BITBUCKET_URL,
    "git@bitbucket.org:emma/webapp.git",
    "https://bitbucket.org/emma/webapp",
)


def event_of(delivery: Delivery) -> ForgeEvent:
    event = parse(delivery)
    assert isinstance(event, ForgeEvent), event
    return event


def changed(name: str, event: str, changes: Mapping[str, object]) -> Delivery:
    """A body with other values at some paths, unsigned."""
    return Delivery.of([("X-Event-Key", event)], body_of(name, changes))


def change_of(branch: str, commit: str = PUSHED) -> dict[str, object]:
    """One of the changes of a push."""
    return {"old": None, "new": {"type": "branch", "name": branch, "target": {"hash": commit}}}


def test_it_is_told_from_data_center_by_its_own_header() -> None:
    assert forge_of(bitbucket("bitbucket-push", "repo:push")) == "bitbucket"


def test_a_push() -> None:
    assert event_of(bitbucket("bitbucket-push", "repo:push")) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PUSH,
        branch="main",
        commit=PUSHED,
        stable_identity=("refs/heads/main", PUSHED),
        words=ForgeWords("emma"),
        before=BEFORE,
    )


def test_a_tag_and_a_deletion() -> None:
    tag = event_of(bitbucket("bitbucket-push-tag", "repo:push"))
    assert (tag.event, tag.branch, tag.ref) == (Event.TAG, "v1.0.0", "refs/tags/v1.0.0")
    assert tag.commit == PUSHED
    gone = event_of(bitbucket("bitbucket-push-deleted", "repo:push"))
    assert gone.action is Action.IGNORED
    assert "'old' was deleted" in gone.reason


def test_a_push_of_several_refs_tells_of_all_that_can_be_built() -> None:
    changes = [change_of("one"), change_of("--two"), change_of("three"), {"old": None, "new": None}]
    event = event_of(changed("bitbucket-push", "repo:push", {"push.changes": changes}))
    told = [event, *event.others]
    assert [e.branch for e in told if e.action is Action.BUILD] == ["one", "three"]
    assert [e.action for e in told].count(Action.IGNORED) == 2
    alone = parse(changed("bitbucket-push", "repo:push", {"push.changes": [change_of("--two")]}))
    assert isinstance(alone, Refusal)


def test_how_many_refs_a_push_may_move() -> None:
    changes = [change_of(f"b{number}") for number in range(REFS_PER_PUSH_MAX + 1)]
    most = event_of(changed("bitbucket-push", "repo:push", {"push.changes": changes[1:]}))
    assert len(most.others) == REFS_PER_PUSH_MAX - 1
    more = parse(changed("bitbucket-push", "repo:push", {"push.changes": changes}))
    assert isinstance(more, Refusal)
    assert str(REFS_PER_PUSH_MAX) in more.text
    none = event_of(changed("bitbucket-push", "repo:push", {"push.changes": []}))
    assert none.action is Action.IGNORED


@pytest.mark.parametrize("event", ["pullrequest:created", "pullrequest:updated"])
def test_a_pull_request_is_its_source_branch_at_a_commit_of_which_the_beginning_is_told(
    event: str,
) -> None:
    assert event_of(bitbucket("bitbucket-pull-request", event)) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PULL_REQUEST,
        branch="main",
        ref="refs/heads/changes",
        commit=None,
        commit_prefix=PUSHED[:12],
        stable_identity=("pullrequest", "2", "refs/heads/changes", PUSHED[:12], "main"),
        words=ForgeWords("emma", 2, "Correct a comma"),
        author="emma",
    )


def test_a_pull_request_whose_whole_commit_is_told() -> None:
    changes = {"pullrequest.source.commit.hash": PUSHED}
    event = event_of(changed("bitbucket-pull-request", "pullrequest:created", changes))
    assert (event.commit, event.commit_prefix) == (PUSHED, None)


@pytest.mark.parametrize(
    "name", ["bitbucket-pull-request-fork", "bitbucket-pull-request-fork-gone"]
)
def test_a_forks_pull_request_is_not_built_and_says_so(name: str) -> None:
    """Its branch has the name of one of the repository's: that one must not be built for it."""
    event = event_of(bitbucket(name, "pullrequest:created"))
    assert (event.action, event.reason) == (Action.SKIPPED, NO_FORKS)
    assert (event.ref, event.commit) == ("refs/pull-requests/3/from", FORK[:12])
    assert event.commit_prefix is None
    assert event.is_from_fork


def test_a_pull_request_with_another_target_is_another_build() -> None:
    changes = {"pullrequest.destination.branch.name": "release"}
    first = event_of(bitbucket("bitbucket-pull-request", "pullrequest:updated"))
    other = event_of(changed("bitbucket-pull-request", "pullrequest:updated", changes))
    assert other.branch == "release"
    assert other.stable_identity != first.stable_identity


@pytest.mark.parametrize("event", ["pullrequest:fulfilled", "pullrequest:rejected", "repo:fork"])
def test_other_events_build_nothing(event: str) -> None:
    answer = event_of(bitbucket("bitbucket-pull-request", event))
    assert answer.action is Action.IGNORED
    assert answer.repositories == URLS


@pytest.mark.parametrize(
    ("name", "event", "changes"),
    [
        ("bitbucket-push", "pullrequest:created", {}),
        ("bitbucket-pull-request", "repo:push", {}),
        ("bitbucket-push", "repo:push", {"push.changes.0.new.target.hash": "abc"}),
        ("bitbucket-push", "repo:push", {"repository": None}),
        *(
            ("bitbucket-pull-request", "pullrequest:created", {path: value})
            for path, value in {
                "pullrequest.source.commit.hash": "9bd1ab0dc28",
                "pullrequest.source.commit": None,
                "pullrequest.source.branch.name": "a..b",
                "pullrequest.destination.branch.name": "",
                "pullrequest.id": 0,
            }.items()
        ),
    ],
)
def test_what_is_malformed_is_refused(name: str, event: str, changes: dict[str, object]) -> None:
    answer = parse(changed(name, event, changes))
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert "\n" not in answer.text


def test_the_signature() -> None:
    delivery = bitbucket("bitbucket-push", "repo:push")
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (OTHER_SECRET,), NOW).proof is Proof.WRONG
    longer = Delivery(delivery.headers, delivery.body + b" ")
    assert check_signature(longer, (SECRET,), NOW).proof is Proof.WRONG
    for value in ("(none)", "", "sha256="):
        unsigned = bitbucket("bitbucket-push", "repo:push", X_Hub_Signature=value)
        assert check_signature(unsigned, (SECRET,), NOW).proof is Proof.MISSING
    sha1 = bitbucket("bitbucket-push", "repo:push", X_Hub_Signature="sha1=" + "0" * 40)
    assert check_signature(sha1, (SECRET,), NOW).proof is Proof.WRONG
