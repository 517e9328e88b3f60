"""common.forges.bitbucket_data_center.webhooks: bodies as documented (docs/FACTS.md)."""

from collections.abc import Mapping

import pytest

from ci.operations import Event
from common.forge_words import ForgeWords
from common.forges.bitbucket_data_center.webhooks import check_signature, parse
from common.forges.registry import forge_of
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Action, ForgeEvent, Refusal
from common.forges.shared.signatures import Proof
from tests.common.forges.deliveries import (
    BEFORE,
    DATA_CENTER_URL,
    FORK,
    NOW,
    OTHER_SECRET,
    PUSHED,
    SECRET,
    TAG_OBJECT,
    body_of,
    data_center,
)

URLS = (
    DATA_CENTER_URL,
    "ssh://git@bitbucket.example.org:7999/tool/werkzeug.git",
    "https://bitbucket.example.org/projects/TOOL/repos/werkzeug/browse",
)
PUSH = "repo:refs_changed"


def event_of(delivery: Delivery) -> ForgeEvent:
    event = parse(delivery)
    assert isinstance(event, ForgeEvent), event
    return event


def changed(name: str, changes: Mapping[str, object]) -> Delivery:
    """A body with other values at some paths, unsigned; it names its event itself."""
    return Delivery.of([], body_of(name, changes))


def test_it_is_told_by_its_header() -> None:
    assert forge_of(data_center("bitbucket-data-center-push", PUSH)) == "bitbucket_data_center"


def test_a_push() -> None:
    assert event_of(data_center("bitbucket-data-center-push", PUSH)) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PUSH,
        branch="main",
        commit=PUSHED,
        stable_identity=("refs/heads/main", PUSHED),
        words=ForgeWords("anna"),
        before=BEFORE,
    )


def test_of_a_tag_the_commit_has_to_be_asked_for() -> None:
    """What it tells may be the tag object; whatever it is, it is what the delivery is known by."""
    event = event_of(data_center("bitbucket-data-center-push-tag", PUSH))
    assert (event.event, event.branch, event.ref) == (Event.TAG, "v1.0.0", "refs/tags/v1.0.0")
    assert (event.commit, event.commit_prefix) == (None, "")
    assert event.stable_identity == ("refs/tags/v1.0.0", TAG_OBJECT)


def test_a_deletion_and_skip_ci() -> None:
    gone = event_of(data_center("bitbucket-data-center-push-deleted", PUSH))
    assert gone.action is Action.IGNORED
    skipped = changed("bitbucket-data-center-push", {"toCommit.message": "Comma [ci skip]"})
    assert event_of(skipped).action is Action.SKIPPED
    other = {"toCommit.message": "Comma [ci skip]", "toCommit.id": FORK}
    assert event_of(changed("bitbucket-data-center-push", other)).action is Action.BUILD


def test_a_push_of_several_refs() -> None:
    change = {"fromHash": BEFORE, "toHash": PUSHED, "type": "UPDATE"}
    changes = [{**change, "refId": f"refs/heads/{name}"} for name in ("one", "two")]
    event = event_of(changed("bitbucket-data-center-push", {"changes": changes}))
    assert [e.branch for e in (event, *event.others)] == ["one", "two"]


@pytest.mark.parametrize("key", ["pr:opened", "pr:reopened", "pr:from_ref_updated"])
def test_a_pull_request_of_the_repository_itself(key: str) -> None:
    changes = {"eventKey": key, "previousFromHash": BEFORE}
    assert event_of(changed("bitbucket-data-center-pull-request", changes)) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PULL_REQUEST,
        branch="main",
        ref="refs/pull-requests/11/from",
        commit=PUSHED,
        stable_identity=("refs/pull-requests/11/from", PUSHED),
        words=ForgeWords("anna", 11, "Correct a comma"),
        author="anna",
        before=BEFORE,
    )


def test_a_pull_request_of_a_fork() -> None:
    event = event_of(data_center("bitbucket-data-center-pull-request-fork", "pr:opened"))
    assert (event.action, event.commit, event.is_from_fork) == (Action.BUILD, FORK, True)
    assert event.repositories == URLS, "the repository's, never the fork's"


def test_a_pull_request_that_was_modified_is_built_for_another_target_alone() -> None:
    name = "bitbucket-data-center-pull-request-retitled"
    assert event_of(data_center(name, "pr:modified")).action is Action.IGNORED
    event = event_of(changed(name, {"previousTarget.displayId": "dev"}))
    assert (event.action, event.branch) == (Action.BUILD, "main")
    assert event.stable_identity == ("refs/pull-requests/11/from", PUSHED, "main", "1772446560000")


def test_a_ping_is_named_by_its_header_alone() -> None:
    assert event_of(data_center("bitbucket-data-center-ping", "diagnostics:ping")) == ForgeEvent(
        action=Action.PING, repositories=(), reason="ping"
    )
    assert event_of(data_center("bitbucket-data-center-ping", PUSH)).action is Action.IGNORED


def test_the_body_and_not_the_header_says_which_event_it_is() -> None:
    delivery = data_center("bitbucket-data-center-push", "diagnostics:ping")
    assert event_of(delivery).event is Event.PUSH
    merged = changed("bitbucket-data-center-pull-request", {"eventKey": "pr:merged"})
    assert event_of(merged).action is Action.IGNORED


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bitbucket-data-center-push", {"eventKey": "pr:opened"}),
        ("bitbucket-data-center-push", {"changes.0.toHash": "abc"}),
        ("bitbucket-data-center-push", {"changes.0.refId": "refs/heads/a..b"}),
        ("bitbucket-data-center-pull-request", {"eventKey": PUSH}),
        ("bitbucket-data-center-pull-request", {"pullRequest.id": 0}),
        ("bitbucket-data-center-pull-request", {"pullRequest.fromRef.latestCommit": "abc"}),
        ("bitbucket-data-center-pull-request", {"pullRequest.toRef.id": "refs/heads/a..b"}),
    ],
)
def test_what_is_malformed_is_refused(name: str, changes: dict[str, object]) -> None:
    answer = parse(changed(name, changes))
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert "\n" not in answer.text


def test_the_signature() -> None:
    delivery = data_center("bitbucket-data-center-push", PUSH)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (OTHER_SECRET,), NOW).proof is Proof.WRONG
    unsigned = data_center("bitbucket-data-center-push", PUSH, secret=None)
    assert check_signature(unsigned, (SECRET,), NOW).proof is Proof.MISSING
