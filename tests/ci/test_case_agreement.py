"""What replicas agree on about test cases: the rules, and what f liars cannot do to them."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.case_agreement import CaseAgreement, CaseCounts, agreed_cases
from ci.case_reports import case_report, cases_named, report_refusal, with_cases
from ci.case_results import CaseOutcome
from ci.operations import Ballot, CaseReport, NamedCase, ResultKey, ResultWithTests
from pbft.quorums import quorums_for
from tests.ci.builders import ABSTAIN, FAILED, PASSED, finding, reported

P, F, W, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.WARNED, CaseOutcome.SKIPPED
# What no ballot names whole.
MANY = {f"passed::{number:04}": "passed" for number in range(800)}


def agreement_of(
    *ballots: Ballot, replicas: int = 4, compared: ResultKey = PASSED.compared
) -> CaseAgreement:
    cast = [(f"replica-{index}", ballot) for index, ballot in enumerate(ballots)]
    found = agreed_cases(cast, compared, quorums_for(replicas))
    assert found is not None
    return found


def green(**cases: str) -> ResultWithTests:
    return reported(PASSED, cases)


def long_green(**cases: str) -> ResultWithTests:
    return reported(PASSED, {**MANY, **cases})


def test_n_minus_f_equal_reports_are_agreed_on_as_a_whole() -> None:
    same = green(a="passed", b="warned", c="skipped", d="passed")
    found = agreement_of(same, green(a="failed"), same, same)
    assert (found.report_sha256, found.set_sha256) == (
        same.tests.report_sha256,
        same.tests.set_sha256,
    )
    assert found.counts == CaseCounts(4, 2, 0, 1, 1)
    assert (found.passed, found.warned, found.failed) == (("a", "d"), ("b",), ())
    assert (found.unsettled, found.reports) == ((), 4)
    assert (found.is_complete, found.are_all_named, found.sets_differ) == (True, True, True)


@pytest.mark.parametrize(
    ("said", "agreed"),
    [
        ((1, 1, 1, 1), 1),
        ((0, 0, 1, 1), 1),
        ((0, 0, 0, 1), 0),
        ((0, 0, 2, 1), 1),
        ((1,), 0),
    ],
)
def test_so_many_cases_are_quarantined_as_f_plus_1_say_at_least(
    said: tuple[int, ...], agreed: int
) -> None:
    """One liar can neither make them more nor fewer."""
    ballots = [
        with_cases(PASSED, {"a": W, "b": W if names else P}, quarantined="ab"[:names])
        for names in said
    ]
    assert agreement_of(*ballots).counts.quarantined == agreed


def test_of_a_long_report_the_counts_are_agreed_on_and_some_names() -> None:
    same = long_green(x="warned")
    found = agreement_of(same, same, same)
    assert found.report_sha256 == same.tests.report_sha256
    assert found.counts == CaseCounts(801, 800, 0, 0, 1)
    assert (found.passed, found.warned) == ((), ("x",))
    assert (found.is_complete, found.are_all_named) == (True, False)


def test_a_red_verdict_has_too_few_ballots_for_a_whole_report() -> None:
    same = reported(FAILED, {"a": "failed", "b": "passed"})
    found = agreement_of(same, green(a="passed", b="passed"), same, compared=FAILED.compared)
    assert (found.report_sha256, found.set_sha256) == (None, same.tests.set_sha256)
    assert found.counts == CaseCounts(2, None, 1, None, 0)
    assert (found.failed, found.passed, found.unsettled) == (("a",), (), ())
    assert found.is_complete


def test_a_case_takes_f_plus_1_to_have_failed_or_warned() -> None:
    one, other = (
        green(x="failed", y="failed", z="warned"),
        green(x="failed", y="passed", z="passed"),
    )
    found = agreement_of(one, other, green(x="passed", y="passed", z="warned"))
    assert (found.failed, found.warned, found.unsettled) == (("x",), ("z",), ("y",))


def test_who_alone_saw_a_case_fail_is_outvoted_by_n_minus_f() -> None:
    flaky = reported(FAILED, {"x": "failed", "y": "passed"})
    found = agreement_of(flaky, *[green(x="passed", y="passed")] * 3)
    assert (found.failed, found.unsettled) == ((), ())
    assert agreement_of(flaky, *[green(x="passed", y="passed")] * 2).unsettled == ("x",)


def test_ballots_that_are_cut_or_of_another_set_outvote_nobody() -> None:
    lone = long_green(**{"0": "failed"})
    cut = long_green(**{"0": "passed"}, **{f"y{number:03}": "failed" for number in range(200)})
    assert cut.tests.is_cut
    found = agreement_of(lone, cut, cut, cut)
    assert found.unsettled == ("0",)
    assert not found.is_complete
    lone, other = green(x="failed"), green(x="passed", y="passed")
    found = agreement_of(lone, other, green(x="passed"), other)
    assert (found.unsettled, found.set_sha256, found.sets_differ) == (("x",), None, True)
    assert not found.is_complete


def test_a_case_that_only_a_liar_names_did_not_pass() -> None:
    """The others' silence would pass it, by the set of cases that the liar copied from them."""
    honest = long_green()
    lie = msgspec.structs.replace(
        honest.tests, passed=799, failed=1, not_passed=(NamedCase("nowhere", F),)
    )
    assert report_refusal(lie) is None
    found = agreement_of(ResultWithTests(PASSED.compared, PASSED.evidence, lie), *[honest] * 3)
    assert (found.passed, found.failed, found.unsettled) == ((), (), ())
    assert found.counts == CaseCounts(800, 800, 0, 0, 0)


def test_only_reports_of_the_agreed_commit_and_file_count() -> None:
    same = green(a="passed")
    other_file = reported(finding(pipeline_sha256="cd" * 32), {"a": "failed"})
    other_commit = reported(finding(commit="d" * 40), {"a": "failed"})
    found = agreement_of(other_file, other_commit, PASSED, ABSTAIN, same)
    assert (found.reports, found.unsettled, found.failed) == (1, (), ())
    none: list[tuple[str, Ballot]] = [("a", other_file), ("b", PASSED), ("c", ABSTAIN)]
    assert agreed_cases(none, PASSED.compared, quorums_for(4)) is None


def test_a_report_that_no_cases_have_does_not_count() -> None:
    """No replica accepts its ballot, but its signer may show it to a gateway all the same."""
    same = green(a="passed")
    for lines in ("a\tgreen\n", "a\tfailed\n"):
        forged = msgspec.structs.replace(same.tests, lines=lines)
        ballot = msgspec.structs.replace(same, tests=forged)
        assert agreement_of(ballot, same, same).reports == 2
    assert cases_named(msgspec.structs.replace(same.tests, lines="a\tgreen\n")) == {}


def test_a_replica_has_one_report() -> None:
    cast = [("a", green(x="passed")), ("a", green(x="failed")), ("a", green(x="failed"))]
    found = agreed_cases(cast, PASSED.compared, quorums_for(4))
    assert found is not None
    assert (found.reports, found.failed, found.unsettled) == (1, (), ())


# --- what f liars cannot do -----------------------------------------------------------------------

IDS = ("a", "b", "c", "d")
OUTCOMES = st.sampled_from(CaseOutcome)
# What a replica really saw, and what it reports.
Run = tuple[dict[str, CaseOutcome], CaseReport]
# An honest replica names as much as there is room for: all, some of them, or none.
ROOM = st.sampled_from((12 * 1024, 12 * 1024, 30, 12, 0))


@st.composite
def honest_reports(
    draw: st.DrawFn, replicas: int
) -> list[tuple[dict[str, CaseOutcome], CaseReport]]:
    """Runs of one commit: mostly equal, some cases flaky, some there or not."""
    usual = draw(st.dictionaries(st.sampled_from(IDS), OUTCOMES, min_size=1))
    room = draw(ROOM)
    runs = []
    for _ in range(replicas):
        differs = draw(st.dictionaries(st.sampled_from(IDS), OUTCOMES, max_size=2))
        cases = {**usual, **(differs if draw(st.booleans()) else {})}
        runs.append((cases, case_report(cases, room)))
    return runs


@st.composite
def lies(draw: st.DrawFn, honest: Sequence[CaseReport]) -> CaseReport:
    """Any report that is not refused; often one that claims the digests of an honest one."""
    cases = draw(st.dictionaries(st.sampled_from((*IDS, "nowhere")), OUTCOMES, min_size=1))
    lie = case_report(cases, draw(ROOM))
    copied = draw(st.sampled_from(honest)) if honest else lie
    changed: dict[str, object] = {}
    if not lie.lines:
        if draw(st.booleans()):
            changed |= {"report_sha256": copied.report_sha256}
        if draw(st.booleans()):
            changed |= {"set_sha256": copied.set_sha256}
        if draw(st.booleans()):
            changed |= {"passed": draw(st.integers(lie.passed, 9))}
    lie = msgspec.structs.replace(lie, **changed)
    assert report_refusal(lie) is None
    return lie


def cast(reports: Sequence[CaseReport]) -> list[tuple[str, Ballot]]:
    return [
        (f"replica-{index}", ResultWithTests(PASSED.compared, PASSED.evidence, report))
        for index, report in enumerate(reports)
    ]


def seen(runs: Sequence[Run], case: str, outcome: CaseOutcome) -> int:
    return sum(cases.get(case) is outcome for cases, _ in runs)


@pytest.mark.parametrize("replicas", [1, 4, 7])
@given(data=st.data())
def test_f_liars_make_nothing_agreed_that_no_honest_replica_saw(
    replicas: int, data: st.DataObject
) -> None:
    quorums = quorums_for(replicas)
    faults_max = quorums.faults_max
    present = data.draw(st.integers(faults_max + 1, replicas))
    runs = data.draw(honest_reports(present - faults_max))
    reports = [report for _, report in runs]
    reports += [data.draw(lies(reports)) for _ in range(faults_max)]
    ballots = cast(reports)
    found = agreed_cases(ballots, PASSED.compared, quorums)
    assert found is not None
    assert agreed_cases(data.draw(st.permutations(ballots)), PASSED.compared, quorums) == found
    assert all(seen(runs, case, F) for case in found.failed)
    assert all(seen(runs, case, W) for case in found.warned)
    # n - f said so, of which f may have lied
    least = replicas - 2 * faults_max
    assert all(seen(runs, case, P) >= least for case in found.passed)
    settled = {*found.failed, *found.warned, *found.unsettled}
    for case in {case for cases, _ in runs for case in cases} - settled:
        failing = seen(runs, case, F) + seen(runs, case, W)
        assert not found.is_complete or len(runs) - failing >= least
    equal = [cases for cases, report in runs if report.report_sha256 == found.report_sha256]
    if found.report_sha256 is not None:
        assert len(equal) >= least
        outcomes = list(equal[0].values())
        assert found.counts == CaseCounts(len(outcomes), *map(outcomes.count, (P, F, S, W)))
    if found.set_sha256 is not None:
        assert sum(report.set_sha256 == found.set_sha256 for _, report in runs) >= least
