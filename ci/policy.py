"""What a consumer demands of a build before using it, beyond that its envelope holds.

The threshold is the consumer's, never the envelope's (DSSE v1.0.2, "threshold"); the subject is
matched by digest, and the name beside it only helps people (in-toto Statement v1).
"""

from collections.abc import Iterable

import msgspec

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.case_results import CaseOutcome, MalformedReport, decode_report, report_sha256
from ci.ledger import STEP_MAY_HAVE_FAILED, STEP_RAN, STEP_SKIPPED
from ci.operations import Outcome
from ci.statement import StatementView


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement must be about. None (and no steps): anything will do."""

    # the URL as it is in requests
    repository: str | None = None
    # the full id, in lower case
    commit: str | None = None
    # of a file that must be an agreed artifact (hex)
    artifact_sha256: str | None = None
    # of the list of all that went in (hex)
    bill_sha256: str | None = None
    # the full name that the commit was proved to be on
    ref: str | None = None
    # what asked for the build
    event: str | None = None
    # the full name of the branch that the pull request is for
    target: str | None = None
    # of the pipeline file (hex)
    pipeline_sha256: str | None = None
    # names of steps that must have run to their end, with 0
    steps: tuple[str, ...] = ()


def mismatches(statement: StatementView, policy: Policy) -> list[str]:
    """Why this verified statement is about something else than the policy asks; one line each."""
    verdict = statement.verdict
    found = []
    if policy.repository is not None and verdict.repository != policy.repository:
        found.append(f"it is about the repository {verdict.repository}, not {policy.repository}")
    if policy.commit is not None and policy.commit not in proved_commits(statement):
        proved = ", ".join(proved_commits(statement)) or "no commit"
        found.append(f"it is about {proved}, not {policy.commit}")
    if policy.ref is not None and verdict.full_ref != policy.ref:
        found.append(f"it is about {verdict.full_ref}, not {policy.ref}")
    if policy.event is not None and verdict.event != policy.event:
        found.append(f"the event is {verdict.event}, not {policy.event}")
    if policy.target is not None and verdict.target != policy.target:
        found.append(f"the target is {verdict.target or 'not named'}, not {policy.target}")
    if policy.pipeline_sha256 is not None:
        pipeline = pipeline_sha256(statement)
        if pipeline != policy.pipeline_sha256:
            found.append(f"the pipeline file is {pipeline or '-'}, not {policy.pipeline_sha256}")
    states = {step.name: step.state for step in verdict.steps}
    found += [
        f"the step {name} {_not_run(states.get(name))}"
        for name in policy.steps
        if states.get(name) != STEP_RAN
    ]
    if policy.artifact_sha256 is not None:
        known = artifacts(statement).values()
        if policy.artifact_sha256 not in known:
            what = f"none of its {len(known)} artifacts" if known else "no artifact: it names none"
            found.append(f"SHA-256 {policy.artifact_sha256} is {what}")
    if policy.bill_sha256 is not None:
        bill = artifacts(statement).get(BILL_OF_MATERIALS)
        if bill != policy.bill_sha256:
            found.append(f"the list of what went in is {bill or '-'}, not {policy.bill_sha256}")
    return found


def case_mismatches(statement: StatementView, report: bytes, required: Iterable[str]) -> list[str]:
    """Why these bytes are not the report of test cases that n - f replicas agreed on, or which of
    the required cases did not run and pass in it; one line each. A case that warned has passed.
    """
    tests = statement.verdict.tests
    if tests is None:
        return ["it says nothing of test cases"]
    if tests.report_sha256 is None:
        return ["the replicas agreed on no report of test cases"]
    if (found := report_sha256(report)) != tests.report_sha256:
        return [
            f"the agreed report of test cases has the SHA-256 {tests.report_sha256}, not {found}"
        ]
    try:
        cases = decode_report(report)
    except MalformedReport as error:
        return [f"the report of test cases is malformed: {error}"]
    ran = (CaseOutcome.PASSED, CaseOutcome.WARNED)
    return [
        f"the test {case} {_not_passed(cases.get(case))}"
        for case in required
        if cases.get(case) not in ran
    ]


def has_warned(statement: StatementView) -> bool:
    """Did the build pass with test cases that warned, as the replicas agreed?"""
    return statement.predicate.result == "WARNED"


def has_skipped(statement: StatementView) -> bool:
    """Did `when` leave a step of the pipeline out, as the replicas agreed?"""
    return any(step.state == STEP_SKIPPED for step in statement.verdict.steps)


def is_green(statement: StatementView) -> bool:
    """Did the replicas agree that the build passed?"""
    return statement.verdict.outcome is Outcome.PASSED


def proved_commits(statement: StatementView) -> tuple[str, ...]:
    """The commits that are subjects: none where the replicas agreed on none."""
    return tuple(s.digest["gitCommit"] for s in statement.subject if "gitCommit" in s.digest)


def artifacts(statement: StatementView) -> dict[str, str]:
    """Path -> SHA-256 (hex) of the agreed artifacts; the first subject is the request."""
    return {s.name: s.digest["sha256"] for s in statement.subject[1:] if "sha256" in s.digest}


def pipeline_sha256(statement: StatementView) -> str | None:
    """The SHA-256 (hex) of the agreed pipeline file; None: nothing was agreed on, or there is none.

    Of older versions it is in the configuration of the test result alone.
    """
    if statement.verdict.pipeline_sha256 is not None:
        return statement.verdict.pipeline_sha256
    found = (subject.digest.get("sha256") for subject in statement.predicate.configuration)
    return next(found, None)


def _not_run(state: str | None) -> str:
    if state == STEP_MAY_HAVE_FAILED:
        return "may have failed: its pipeline ignores that (failure: ignore)"
    return "is not named" if state is None else f"was {state}, and is not shown to have run"


def _not_passed(outcome: CaseOutcome | None) -> str:
    return "is not in the report" if outcome is None else f"is {outcome}"
