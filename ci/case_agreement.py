"""What replicas agree on about a build's test cases, from their ballots before its verdict. Pure.

A verdict compares whole results and no test case: a flaky case must not change it, and a quorum for
each case would make green what fewer than n - f replicas saw green (docs/decisions/0030-*). What is
agreed on about cases is recorded beside it. Let n replicas have f faulty ones.

1. n - f equal reports: all of the report is agreed on. f + 1 of them are honest.
2. Else a case is `failed` (`warned`) if f + 1 replicas say so, for one of them is honest. A case
   that n - f replicas with one set of cases do not name was not seen to fail there, so those who
   name it are outvoted. All other cases that somebody names are unsettled. n - f whole reports of
   one set say besides that no case failed that nobody names.
3. No set of cases is that of n - f replicas: as 2, and nothing is said of cases nobody names.

The rule: only rule 1 says that a case passed. Who does not name a case may not have it, or may have
skipped it: else f liars could name a case that is nowhere, and have the others' silence pass it.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from ci.case_reports import cases_named, report_refusal
from ci.case_results import CaseOutcome
from ci.operations import Ballot, CaseReport, ResultKey, ResultWithTests
from pbft.quorums import Quorums

T = TypeVar("T", bound=Hashable)


class CaseCounts(msgspec.Struct, frozen=True):
    """How many cases there were, and how many ended how; None where nothing is agreed on.

    Without an agreed report, `failed` and `warned` count the cases that are agreed on by name.
    quarantined: so many of the warned ones at least failed and are quarantined, as f + 1 replicas
    say.
    """

    total: int | None
    passed: int | None
    failed: int
    skipped: int | None
    warned: int
    quarantined: int = 0


class CaseAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """What is agreed on. All names are ids, sorted.

    reports: how many ballots had a report.
    report_sha256: the report of n - f replicas; set_sha256: their set of cases. None: none is that.
    passed, failed, warned: cases that ended so; `passed` only where the agreed report is known.
    unsettled: cases that somebody saw fail or warn, and that are neither agreed on nor outvoted.
    is_complete: no case failed or warned but those above, as n - f replicas say.
    are_all_named: those above are all cases but the skipped ones.
    sets_differ: two reports are of different sets of cases.
    """

    reports: int
    report_sha256: str | None
    set_sha256: str | None
    counts: CaseCounts
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    warned: tuple[str, ...]
    unsettled: tuple[str, ...]
    is_complete: bool
    are_all_named: bool
    sets_differ: bool


def agreed_cases(
    ballots: Iterable[tuple[str, Ballot]], compared: ResultKey, quorums: Quorums
) -> CaseAgreement | None:
    """What these ballots agree on about test cases. None: none of them has a report that counts.

    ballots: (replica name, its ballot), in any order; of one replica only the first counts.
    compared: the value of the verdict. A report counts if it is of that commit and pipeline file,
        and some cases have it: a gateway may be shown a ballot that no replica accepted.
    """
    reports = _reports(ballots, compared)
    if not reports:
        return None
    needed = quorums.replicas - quorums.faults_max
    agreed = _held_by(needed, [report.report_sha256 for report in reports])
    equal = [report for report in reports if report.report_sha256 == agreed]
    known = next((report for report in equal if report.lines), None)
    found = _by_name(reports, equal, quorums) if known is None else _of_report(known, reports)
    said = sorted((len(report.quarantined) for report in reports), reverse=True)[quorums.weak - 1 :]
    quarantined = min(next(iter(said), 0), found.counts.warned)
    counts = msgspec.structs.replace(found.counts, quarantined=quarantined)
    return msgspec.structs.replace(found, counts=counts)


def _reports(ballots: Iterable[tuple[str, Ballot]], compared: ResultKey) -> list[CaseReport]:
    first: dict[str, Ballot] = {}
    for replica, ballot in ballots:
        first.setdefault(replica, ballot)
    source = (compared.commit, compared.pipeline_sha256)
    return [
        ballot.tests
        for ballot in first.values()
        if isinstance(ballot, ResultWithTests)
        and (ballot.compared.commit, ballot.compared.pipeline_sha256) == source
        and report_refusal(ballot.tests) is None
    ]


def _held_by(needed: int, values: Sequence[T]) -> T | None:
    """The value that most of these are, in whatever order, if so many are; else None."""
    counted = [(count, msgspec.msgpack.encode(v), v) for v, count in Counter(values).items()]
    if not counted:
        return None
    count, _, value = max(counted, key=lambda item: item[:2])
    return value if count >= needed else None


def _of_report(known: CaseReport, reports: Sequence[CaseReport]) -> CaseAgreement:
    """Rule 1, where one of the equal reports has its lines."""
    cases = sorted(cases_named(known).items())
    return CaseAgreement(
        reports=len(reports),
        report_sha256=known.report_sha256,
        set_sha256=known.set_sha256,
        counts=_counts(known),
        passed=tuple(case for case, outcome in cases if outcome is CaseOutcome.PASSED),
        failed=tuple(case for case, outcome in cases if outcome is CaseOutcome.FAILED),
        warned=tuple(case for case, outcome in cases if outcome is CaseOutcome.WARNED),
        unsettled=(),
        is_complete=True,
        are_all_named=True,
        sets_differ=_do_sets_differ(reports),
    )


def _by_name(
    reports: Sequence[CaseReport], equal: Sequence[CaseReport], quorums: Quorums
) -> CaseAgreement:
    """Rules 2 and 3; also the names of rule 1, of whose report only some are known.

    equal: the n - f equal reports, none if there are fewer. Liars among them may name and count
    other cases, which nobody can compare with a digest. So it takes f + 1 that say so.
    """
    needed, weak = quorums.replicas - quorums.faults_max, quorums.weak
    agreed = equal[0] if equal else None
    counts = _held_by(weak, [_counts(report) for report in equal])
    sets = [report.set_sha256 for report in reports]
    found_set = _held_by(weak, [report.set_sha256 for report in equal]) or _held_by(needed, sets)
    # Each report once: f liars may name a thousand cases each, and what this takes all wait for.
    named = [(report, cases_named(report)) for report in reports]
    failed_by = Counter(_ended(named, CaseOutcome.FAILED))
    warned_by = Counter(_ended(named, CaseOutcome.WARNED))
    of_set = [(report, cases) for report, cases in named if report.set_sha256 == found_set]
    # Those of one set that name all that did not pass there.
    whole = [(report, cases) for report, cases in of_set if not report.is_cut]
    named_in_whole = Counter(_ended(whole, CaseOutcome.FAILED, CaseOutcome.WARNED))
    failed, warned, unsettled = [], [], []
    for case in sorted({*failed_by, *warned_by}):
        if failed_by[case] >= weak:
            failed.append(case)
        elif warned_by[case] >= weak:
            warned.append(case)
        elif len(whole) - named_in_whole[case] < needed:
            unsettled.append(case)
    if counts is None:
        total = _held_by(weak, [report.total for report, _ in of_set])
        counts = CaseCounts(total, None, len(failed), None, len(warned))
    return CaseAgreement(
        reports=len(reports),
        report_sha256=agreed.report_sha256 if agreed else None,
        set_sha256=found_set,
        counts=counts,
        passed=(),
        failed=tuple(failed),
        warned=tuple(warned),
        unsettled=tuple(unsettled),
        is_complete=len(whole) >= needed,
        are_all_named=False,
        sets_differ=_do_sets_differ(reports),
    )


def _ended(
    named: Iterable[tuple[CaseReport, Mapping[str, CaseOutcome]]], *outcomes: CaseOutcome
) -> Iterator[str]:
    """Each case that ended so in one of these reports, once for each."""
    for _, cases in named:
        yield from (case for case, outcome in cases.items() if outcome in outcomes)


def _counts(report: CaseReport) -> CaseCounts:
    return CaseCounts(report.total, report.passed, report.failed, report.skipped, report.warned)


def _do_sets_differ(reports: Sequence[CaseReport]) -> bool:
    return len({report.set_sha256 for report in reports}) > 1
