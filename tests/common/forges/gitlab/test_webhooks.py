"""common.forges.gitlab.webhooks: whole bodies as GitLab sends them (docs/FACTS.md)."""

import base64
import json

import pytest

from ci.operations import Event
from common.forge_words import ForgeWords
from common.forges.gitlab.webhooks import check_signature, parse
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Action, ForgeEvent, Refusal
from common.forges.shared.signatures import Proof
from tests.common.forges.deliveries import (
    BEFORE,
    FORK,
    GITLAB_URL,
    NOW,
    OTHER_SECRET,
    PUSHED,
    SECRET,
    TAG_OBJECT,
    body_of,
    gitlab,
    signing_headers,
)

URLS = (
    GITLAB_URL,
    "git@gitlab.example.org:mike/diaspora.git",
    "https://gitlab.example.org/mike/diaspora",
)
KEY = b"\x00\x01a key of thirty-two bytes...!"
SIGNING_TOKEN = b"whsec_" + base64.b64encode(KEY)


def event_of(delivery: Delivery) -> ForgeEvent:
    event = parse(delivery)
    assert isinstance(event, ForgeEvent), event
    return event


def changed(changes: dict[str, object]) -> Delivery:
    """A merge request with other values at some paths."""
    headers = [("X-Gitlab-Event", "Merge Request Hook")]
    return Delivery.of(headers, body_of("gitlab-merge-request", changes))


def test_a_push() -> None:
    assert event_of(gitlab("gitlab-push", "Push Hook")) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PUSH,
        branch="master",
        commit=PUSHED,
        stable_identity=("refs/heads/master", PUSHED),
        words=ForgeWords("jsmith"),
        before=BEFORE,
    )


def test_a_tag() -> None:
    event = event_of(gitlab("gitlab-tag-push", "Tag Push Hook"))
    assert (event.event, event.branch, event.ref) == (Event.TAG, "v1.0.0", "refs/tags/v1.0.0")
    assert event.commit == PUSHED, "checkout_sha, not the tag's own id"
    assert event.stable_identity == ("refs/tags/v1.0.0", TAG_OBJECT)


def test_a_deletion_is_told_by_the_zeros_alone() -> None:
    body = json.loads(body_of("gitlab-push-deleted"))
    assert "deleted" not in body
    assert body["checkout_sha"] is None
    event = event_of(gitlab("gitlab-push-deleted", "Push Hook"))
    assert event.action is Action.IGNORED


def test_a_merge_request() -> None:
    event = event_of(gitlab("gitlab-merge-request", "Merge Request Hook"))
    assert event == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PULL_REQUEST,
        branch="master",
        ref="refs/merge-requests/1/head",
        commit=PUSHED,
        stable_identity=("refs/merge-requests/1/head", PUSHED),
        words=ForgeWords("root", 1, "MS-Viewport"),
        author="root",
    )


def test_a_merge_request_of_a_fork_with_new_commits() -> None:
    event = event_of(gitlab("gitlab-merge-request-fork", "Merge Request Hook"))
    assert (event.action, event.commit, event.is_from_fork) == (Action.BUILD, FORK, True)
    assert event.before == BEFORE
    assert event.repositories == URLS


def test_an_update_without_new_commits_builds_nothing() -> None:
    event = event_of(gitlab("gitlab-merge-request-retitled", "Merge Request Hook"))
    assert event.action is Action.IGNORED


def test_an_update_of_the_target_is_a_build_of_its_own() -> None:
    event = event_of(
        changed(
            {
                "object_attributes.action": "update",
                "object_attributes.updated_at": "2026-01-02 03:04:05 UTC",
                "changes": {"target_branch": {"previous": "dev", "current": "master"}},
            }
        )
    )
    assert (event.action, event.branch) == (Action.BUILD, "master")
    assert event.stable_identity is not None
    assert event.stable_identity[2:] == ("master", "2026-01-02 03:04:05 UTC")


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("open", Action.BUILD),
        ("reopen", Action.BUILD),
        ("close", Action.IGNORED),
        ("merge", Action.IGNORED),
        ("approved", Action.IGNORED),
        ("update", Action.IGNORED),
    ],
)
def test_the_actions_of_a_merge_request(action: str, expected: Action) -> None:
    assert event_of(changed({"object_attributes.action": action})).action is expected


def test_a_source_that_is_gone_counts_as_a_fork() -> None:
    assert event_of(changed({"object_attributes.source_project_id": None})).is_from_fork


def test_skip_ci_counts_in_the_last_commit_only() -> None:
    assert event_of(gitlab("gitlab-push", "Push Hook")).action is Action.BUILD
    event = event_of(gitlab("gitlab-push-skip", "Push Hook"))
    assert event.action is Action.SKIPPED
    assert "[ci skip]" in event.reason
    last = {"id": PUSHED, "message": "docs [skip ci]"}
    request = event_of(changed({"object_attributes.last_commit": last}))
    assert request.action is Action.SKIPPED


def test_other_events_build_nothing() -> None:
    event = event_of(gitlab("gitlab-note", "Note Hook"))
    assert event.action is Action.IGNORED
    assert "'note'" in event.reason


def test_the_body_says_what_it_is_not_the_header() -> None:
    """Neither the token nor the signature covers the header."""
    event = event_of(gitlab("gitlab-push", "Note Hook"))
    assert event.action is Action.BUILD


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("iid", 0), ("iid", "1"), ("target_branch", "a b"), ("last_commit", None)],
)
def test_a_merge_request_that_is_malformed_is_refused(attribute: str, value: object) -> None:
    answer = parse(changed({f"object_attributes.{attribute}": value}))
    assert isinstance(answer, Refusal)
    assert answer.status == 400


# --- token and signature --------------------------------------------------------------------------


def test_the_token() -> None:
    delivery = gitlab("gitlab-push", "Push Hook")
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (OTHER_SECRET,), NOW).proof is Proof.WRONG
    missing = gitlab("gitlab-push", "Push Hook", token=None)
    assert check_signature(missing, (SECRET,), NOW).proof is Proof.MISSING
    empty = gitlab("gitlab-push", "Push Hook", token=b"")
    assert check_signature(empty, (SECRET,), NOW).proof is Proof.MISSING


def signed(name: str, key: bytes, token: bytes | None = None, at: float = NOW) -> Delivery:
    plain = gitlab(name, "Push Hook", token)
    headers = {name: (value,) for name, value in signing_headers(key, plain.body, at).items()}
    return Delivery(plain.headers | headers, plain.body)


def test_the_signature() -> None:
    delivery = signed("gitlab-push", KEY)
    assert check_signature(delivery, (SIGNING_TOKEN,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (SECRET, SIGNING_TOKEN), NOW).proof is Proof.VALID
    old = signed("gitlab-push", KEY, at=NOW - 301)
    assert check_signature(old, (SIGNING_TOKEN,), NOW).proof is Proof.WRONG


def test_a_good_token_never_makes_up_for_a_bad_signature() -> None:
    secrets = (SECRET, SIGNING_TOKEN)
    bad = signed("gitlab-push", b"another key", token=SECRET)
    assert check_signature(bad, secrets, NOW).proof is Proof.WRONG
    old = signed("gitlab-push", KEY, token=SECRET, at=NOW - 301)
    assert check_signature(old, secrets, NOW).proof is Proof.WRONG
    empty = Delivery(bad.headers | {"webhook-signature": ("",)}, bad.body)
    assert check_signature(empty, secrets, NOW).proof is Proof.WRONG


def test_a_signing_token_is_never_taken_as_a_token() -> None:
    delivery = gitlab("gitlab-push", "Push Hook", token=SIGNING_TOKEN)
    assert check_signature(delivery, (SIGNING_TOKEN,), NOW).proof is Proof.WRONG
