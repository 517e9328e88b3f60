"""common.forges.github.webhooks: whole bodies as GitHub sends them (docs/FACTS.md)."""

from collections.abc import Mapping

import pytest

from ci.operations import Event
from common.forge_words import ForgeWords
from common.forges.github.webhooks import check_signature, parse
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Action, ForgeEvent, Refusal
from common.forges.shared.signatures import Proof
from tests.common.forges.deliveries import (
    BEFORE,
    FORK,
    GITHUB_URL,
    NOW,
    OTHER_SECRET,
    PUSHED,
    QUEUE_REF,
    SECRET,
    TAG_OBJECT,
    body_of,
    github,
)

URLS = (
    GITHUB_URL,
    "git@github.com:Codertocat/hello-world.git",
    "https://github.com/Codertocat/hello-world",
)


def event_of(delivery: Delivery) -> ForgeEvent:
    event = parse(delivery)
    assert isinstance(event, ForgeEvent), event
    return event


def changed(name: str, event: str, changes: Mapping[str, object]) -> Delivery:
    """A body with other values at some paths, unsigned."""
    return Delivery.of([("X-GitHub-Event", event)], body_of(name, changes))


@pytest.mark.parametrize("is_form", [False, True])
def test_a_push(is_form: bool) -> None:
    delivery = github("github-push", "push", is_form=is_form)
    assert event_of(delivery) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PUSH,
        branch="main",
        ref=None,
        commit=PUSHED,
        stable_identity=("refs/heads/main", PUSHED),
        words=ForgeWords("Codertocat"),
        before=BEFORE,
    )


def test_a_tag_comes_as_a_push_and_its_commit_is_the_heads() -> None:
    event = event_of(github("github-push-tag", "push"))
    assert (event.event, event.branch, event.ref) == (Event.TAG, "v1.0.0", "refs/tags/v1.0.0")
    assert event.commit == PUSHED
    assert event.stable_identity == ("refs/tags/v1.0.0", TAG_OBJECT)


def test_the_commit_of_a_branch_is_what_it_points_at() -> None:
    """Whatever else the body says: it is what the delivery is known by."""
    other = {"id": FORK, "message": "another"}
    assert event_of(changed("github-push", "push", {"head_commit": other})).commit == PUSHED


def test_a_deletion_builds_nothing() -> None:
    event = event_of(github("github-push-deleted", "push"))
    assert event.action is Action.IGNORED
    assert "deleted" in event.reason
    # also where only the zeros say so
    zeros = changed("github-push-deleted", "push", {"deleted": False})
    assert event_of(zeros).action is Action.IGNORED


def test_a_repository_with_sha256_ids() -> None:
    commit = "ab" * 32
    event = event_of(changed("github-push", "push", {"after": commit, "head_commit": None}))
    assert event.commit == commit
    zeros = changed("github-push-deleted", "push", {"after": "0" * 64, "deleted": False})
    assert event_of(zeros).action is Action.IGNORED


def test_a_pull_request_of_the_repository_itself() -> None:
    event = event_of(github("github-pull-request", "pull_request"))
    assert event == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PULL_REQUEST,
        branch="main",
        ref="refs/pull/2/head",
        commit=PUSHED,
        stable_identity=("refs/pull/2/head", PUSHED),
        words=ForgeWords("Codertocat", 2, "Update the README with new information."),
        author="Codertocat",
        is_from_fork=False,
    )


@pytest.mark.parametrize("name", ["github-pull-request-fork", "github-pull-request-fork-gone"])
def test_a_pull_request_of_a_fork_even_of_one_that_is_gone(name: str) -> None:
    event = event_of(github(name, "pull_request"))
    assert (event.action, event.commit, event.is_from_fork) == (Action.BUILD, FORK, True)
    assert event.repositories == URLS, "the repository's, never the fork's"


@pytest.mark.parametrize(
    "action", ["closed", "edited", "labeled", "assigned", "ready_for_review", "converted_to_draft"]
)
def test_a_pull_request_whose_head_is_the_same_builds_nothing(action: str) -> None:
    event = event_of(changed("github-pull-request", "pull_request", {"action": action}))
    assert event.action is Action.IGNORED
    assert action in event.reason


def test_a_pull_request_with_another_base_is_a_build_of_its_own() -> None:
    """Also where it had that base before: in between it was built, and told, for another one."""
    changes = {"base": {"ref": {"from": "dev"}, "sha": {"from": BEFORE}}}
    identities = []
    for moment in ("2019-05-15T15:20:33Z", "2019-05-15T15:21:33Z"):
        edited = {"action": "edited", "changes": changes, "pull_request.updated_at": moment}
        event = event_of(changed("github-pull-request", "pull_request", edited))
        assert (event.action, event.branch, event.commit) == (Action.BUILD, "main", PUSHED)
        identities.append(event.stable_identity)
    assert identities[0] == ("refs/pull/2/head", PUSHED, "main", "2019-05-15T15:20:33Z")
    assert identities[1] != identities[0]
    retitled = {"action": "edited", "changes": {"title": {"from": "x"}}}
    event = event_of(changed("github-pull-request", "pull_request", retitled))
    assert event.action is Action.IGNORED


@pytest.mark.parametrize("action", ["opened", "reopened", "synchronize"])
def test_a_pull_request_with_a_new_head_is_built(action: str) -> None:
    event = event_of(changed("github-pull-request", "pull_request", {"action": action}))
    assert event.action is Action.BUILD


def test_a_ping_of_a_repository_and_of_an_organization() -> None:
    assert event_of(github("github-ping", "ping")) == ForgeEvent(
        action=Action.PING, repositories=URLS, reason="ping"
    )
    assert event_of(github("github-ping-organization", "ping")).repositories == ()


def test_other_events_build_nothing() -> None:
    event = event_of(github("github-ping", "star"))
    assert event.action is Action.IGNORED
    assert "'star'" in event.reason


def test_skip_ci_in_the_head_commits_message() -> None:
    event = event_of(github("github-push-skip", "push"))
    assert event.action is Action.SKIPPED
    assert "[skip ci]" in event.reason
    assert event.commit == PUSHED


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("push", "github-pull-request"),
        ("push", "github-ping"),
        ("pull_request", "github-push"),
    ],
)
def test_a_body_under_another_events_name_is_refused(event: str, name: str) -> None:
    """The header is not signed: it cannot make one event of another."""
    answer = parse(github(name, event))
    assert isinstance(answer, Refusal)
    assert answer.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"ref": 1},
        {"ref": "refs/heads/a..b"},
        {"ref": "refs/heads/" + "x" * 300},
        {"after": "abc"},
        {"after": PUSHED.upper()},
        {"repository": []},
        {"repository": None},
    ],
)
def test_a_push_that_is_malformed_is_refused(fields: dict[str, object]) -> None:
    answer = parse(changed("github-push", "push", fields))
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert "\n" not in answer.text


def test_a_tag_whose_commit_is_none_is_refused() -> None:
    head = {"id": "--upload-pack=x", "message": ""}
    answer = parse(changed("github-push-tag", "push", {"head_commit": head}))
    assert isinstance(answer, Refusal)
    assert answer.status == 400


def test_a_ref_that_is_neither_branch_nor_tag_builds_nothing() -> None:
    event = event_of(changed("github-push", "push", {"ref": "refs/notes/commits"}))
    assert event.action is Action.IGNORED


def test_a_merge_group_is_what_its_base_would_become() -> None:
    assert event_of(github("github-merge-group", "merge_group")) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.MERGE_GROUP,
        branch="main",
        ref=QUEUE_REF,
        commit=PUSHED,
        stable_identity=(QUEUE_REF, PUSHED),
    )


@pytest.mark.parametrize("reason", ["merged", "invalidated", "dequeued"])
def test_a_merge_group_that_is_destroyed_is_the_one_that_was_requested(reason: str) -> None:
    asked = event_of(github("github-merge-group", "merge_group"))
    changes = {"reason": reason}
    event = event_of(changed("github-merge-group-destroyed", "merge_group", changes))
    assert event.action is Action.CANCEL
    assert reason in event.reason
    assert (event.stable_identity, event.branch) == (asked.stable_identity, asked.branch)
    other = event_of(changed("github-merge-group", "merge_group", {"action": "renamed"}))
    assert other.action is Action.IGNORED


@pytest.mark.parametrize(
    "fields",
    [
        {"head_sha": "abc"},
        {"head_ref": "refs/heads/main"},
        {"head_ref": f"refs/heads/gh-readonly-queue/other/pr-104-{BEFORE}"},
        {"head_ref": "refs/heads/gh-readonly-queue/main/a..b"},
        {"base_ref": "refs/heads/"},
    ],
)
def test_a_merge_group_that_is_malformed_is_refused(fields: dict[str, object]) -> None:
    changes = {f"merge_group.{name}": value for name, value in fields.items()}
    answer = parse(changed("github-merge-group", "merge_group", changes))
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert "\n" not in answer.text


# --- the signature --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_form", [False, True])
def test_the_signature_is_over_the_raw_body(is_form: bool) -> None:
    delivery = github("github-push", "push", is_form=is_form)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (OTHER_SECRET,), NOW).proof is Proof.WRONG
    tampered = Delivery(delivery.headers, delivery.body + b" ")
    assert check_signature(tampered, (SECRET,), NOW).proof is Proof.WRONG


def test_a_form_signed_over_its_json_is_not_githubs() -> None:
    over_json = dict(github("github-push", "push").headers)
    form = github("github-push", "push", is_form=True)
    mixed = Delivery(
        form.headers | {"x-hub-signature-256": over_json["x-hub-signature-256"]}, form.body
    )
    assert check_signature(mixed, (SECRET,), NOW).proof is Proof.WRONG


@pytest.mark.parametrize("value", ["(none)", "", "sha256=", " "])
def test_an_empty_signature_is_a_missing_one(value: str) -> None:
    delivery = github("github-push", "push", X_Hub_Signature_256=value)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.MISSING


def test_the_legacy_signature_counts_for_nothing() -> None:
    delivery = github(
        "github-push", "push", X_Hub_Signature_256="(none)", X_Hub_Signature="sha1=" + "0" * 40
    )
    answer = check_signature(delivery, (SECRET,), NOW)
    assert answer.proof is Proof.WRONG
    assert "SHA-1" in answer.reason


@pytest.mark.parametrize("before", ["0" * 40, "", "HEAD", None, PUSHED.upper()])
def test_what_is_no_commit_before_a_push_is_left_out(before: str | None) -> None:
    """A new branch says zeros; and nobody is refused for what only orders builds."""
    event = event_of(changed("github-push", "push", {"before": before}))
    assert (event.action, event.commit, event.before) == (Action.BUILD, PUSHED, None)


def test_a_pull_request_whose_head_changed_says_from_where() -> None:
    assert event_of(github("github-pull-request-fork", "pull_request")).before == BEFORE
    assert event_of(github("github-pull-request", "pull_request")).before is None
