"""The state and text of the commit status for a verdict. Pure.

Outcomes are the words of ci.operations.
"""

from collections.abc import Collection, Sequence

import msgspec

from ci.statement import StatementView
from common.english import counted
from common.forges.shared.status import CONTEXT, State
from common.safe_text import log_text

# Events whose builds are of no branch as it is, by the words of ci.operations.
_OF_REQUESTS = ("pull_request", "merge_group")
_NO_AGREEMENT = {"disputed": State.ERROR, "cancelled": State.CANCELLED}
_SKIPPED = "skipped"
# What GitHub takes, the least of all forges.
CHARACTERS_MAX = 140

# How many found it, and what: ("passed", 0, 3).
Found = tuple[str, int | None, int]


class ToldCases(msgspec.Struct, frozen=True):
    """What a status says of a build's test cases.

    total: None if it is not agreed on. failed, warned: how many are agreed to have ended so.
    new: how many of the failed ones did not fail in the build before; None: not known.
    unsettled: how many failed on some replicas and are not agreed on. flaky: how many of these are
    known to be flaky. first: a failed case, a new one if there is one. quarantined: how many of the
    warned ones are.
    """

    total: int | None
    failed: int
    warned: int
    new: int | None
    unsettled: int
    flaky: int
    first: str | None
    quarantined: int = 0


def told_cases(
    statement: StatementView,
    new: Sequence[str] | None = None,
    flaky: Collection[str] = (),
) -> ToldCases | None:
    """What a statement says of test cases, None if it says nothing.

    new: the failed cases that did not fail in the build before; None: not known. flaky: the cases
    that are known to be.
    """
    tests = statement.verdict.tests
    if tests is None:
        return None
    return ToldCases(
        total=tests.total,
        failed=tests.failed,
        warned=tests.warned,
        new=None if new is None else len(new),
        unsettled=len(tests.unsettled),
        flaky=sum(case in flaky for case in tests.unsettled),
        first=next(iter(new or statement.predicate.failed_tests), None),
        quarantined=tests.quarantined,
    )


def context_of(name: str | None, event: str, schedule: str | None = None) -> str:
    """Under which name a status stands. name: of the node that posts it, None: the gateway.

    A request has names of its own: of one commit, a push and a request are two builds, and
    anybody can open a request with a commit that was pushed. A merge group has the same names, for
    a queue waits for what it waits for at the request. So has each schedule: its build may run
    other steps than the push of the same commit did, and neither may turn the other green.
    """
    of_request = "pr" if event in _OF_REQUESTS else None
    of_schedule = None if schedule is None else f"cron/{schedule}"
    parts = (CONTEXT, name, of_request, of_schedule)
    return "/".join(part for part in parts if part is not None)


def ref_of_status(event: str, branch: str) -> str | None:
    """The branch or tag that a status is for; None: the commit is on none, but a request's head."""
    return None if event in _OF_REQUESTS else branch


def state_of(outcome: str) -> State:
    """`success` for passed alone; what nothing was run for is told as `[skip ci]` is."""
    if outcome == "passed":
        return State.SUCCESS
    if outcome == _SKIPPED:
        return State.SKIPPED
    return _NO_AGREEMENT.get(outcome, State.FAILURE)


def description_of(
    outcome: str,
    exit_code: int | None,
    agreeing: int,
    *,
    replicas: int,
    found: Sequence[Found] = (),
    tests: ToldCases | None = None,
) -> str:
    """One line, as in "3 of 4 replicas: exit 0; 812 tests, 1 flaky".

    found: what there was where nothing was agreed.
    """
    if outcome == "disputed" and found:
        parts = [f"{count} found {_in_words(what, code)}" for what, code, count in found]
        return f"disputed among {counted(replicas, 'replica')}: {', '.join(parts)}"
    if outcome in _NO_AGREEMENT:
        return outcome
    text = f"{agreeing} of {counted(replicas, 'replica')}: {_in_words(outcome, exit_code)}"
    return (
        text if tests is None else log_text(f"{text}; {_of_tests(outcome, tests)}", CHARACTERS_MAX)
    )


def _of_tests(outcome: str, tests: ToldCases) -> str:
    if tests.failed:
        new = f" ({tests.new} new)" if tests.new else ""
        # the last two parts of an id say most: its class or file, and its name
        name = "" if tests.first is None else f": {'::'.join(tests.first.split('::')[-2:])}"
        return f"{tests.failed} failed{new}{name}"
    lead = "" if tests.total is None else counted(tests.total, "test")
    if outcome == "failed" and tests.unsettled:
        lead = "no failed test is agreed on"
    # Only what honest replicas differed about is called flaky: the rest may be one machine's fault.
    counts = {
        "flaky": tests.flaky,
        "unsettled": tests.unsettled - tests.flaky,
        "warned": tests.warned - tests.quarantined,
        "quarantined": tests.quarantined,
    }
    told = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join([lead, *told] if lead else told) or "tests reported"


def _in_words(outcome: str, exit_code: int | None) -> str:
    if outcome in ("passed", "failed"):
        return f"exit {exit_code}"
    if outcome == _SKIPPED:
        return "skipped, no step is for this"
    return outcome.replace("_", " ")
