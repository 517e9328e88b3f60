"""The report of test cases in a ballot: how it is made, and which one cannot be true. Pure.

The rule: a report gets the room that the rest of its ballot leaves, so no replicated state becomes
larger by it than was reckoned before. It names the whole canonical report if that is short, else
the cases that did not pass, as far as there is room.
"""

import functools
from collections.abc import Collection, Iterator, Mapping

import msgspec

from ci.case_results import (
    CASES_MAX,
    CaseOutcome,
    MalformedReport,
    decode_report,
    encode_report,
    id_problem,
    report_sha256,
    set_sha256,
)
from ci.operations import (
    NOT_PASSED_BYTES_MAX,
    NOT_PASSED_MAX,
    QUARANTINED_MAX,
    REPORT_LINES_BYTES_MAX,
    REPORTING_BALLOT_BYTES,
    BuildResult,
    CaseReport,
    NamedCase,
    ResultWithTests,
    ballot_fields,
)

# What MessagePack adds to a named case beyond the bytes of its line in the report, and to counts
# and lengths beyond those of an empty report.
_OVERHEAD_BYTES = NOT_PASSED_MAX * 4 + 16
# of the lines of cases that are named, which tell more than the names of caches
_NAMES_BYTES_MIN = 1024


def with_cases(
    result: BuildResult, cases: Mapping[str, CaseOutcome], *, quarantined: Collection[str] = ()
) -> ResultWithTests:
    """This result with its test cases, of which there is at least one, as large as a ballot may be.

    Where all else leaves hardly any room for names of cases, it names no caches any more.

    cases: outcomes by id; each id is one (`ci.case_results.id_problem`). quarantined: the warned
        ones that are.
    """
    data = encode_report(cases)
    counted = _counted(cases, data, quarantined)
    no_names = _with_names(counted, cases, data, bytes_max=0)

    def room() -> int:
        bare = ResultWithTests(result.compared, result.evidence, no_names)
        bare_bytes = len(msgspec.msgpack.encode(ballot_fields(bare))) + _OVERHEAD_BYTES
        return REPORTING_BALLOT_BYTES - bare_bytes

    if result.evidence.caches and room() < _NAMES_BYTES_MIN:
        evidence = msgspec.structs.replace(result.evidence, caches=())
        result = BuildResult(result.compared, evidence)
    report = _with_names(counted, cases, data, bytes_max=room())
    return ResultWithTests(result.compared, result.evidence, report)


def case_report(
    cases: Mapping[str, CaseOutcome],
    bytes_max: int = REPORT_LINES_BYTES_MAX,
    *,
    quarantined: Collection[str] = (),
) -> CaseReport:
    """What a ballot says of these cases, of which there is at least one.

    bytes_max: of the lines of the report that it names, if the ballot has less room than usual
        (`with_cases`). quarantined: the warned cases that are.
    """
    data = encode_report(cases)
    return _with_names(_counted(cases, data, quarantined), cases, data, bytes_max=bytes_max)


def _counted(
    cases: Mapping[str, CaseOutcome], data: bytes, quarantined: Collection[str]
) -> CaseReport:
    """The report of these cases, which have that encoding, without a name."""
    assert cases
    outcomes = list(cases.values())
    return CaseReport(
        report_sha256=report_sha256(data),
        set_sha256=set_sha256(cases),
        passed=outcomes.count(CaseOutcome.PASSED),
        failed=outcomes.count(CaseOutcome.FAILED),
        skipped=outcomes.count(CaseOutcome.SKIPPED),
        warned=outcomes.count(CaseOutcome.WARNED),
        lines="",
        quarantined=tuple(
            place for place, case in enumerate(_warned(cases)) if case in quarantined
        )[:QUARANTINED_MAX],
    )


def _with_names(
    report: CaseReport, cases: Mapping[str, CaseOutcome], data: bytes, *, bytes_max: int
) -> CaseReport:
    """That of `_counted` with the lines of these cases, else with as many names as fit."""
    if len(data) <= min(bytes_max, REPORT_LINES_BYTES_MAX):
        return msgspec.structs.replace(report, lines=data.decode())
    named = tuple(_named(cases, min(bytes_max, NOT_PASSED_BYTES_MAX)))
    return msgspec.structs.replace(
        report, not_passed=named, is_cut=len(named) < report.failed + report.warned
    )


def cases_named(report: CaseReport) -> dict[str, CaseOutcome]:
    """The cases that a report names, by id: all of them if it has lines, else some not passed.

    None of lines that are not canonical: whoever reads a ballot that no replica accepted may find
    some, for its signer is anybody's enemy.
    """
    if not report.lines:
        return {case.id: case.outcome for case in report.not_passed}
    try:
        return decode_report(report.lines.encode())
    except MalformedReport:
        return {}


def quarantined_in(report: CaseReport) -> frozenset[str]:
    """The quarantined cases that a report names."""
    # one that is cut names the first of its warned cases
    named = dict(enumerate(_warned(cases_named(report))))
    return frozenset(named[place] for place in report.quarantined if place in named)


def cases_refusal(ballot: ResultWithTests) -> str | None:
    """Why no replica that follows the rules casts a ballot with this report; None: one may.

    A fixed text.
    """
    if reason := report_refusal(ballot.tests):
        return reason
    if len(msgspec.msgpack.encode(ballot_fields(ballot))) > REPORTING_BALLOT_BYTES:
        return f"with its test cases the ballot has more than {REPORTING_BALLOT_BYTES} bytes"
    return None


@functools.lru_cache(maxsize=64)
def report_refusal(report: CaseReport) -> str | None:
    """Why no cases have this report; None: some may. A fixed text.

    Whether they are the commit's nobody can know: that takes other replicas. Those have mostly the
    same report, which is looked at once.
    """
    if not 1 <= report.total <= CASES_MAX:
        return f"a report of the tests has 1 to {CASES_MAX} cases"
    places = report.quarantined
    if list(places) != sorted(set(places)) or any(place >= report.warned for place in places):
        return "the quarantined cases are not among the warned ones, each once"
    return _lines_refusal(report) if report.lines else _names_refusal(report)


def _named(cases: Mapping[str, CaseOutcome], bytes_max: int) -> Iterator[NamedCase]:
    """The failed cases, then the warned ones, as many as there is room for."""
    room = bytes_max
    count = 0
    for outcome in (CaseOutcome.FAILED, CaseOutcome.WARNED):
        for case in sorted(case for case, found in cases.items() if found is outcome):
            named = NamedCase(case, outcome)
            room -= _line_bytes(named)
            count += 1
            if room < 0 or count > NOT_PASSED_MAX:
                return
            yield named


def _warned(cases: Mapping[str, CaseOutcome]) -> list[str]:
    return sorted(case for case, outcome in cases.items() if outcome is CaseOutcome.WARNED)


def _line_bytes(case: NamedCase) -> int:
    """How many bytes its line has in a report."""
    return len(case.id.encode()) + len(case.outcome) + 2


def _lines_refusal(report: CaseReport) -> str | None:
    data = report.lines.encode()
    if len(data) > REPORT_LINES_BYTES_MAX:
        return f"the lines of the report have more than {REPORT_LINES_BYTES_MAX} bytes"
    try:
        cases = decode_report(data)
    except MalformedReport:
        return "the lines of the report are not canonical"
    if report != case_report(cases, quarantined=quarantined_in(report)):
        return "the report does not follow from its lines"
    return None


def _names_refusal(report: CaseReport) -> str | None:
    named = report.not_passed
    failed = [case.id for case in named if case.outcome is CaseOutcome.FAILED]
    warned = [case.id for case in named if case.outcome is CaseOutcome.WARNED]
    in_order = (*sorted(set(failed)), *sorted(set(warned)))
    if tuple(case.id for case in named) != in_order or not set(failed).isdisjoint(warned):
        return "the cases that did not pass are not in their order, each once"
    if any(id_problem(case.id) for case in named):
        return "a case has an id that cannot be one"
    if sum(_line_bytes(case) for case in named) > NOT_PASSED_BYTES_MAX:
        return f"the cases that did not pass have more than {NOT_PASSED_BYTES_MAX} bytes"
    if len(failed) > report.failed or len(warned) > report.warned:
        return "the report names more cases that did not pass than it counts"
    if report.is_cut is (len(named) == report.failed + report.warned):
        return "the report is cut, and names all cases that did not pass, or the reverse"
    if warned and len(failed) < report.failed:
        return "the report names warned cases, and not all failed ones"
    return None
