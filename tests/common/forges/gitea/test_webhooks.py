"""common.forges.gitea.webhooks: whole bodies as Gitea and Forgejo send them (docs/FACTS.md)."""

import json

import pytest

from ci.operations import Event
from common.forge_words import ForgeWords
from common.forges.gitea.webhooks import check_signature, parse
from common.forges.github import webhooks as github_module
from common.forges.registry import forge_of
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Action, ForgeEvent, Refusal
from common.forges.shared.signatures import Proof
from tests.common.forges.deliveries import (
    BEFORE,
    FORK,
    GITEA_URL,
    NOW,
    OTHER_SECRET,
    PUSHED,
    SECRET,
    TAG_OBJECT,
    body_of,
    gitea,
)

URLS = (
    GITEA_URL,
    "git@gitea.example.org:anna/werkzeug.git",
    "https://gitea.example.org/anna/werkzeug",
)


def event_of(delivery: Delivery) -> ForgeEvent:
    event = parse(delivery)
    assert isinstance(event, ForgeEvent), event
    return event


def changed(changes: dict[str, object]) -> Delivery:
    """A pull request with other values at some paths, unsigned."""
    return Delivery.of([("X-Gitea-Event", "pull_request")], body_of("gitea-pull-request", changes))


@pytest.mark.parametrize("is_forgejo", [False, True])
@pytest.mark.parametrize("is_form", [False, True])
def test_a_push(is_form: bool, is_forgejo: bool) -> None:
    delivery = gitea("gitea-push", "push", is_form=is_form, is_forgejo=is_forgejo)
    assert forge_of(delivery) == "gitea", "although X-GitHub-Event is there too"
    assert delivery.has("x-github-event")
    assert event_of(delivery) == ForgeEvent(
        action=Action.BUILD,
        repositories=URLS,
        event=Event.PUSH,
        branch="main",
        commit=PUSHED,
        stable_identity=("refs/heads/main", PUSHED),
        words=ForgeWords("anna"),
        before=BEFORE,
    )


def test_a_tag() -> None:
    event = event_of(gitea("gitea-push-tag", "push"))
    assert (event.event, event.ref, event.commit) == (Event.TAG, "refs/tags/v1.0.0", PUSHED)
    assert event.stable_identity == ("refs/tags/v1.0.0", TAG_OBJECT)


def test_a_deletion_is_told_by_the_zeros_alone() -> None:
    assert "deleted" not in json.loads(body_of("gitea-push-deleted"))
    assert event_of(gitea("gitea-push-deleted", "push")).action is Action.IGNORED


def test_a_test_delivery_names_no_commit_and_builds_nothing() -> None:
    body = json.loads(body_of("gitea-test-delivery"))
    assert body["before"] == body["after"] == "0" * 40
    event = event_of(gitea("gitea-test-delivery", "push"))
    assert event.action is Action.IGNORED
    assert "test delivery" in event.reason


def test_a_pull_request() -> None:
    event = event_of(gitea("gitea-pull-request", "pull_request"))
    assert (event.event, event.branch, event.ref) == (
        Event.PULL_REQUEST,
        "main",
        "refs/pull/2/head",
    )
    assert (event.commit, event.is_from_fork) == (PUSHED, False)


def test_a_pull_request_of_a_fork() -> None:
    event = event_of(gitea("gitea-pull-request-fork", "pull_request"))
    assert (event.action, event.commit, event.is_from_fork) == (Action.BUILD, FORK, True)
    assert event.repositories == URLS


@pytest.mark.parametrize("ref", ["refs/pull/2/head", ""])
def test_a_request_by_agit_claims_the_repository_and_counts_as_a_forks(ref: str) -> None:
    """Whoever may read can make one: its head's repository is the base's, its ref no branch."""
    delivery = changed({"pull_request.head.label": "", "pull_request.head.ref": ref})
    request = json.loads(delivery.body)["pull_request"]
    assert request["head"]["repo"] == request["base"]["repo"]
    assert event_of(delivery).is_from_fork


def test_a_pull_request_with_another_base_is_a_build_of_its_own() -> None:
    delivery = changed({"action": "edited", "changes": {"ref": {"from": "dev"}}})
    event = event_of(delivery)
    assert (event.action, event.branch, event.commit) == (Action.BUILD, "main", PUSHED)
    moment = json.loads(delivery.body)["pull_request"]["updated_at"]
    assert event.stable_identity == ("refs/pull/2/head", PUSHED, "main", moment)
    retitled = changed({"action": "edited", "changes": {"title": {"from": "x"}}})
    assert event_of(retitled).action is Action.IGNORED


def test_a_pull_request_whose_head_is_the_same() -> None:
    event = event_of(gitea("gitea-pull-request-labelled", "pull_request"))
    assert event.action is Action.IGNORED


def test_skip_ci_in_any_case() -> None:
    event = event_of(gitea("gitea-push-skip", "push"))
    assert event.action is Action.SKIPPED
    assert "[CI SKIP]" in event.reason


@pytest.mark.parametrize("event", ["create", "delete", "fork", "issues", "release"])
def test_other_events_build_nothing(event: str) -> None:
    assert event_of(gitea("gitea-push", event)).action is Action.IGNORED


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_a_body_of_another_event_is_refused(event: str) -> None:
    name = "gitea-push" if event == "pull_request" else "gitea-pull-request"
    assert isinstance(parse(gitea(name, event)), Refusal)


# --- the signature --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_form", [False, True])
def test_the_signature_is_over_the_json_also_inside_a_form(is_form: bool) -> None:
    delivery = gitea("gitea-push", "push", is_form=is_form)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID
    assert check_signature(delivery, (OTHER_SECRET,), NOW).proof is Proof.WRONG
    assert check_signature(delivery, (), NOW).proof is Proof.WRONG
    # what GitHub would look at is another thing there
    as_github = github_module.check_signature(delivery, (SECRET,), NOW).proof
    assert as_github is (Proof.WRONG if is_form else Proof.VALID)


def test_the_signature_is_bare_hex() -> None:
    good = gitea("gitea-push", "push").header("x-gitea-signature")
    assert good is not None
    prefixed = gitea("gitea-push", "push", X_Gitea_Signature=f"sha256={good}")
    assert check_signature(prefixed, (SECRET,), NOW).proof is Proof.WRONG


def test_without_a_secret_it_sends_empty_signatures_which_are_missing_ones() -> None:
    delivery = gitea("gitea-push", "push", secret=None)
    assert delivery.headers["x-gitea-signature"] == ("",)
    assert delivery.headers["x-hub-signature-256"] == ("sha256=",)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.MISSING


def test_a_bad_signature_is_not_made_up_for_by_another_header() -> None:
    delivery = gitea("gitea-push", "push", X_Gitea_Signature="0" * 64)
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.WRONG


def test_only_the_hub_signature_will_do_too() -> None:
    delivery = gitea("gitea-push", "push", X_Gitea_Signature="(none)")
    assert check_signature(delivery, (SECRET,), NOW).proof is Proof.VALID


def test_a_form_with_two_payloads_is_refused() -> None:
    """One could be what is signed, the other one what is read."""
    delivery = gitea("gitea-push", "push", is_form=True)
    twice = Delivery(delivery.headers, delivery.body + b"&payload=%7B%7D")
    assert check_signature(twice, (SECRET,), NOW).proof is Proof.WRONG
    assert isinstance(parse(twice), Refusal)
