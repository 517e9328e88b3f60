"""The report of test cases in a ballot: what a replica makes of its cases, and what none makes."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.case_reports import (
    case_report,
    cases_named,
    cases_refusal,
    quarantined_in,
    report_refusal,
    with_cases,
)
from ci.case_results import (
    CASE_ID_CHARACTERS_MAX,
    CASES_MAX,
    CaseOutcome,
    encode_report,
    report_sha256,
    set_sha256,
)
from ci.operations import (
    NOT_PASSED_BYTES_MAX,
    NOT_PASSED_MAX,
    OPERATION_BYTES_MAX,
    QUARANTINED_MAX,
    REPORT_LINES_BYTES_MAX,
    REPORTING_BALLOT_BYTES,
    BuildResult,
    CaseReport,
    CastBallot,
    NamedCase,
    ResultWithTests,
    decode_operation,
    encode_operation,
)
from tests.ci.builders import PASSED, largest_result

P, F, W, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.WARNED, CaseOutcome.SKIPPED
# What no report names whole: its passed cases alone have 16 KiB.
MANY = {f"passed::{number:04}": P for number in range(800)}
IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"))
CASES = st.dictionaries(IDS.filter(bool), st.sampled_from(CaseOutcome), min_size=1, max_size=9)


def report_of(cases: Mapping[str, CaseOutcome], **changed: object) -> CaseReport:
    return msgspec.structs.replace(case_report(cases), **changed)


def names_of(report: CaseReport) -> list[str]:
    return [case.id for case in report.not_passed]


def test_a_short_report_is_named_whole() -> None:
    cases = {"b": F, "a": P, "c": S, "d": W}
    report = case_report(cases)
    assert report.lines == "a\tpassed\nb\tfailed\nc\tskipped\nd\twarned\n"
    assert (report.report_sha256, report.set_sha256) == (
        report_sha256(encode_report(cases)),
        set_sha256(cases),
    )
    assert (report.passed, report.failed, report.skipped, report.warned) == (1, 1, 1, 1)
    assert (report.not_passed, report.is_cut) == ((), False)
    assert cases_named(report) == cases


def test_of_a_long_report_the_failed_cases_come_first() -> None:
    report = case_report({**MANY, "w": W, "z": F, "y": F, "s": S})
    assert report.not_passed == (NamedCase("y", F), NamedCase("z", F), NamedCase("w", W))
    assert (report.lines, report.is_cut, report.total) == ("", False, 804)
    assert report_refusal(report) is None


@pytest.mark.parametrize("length", [4, CASE_ID_CHARACTERS_MAX])
def test_more_than_a_ballot_names_are_cut_and_counted(length: int) -> None:
    failed = {f"{number:04}".ljust(length, "\U0001f99c"): F for number in range(500)}
    report = case_report({**MANY, **failed, "w": W})
    named = len(report.not_passed)
    assert report.is_cut
    assert (report.failed, report.warned) == (500, 1)
    assert named == NOT_PASSED_MAX if length == 4 else named < 12
    assert sum(len(case.encode()) for case in names_of(report)) <= NOT_PASSED_BYTES_MAX
    assert names_of(report) == sorted(failed)[:named]
    assert report_refusal(report) is None


def test_a_report_says_which_warned_cases_are_quarantined() -> None:
    cases = {"a": W, "b": F, "c": W, "d": W, "e": P}
    report = with_cases(largest_result(0), cases, quarantined={"c", "d", "e"}).tests
    assert report.quarantined == (1, 2)
    assert quarantined_in(report) == {"c", "d"}
    many = {f"{number:05}": W for number in range(CASES_MAX)}
    cut = case_report(many, quarantined={"00001", "19999"})
    assert (cut.is_cut, report_refusal(cut)) == (True, None)
    assert quarantined_in(cut) == {"00001"}


def test_the_report_gets_the_room_that_the_rest_of_the_ballot_leaves() -> None:
    """All else that a ballot may name leaves some, and the ballot becomes no larger than any."""
    largest = largest_result(1)
    sizes = []
    for cases in (
        {f"{number:03}" + "x" * 500: F for number in range(500)},
        {f"{number:05}": F for number in range(CASES_MAX)},
        {f"{number:05}": W for number in range(CASES_MAX)},
        {f"{number:03}" + "\U0001f99c" * 40: P for number in range(60)},
    ):
        # places that take three bytes each
        late = sorted(case for case, outcome in cases.items() if outcome is W)[-QUARANTINED_MAX:]
        ballot = with_cases(largest, cases, quarantined=late)
        assert len(ballot.tests.quarantined) == len(late)
        without = msgspec.structs.replace(largest.evidence, caches=())
        assert (ballot.compared, ballot.evidence) == (largest.compared, without)
        assert cases_refusal(ballot) is None
        assert ballot.tests.report_sha256 == report_sha256(encode_report(cases))
        operation = CastBallot(b"b" * 32, 2**53, ballot)
        assert decode_operation(encode_operation(operation)) == operation
        sizes.append(len(encode_operation(operation)))
        assert sizes[-1] < OPERATION_BYTES_MAX / 1.9
    assert len(with_cases(largest, {f"{n:05}": F for n in range(CASES_MAX)}).tests.not_passed) > 5
    assert REPORTING_BALLOT_BYTES - 1200 < sizes[0] < REPORTING_BALLOT_BYTES + 64
    # with a few artifacts less there is room for the names of caches, too
    fewer = msgspec.structs.replace(largest.compared, artifacts=largest.compared.artifacts[:56])
    ballot = with_cases(BuildResult(fewer, largest.evidence), {"a": F})
    assert (ballot.evidence, cases_refusal(ballot)) == (largest.evidence, None)


def test_a_ballot_with_a_report_beyond_its_room_is_refused() -> None:
    report = case_report({f"{number:03}" + "x" * 80: F for number in range(130)})
    assert report_refusal(report) is None
    assert len(report.lines) > REPORT_LINES_BYTES_MAX - 500
    largest = largest_result(1)
    assert cases_refusal(ResultWithTests(largest.compared, largest.evidence, report)) == (
        f"with its test cases the ballot has more than {REPORTING_BALLOT_BYTES} bytes"
    )
    assert cases_refusal(ResultWithTests(PASSED.compared, PASSED.evidence, report)) is None


LONG = case_report({**MANY, "y": F, "z": F, "w": W})
CUT = case_report({**MANY, **{f"{number:04}": F for number in range(500)}})


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (report_of({"a": P}, lines="", passed=0), "1 to 20000 cases"),
        (msgspec.structs.replace(LONG, passed=CASES_MAX), "1 to 20000 cases"),
        (report_of({"a": P}, lines="a\tpassed"), "not canonical"),
        (report_of({"a": P}, lines="b\tpassed\na\tpassed\n"), "not canonical"),
        (report_of({"a": P}, lines="a\tpassed\na\tpassed\n"), "not canonical"),
        (report_of({"a": P}, lines="a\tgreen\n"), "not canonical"),
        (report_of({"a": P}, lines="a\x1b\tpassed\n"), "not canonical"),
        (report_of({"a": P}, lines="\U0001f99c" * 4000), "more than 12288 bytes"),
        (report_of({"a": P}, lines="a\tfailed\n"), "does not follow from its lines"),
        (report_of({"a": P}, report_sha256="0" * 64), "does not follow from its lines"),
        (report_of({"a": P}, set_sha256="0" * 64), "does not follow from its lines"),
        (report_of({"a": P}, passed=2), "does not follow from its lines"),
        (report_of({"a": W}, quarantined=(1,)), "not among the warned ones"),
        (report_of({"a": W, "b": W}, quarantined=(1, 0)), "not among the warned ones"),
        (report_of({"a": W}, quarantined=(0, 0)), "not among the warned ones"),
        (report_of({"a": P}, is_cut=True), "does not follow from its lines"),
        (report_of({"a": F}, not_passed=(NamedCase("a", F),)), "does not follow from its lines"),
        (msgspec.structs.replace(LONG, not_passed=LONG.not_passed[::-1]), "in their order"),
        (msgspec.structs.replace(LONG, not_passed=(NamedCase("y", F),) * 2), "in their order"),
        (
            msgspec.structs.replace(LONG, not_passed=(NamedCase("y", F), NamedCase("y", W))),
            "in their order",
        ),
        (msgspec.structs.replace(LONG, not_passed=(NamedCase("y", P),)), "in their order"),
        (msgspec.structs.replace(LONG, not_passed=(NamedCase("y\n", F),)), "cannot be one"),
        (
            msgspec.structs.replace(
                LONG,
                failed=30,
                not_passed=tuple(NamedCase(f"{n:02}" + "\u20ac" * 200, F) for n in range(30)),
            ),
            "have more than 12288 bytes",
        ),
        (msgspec.structs.replace(LONG, failed=1), "names more cases"),
        (msgspec.structs.replace(LONG, warned=0, failed=3), "names more cases"),
        (msgspec.structs.replace(LONG, is_cut=True), "or the reverse"),
        (msgspec.structs.replace(LONG, failed=3), "or the reverse"),
        (msgspec.structs.replace(CUT, is_cut=False), "or the reverse"),
        (
            msgspec.structs.replace(LONG, failed=3, is_cut=True),
            "names warned cases, and not all failed ones",
        ),
    ],
)
def test_reports_that_no_cases_have(report: CaseReport, reason: str) -> None:
    assert reason in (report_refusal(report) or "accepted")


@given(CASES, st.integers(0, 80))
def test_what_a_replica_makes_is_never_refused(cases: dict[str, CaseOutcome], room: int) -> None:
    report = case_report(cases, room)
    assert report_refusal(report) is None
    assert report.total == len(cases)
    assert cases_named(report).items() <= cases.items()


@given(CASES, CASES, st.integers(0, 80))
def test_equal_digests_are_equal_cases(
    one: dict[str, CaseOutcome], other: dict[str, CaseOutcome], room: int
) -> None:
    equal = case_report(one, room).report_sha256 == case_report(other).report_sha256
    assert equal is (one == other)
