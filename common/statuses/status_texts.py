"""The state and text of the commit status for a verdict. Pure.

Outcomes are the words of ci.operations.
"""

from collections.abc import Sequence

from common.english import counted
from common.forges.shared.status import CONTEXT, State

# Events whose builds are of no branch as it is, by the words of ci.operations.
_OF_REQUESTS = ("pull_request", "merge_group")
_NO_AGREEMENT = {"disputed": State.ERROR, "cancelled": State.CANCELLED}
_SKIPPED = "skipped"

# How many found it, and what: ("passed", 0, 3).
Found = tuple[str, int | None, int]


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
) -> str:
    """One line, as in "3 of 4 replicas: exit 0". found: what there was where nothing was agreed."""
    if outcome == "disputed" and found:
        parts = [f"{count} found {_in_words(what, code)}" for what, code, count in found]
        return f"disputed among {counted(replicas, 'replica')}: {', '.join(parts)}"
    if outcome in _NO_AGREEMENT:
        return outcome
    return f"{agreeing} of {counted(replicas, 'replica')}: {_in_words(outcome, exit_code)}"


def _in_words(outcome: str, exit_code: int | None) -> str:
    if outcome in ("passed", "failed"):
        return f"exit {exit_code}"
    if outcome == _SKIPPED:
        return "skipped, no step is for this"
    return outcome.replace("_", " ")
