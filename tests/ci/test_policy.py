"""What a consumer demands is matched by digest, and every mismatch is named."""

import msgspec
import pytest

from ci.operations import Outcome
from ci.policy import Policy, artifacts, is_green, mismatches, proved_commits
from ci.statement import StatementView, Subject, parse_statement
from tests.ci.builders import COMMIT, FAILED, PASSED, SKIPPED, World, finding

REPOSITORY = "https://example.org/r.git"


def statement_of(*ballots: object) -> StatementView:
    world = World()
    build = world.open(commit=None if ballots == (None,) else COMMIT)
    if ballots == (None,):
        found = finding(Outcome.CHECKOUT_FAILED, 128, commit=None, pipeline_sha256=None)
        ballots = (found, found)
    for index, ballot in enumerate(ballots):
        world.cast(build, index, ballot)  # type: ignore[arg-type]
    return parse_statement(bytes(world.verdict_entries()[0].statement))


def with_artifact(statement: StatementView, path: str, sha256: str) -> StatementView:
    subject = (*statement.subject, Subject(path, {"sha256": sha256}))
    return msgspec.structs.replace(statement, subject=subject)


def test_an_empty_policy_takes_everything() -> None:
    assert mismatches(statement_of(PASSED, PASSED, PASSED), Policy()) == []
    assert mismatches(statement_of(None), Policy()) == []


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Policy(commit="d" * 40), "d" * 40),
        (Policy(repository="https://example.org/other.git"), "other.git"),
        (Policy(artifact_sha256="e" * 64), "no artifact"),
        (Policy(target="refs/heads/master"), "not named, not refs/heads/master"),
    ],
)
def test_a_mismatch_says_what_was_asked_for(policy: Policy, says: str) -> None:
    found = mismatches(statement_of(PASSED, PASSED, PASSED), policy)
    assert len(found) == 1
    assert says in found[0]


def test_what_was_asked_for_matches() -> None:
    statement = with_artifact(statement_of(PASSED, PASSED, PASSED), "dist/a", "e" * 64)
    repository = statement.verdict.repository
    policy = Policy(repository=repository, commit=COMMIT, artifact_sha256="e" * 64)
    assert mismatches(statement, policy) == []


def test_the_digest_of_the_request_is_no_artifact() -> None:
    statement = statement_of(PASSED, PASSED, PASSED)
    request = statement.subject[0].digest["sha256"]
    assert artifacts(statement) == {}
    assert mismatches(statement, Policy(artifact_sha256=request)) != []


def test_a_commit_that_was_only_asked_for_is_not_proved() -> None:
    """Where the replicas agreed on no commit, the statement has none as its subject."""
    statement = statement_of(None)
    assert proved_commits(statement) == ()
    assert "no commit" in mismatches(statement, Policy(commit=COMMIT))[0]


def test_only_passed_is_green() -> None:
    assert is_green(statement_of(PASSED, PASSED, PASSED))
    assert not is_green(statement_of(FAILED, FAILED))
    assert not is_green(statement_of(SKIPPED, SKIPPED))
