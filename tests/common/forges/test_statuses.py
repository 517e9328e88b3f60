"""common.statuses: the request that each forge documents, and what its answers mean."""

import json
from email.utils import formatdate
from typing import get_args

import pytest

from common.forges.bitbucket import statuses as bitbucket
from common.forges.bitbucket_data_center import statuses as data_center
from common.forges.gitea import statuses as gitea
from common.forges.github import statuses as github
from common.forges.gitlab import statuses as gitlab
from common.forges.registry import ForgeKind, statuses_of
from common.forges.shared.status import (
    RETRY_AFTER_SECONDS_MAX,
    CommitStatus,
    Later,
    Meaning,
    Posted,
    Rejected,
    State,
    Unseen,
    WrongToken,
)
from common.statuses.status_texts import context_of, description_of, ref_of_status, state_of

COMMIT = "9bd1ab0dc28e7ac4f6ee7cc2bdc4cd9f4d7c3a52"
NOW = 1_760_000_000.0
STATUS = CommitStatus(
    COMMIT, "pbft-ci", State.SUCCESS, "4 of 4 replicas: exit 0", "https://ci.example.org/b", "main"
)


def test_github() -> None:
    request = github.request("https://api.github.com", "owner/name", "secret", status=STATUS)
    assert request.url == f"https://api.github.com/repos/owner/name/statuses/{COMMIT}"
    assert request.headers["Authorization"] == "Bearer secret"
    assert json.loads(request.body) == {
        "state": "success",
        "target_url": "https://ci.example.org/b",
        "description": "4 of 4 replicas: exit 0",
        "context": "pbft-ci",
    }


def test_gitlab() -> None:
    request = gitlab.request("https://gitlab.com/api/v4", "group/sub/name", "secret", status=STATUS)
    assert request.url == (
        f"https://gitlab.com/api/v4/projects/group%2Fsub%2Fname/statuses/{COMMIT}"
    )
    assert request.headers["PRIVATE-TOKEN"] == "secret"
    assert json.loads(request.body) == {
        "state": "success",
        "ref": "main",
        "name": "pbft-ci",
        "target_url": "https://ci.example.org/b",
        "description": "4 of 4 replicas: exit 0",
    }


def test_gitea() -> None:
    request = gitea.request(
        "https://gitea.example.org/api/v1", "owner/name", "secret", status=STATUS
    )
    assert request.url == (f"https://gitea.example.org/api/v1/repos/owner/name/statuses/{COMMIT}")
    assert request.headers["Authorization"] == "token secret"
    assert set(json.loads(request.body)) == {"state", "target_url", "description", "context"}


def test_bitbucket() -> None:
    api = "https://api.bitbucket.org/2.0"
    request = bitbucket.request(api, "emma/webapp", "secret", status=STATUS)
    assert request.url == f"{api}/repositories/emma/webapp/commit/{COMMIT}/statuses/build"
    assert request.headers["Authorization"] == "Bearer secret"
    assert json.loads(request.body) == {
        "key": "pbft-ci",
        "state": "SUCCESSFUL",
        "name": "pbft-ci",
        "url": "https://ci.example.org/b",
        "description": "4 of 4 replicas: exit 0",
        "refname": "main",
    }


def test_a_key_of_bitbucket_has_at_most_40_characters_and_no_two_have_the_same() -> None:
    contexts = [f"pbft-ci/{'x' * length}" for length in range(1, 100)]
    keys = [bitbucket.key_of(context) for context in contexts]
    assert keys[:32] == contexts[:32]
    assert len(keys[31]) == 40
    assert {len(key) for key in keys[32:]} == {40}
    assert len(set(keys)) == len(keys)
    assert keys[32].startswith(f"{contexts[32][:23]}~")


@pytest.mark.parametrize("project", ["TOOL/werkzeug", "scm/TOOL/werkzeug"])
def test_bitbucket_data_center(project: str) -> None:
    api = "https://bitbucket.example.org/rest/api/latest"
    request = data_center.request(api, project, "secret", status=STATUS)
    assert request.url == f"{api}/projects/TOOL/repos/werkzeug/commits/{COMMIT}/builds"
    assert request.headers["Authorization"] == "Bearer secret"
    assert json.loads(request.body) == {
        "key": "pbft-ci",
        "state": "SUCCESSFUL",
        "name": "pbft-ci",
        "url": "https://ci.example.org/b",
        "description": "4 of 4 replicas: exit 0",
    }


def test_bitbucket_gets_an_address_from_who_has_none() -> None:
    """It refuses a status without one."""
    status = CommitStatus(COMMIT, "pbft-ci", State.PENDING, "waits")
    for forge in (bitbucket, data_center):
        assert json.loads(forge.request("https://h", "o/n", "t", status=status).body)["url"]


def test_the_words_of_each_forge_for_our_states() -> None:
    assert github.STATES | {} == {
        State.PENDING: "pending",
        State.SUCCESS: "success",
        State.FAILURE: "failure",
        State.ERROR: "error",
        State.CANCELLED: "error",
        State.SKIPPED: "pending",
    }
    assert gitlab.STATES[State.FAILURE] == gitlab.STATES[State.ERROR] == "failed"
    assert gitlab.STATES[State.CANCELLED] == "canceled"
    assert gitea.STATES[State.SKIPPED] == gitlab.STATES[State.SKIPPED] == "skipped"
    for forge in (github, gitlab, gitea, bitbucket, data_center):
        assert set(forge.STATES) == set(State)
        green = [s for s, word in forge.STATES.items() if word in ("success", "SUCCESSFUL")]
        assert green == [State.SUCCESS], "nothing but a verdict is green"


@pytest.mark.parametrize(("forge", "most"), [("github", 140), ("gitlab", 255), ("bitbucket", 255)])
def test_a_description_is_cut_to_what_the_forge_takes(forge: ForgeKind, most: int) -> None:
    long = CommitStatus(COMMIT, "pbft-ci", State.ERROR, "é" * 1000)
    request = statuses_of(forge).request("https://h", "o/n", "t", status=long)
    fields = json.loads(request.body)
    assert len(fields["description"]) == most
    assert fields["description"].endswith("...")
    assert "target_url" not in fields
    assert "ref" not in fields


def meaning(forge: ForgeKind, status: int, body: object = None, **headers: str) -> Meaning:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return statuses_of(forge).meaning(status, given, json.dumps(body).encode(), now=NOW)


@pytest.mark.parametrize("forge", get_args(ForgeKind))
def test_what_the_answers_mean(forge: ForgeKind) -> None:
    assert meaning(forge, 201) == Posted()
    assert meaning(forge, 200) == Posted()
    for status in (500, 502, 503, 504, 408, 409):
        assert isinstance(meaning(forge, status), Later)
    assert isinstance(meaning(forge, 404), Unseen)
    for status in (400, 410, 422, 302):
        assert isinstance(meaning(forge, status), Rejected)
    for status in (401, 403):
        assert isinstance(meaning(forge, status), WrongToken)
    assert meaning(forge, 429, retry_after="7") == Later("too many requests (429: null)", 7.0)


@pytest.mark.parametrize(
    ("forge", "scope"),
    [
        ("github", "repo:status"),
        ("gitlab", "`api`"),
        ("gitea", "write:repository"),
        ("bitbucket", "repository:write"),
        ("bitbucket_data_center", "Repository write"),
    ],
)
def test_a_wrong_token_is_told_with_the_scope_that_it_needs(forge: ForgeKind, scope: str) -> None:
    for status in (401, 403):
        answer = meaning(forge, status, {"message": "no\nway\x1b[31m"})
        assert isinstance(answer, WrongToken)
        assert scope in answer.reason
        assert answer.reason.isprintable()


def test_githubs_rate_limits_are_no_wrong_token() -> None:
    reset = str(int(NOW) + 90)
    primary = meaning("github", 403, x_ratelimit_remaining="0", x_ratelimit_reset=reset)
    assert isinstance(primary, Later)
    assert primary.seconds == 90.0
    secondary = meaning("github", 403, retry_after="60")
    assert isinstance(secondary, Later)
    assert secondary.seconds == 60.0
    for status in (403, 429):
        bare = meaning("github", status, {"message": "You have exceeded a secondary rate limit."})
        assert isinstance(bare, Later), "GitHub documents no header for every one of them"
        assert bare.seconds == 60.0
    left = meaning("github", 403, x_ratelimit_remaining="4999", x_ratelimit_reset=reset)
    assert isinstance(left, WrongToken)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("999999999", RETRY_AFTER_SECONDS_MAX),
        ("9" * 400, None),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 2020 00:00:00 +99999999999999", None),
        ("Mon, 01 Jan 20200000000000000000 00:00:00 GMT", None),
        ("Mon, 01 Jan 4444420800 00:00:00 GMT", None),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), RETRY_AFTER_SECONDS_MAX),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_is_bounded(
    value: str, seconds: float | None
) -> None:
    answer = meaning("gitea", 429, retry_after=value)
    assert isinstance(answer, Later)
    assert answer.seconds == seconds


def test_gitlab_told_what_it_has_already() -> None:
    same = "Cannot transition status via :enqueue from :pending (Reason(s): Status cannot ...)"
    assert meaning("gitlab", 400, {"message": same}) == Posted()
    other = "Cannot transition status via :enqueue from :running (Reason(s): Status cannot ...)"
    assert isinstance(meaning("gitlab", 400, {"message": other}), Rejected)
    assert isinstance(meaning("gitea", 400, {"message": same}), Rejected)


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "exit_code", "agreeing", "state", "text"),
    [
        ("passed", 0, 3, State.SUCCESS, "3 of 4 replicas: exit 0"),
        ("failed", 7, 2, State.FAILURE, "2 of 4 replicas: exit 7"),
        ("timed_out", None, 2, State.FAILURE, "2 of 4 replicas: timed out"),
        ("out_of_memory", None, 4, State.FAILURE, "4 of 4 replicas: out of memory"),
        ("checkout_failed", 128, 2, State.FAILURE, "2 of 4 replicas: checkout failed"),
        ("skipped", None, 2, State.SKIPPED, "2 of 4 replicas: skipped, no step is for this"),
        ("cancelled", None, 0, State.CANCELLED, "cancelled"),
        ("disputed", None, 0, State.ERROR, "disputed"),
    ],
)
def test_what_is_said_of_a_verdict(
    outcome: str, exit_code: int | None, agreeing: int, state: State, text: str
) -> None:
    assert state_of(outcome) is state
    assert description_of(outcome, exit_code, agreeing, replicas=4) == text


def test_a_dispute_says_who_found_what() -> None:
    found = [("passed", 0, 2), ("failed", 1, 2)]
    assert description_of("disputed", None, 0, replicas=4, found=found) == (
        "disputed among 4 replicas: 2 found exit 0, 2 found exit 1"
    )


def test_the_name_of_a_status_is_of_what_was_built() -> None:
    assert context_of(None, "push") == context_of(None, "tag") == "pbft-ci"
    assert context_of("node1", "pull_request") == "pbft-ci/node1/pr"
    assert context_of(None, "merge_group") == context_of(None, "pull_request") == "pbft-ci/pr"
    assert context_of(None, "cron", "nightly") == "pbft-ci/cron/nightly"
    assert context_of("node1", "cron", "nightly") == "pbft-ci/node1/cron/nightly"
    assert ref_of_status("cron", "main") == ref_of_status("push", "main") == "main"
    assert ref_of_status("merge_group", "main") is None
