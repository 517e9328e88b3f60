"""A lying node says the opposite, in a form that the others count as valid."""

import pytest

from ci.builds import OpenBuild
from ci.limits import Limits
from ci.operations import Abstain, Compared, Finding, Outcome
from node.fault_injection import is_mute, told_ballot
from tests.node.house import COMMIT, finding

BUILD = OpenBuild(bytes(32), 1, bytes(32), "https://example.org/r", "main", COMMIT, ())


@pytest.mark.parametrize(
    "found",
    [
        finding(),
        finding(Outcome.FAILED, 7),
        finding(Outcome.TIMED_OUT, None),
        finding(Outcome.CHECKOUT_FAILED, 128),
        finding(Outcome.PIPELINE_INVALID, None),
    ],
)
def test_a_lie_is_another_valid_finding(found: Finding) -> None:
    told = told_ballot(found, "lying")
    assert isinstance(told, Finding)
    assert told.compared != found.compared
    assert (told.compared.outcome is Outcome.PASSED) != (found.compared.outcome is Outcome.PASSED)
    assert BUILD.ballot_refusal(told, Limits()) is None


def test_without_a_commit_there_is_nothing_to_lie_about() -> None:
    compared = Compared(Outcome.CHECKOUT_FAILED, 128, None, None, None)
    found = Finding(compared, finding().evidence)
    assert told_ballot(found, "lying") == found


@pytest.mark.parametrize("fault", [None, "silent"])
def test_others_tell_what_they_found(fault: str | None) -> None:
    assert told_ballot(finding(), fault) == finding()
    assert told_ballot(Abstain("x"), "lying") == Abstain("x")


def test_only_the_silent_one_is_mute() -> None:
    assert [is_mute(fault) for fault in (None, "lying", "silent")] == [False, False, True]
