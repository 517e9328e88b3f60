"""A build's test cases, and how cases stand, as the API and the pages show them.

What is agreed on is computed from the ballots again, as the statement's part was (late ballots
count here, too), so nothing is shown for having been said by one replica.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from ci.case_agreement import CaseAgreement, CaseCounts, agreed_cases
from ci.case_reports import cases_named
from ci.case_results import CaseOutcome, case_sha256
from ci.flaky import CaseStanding, comparable, observe
from ci.operations import Ballot, CaseReport, ResultKey, ResultWithTests
from ci.statement import VerdictFields
from client.storage.case_archive import CaseRecord, SeenCase
from client.views.build_view import iso_time
from common.english import counted
from pbft.quorums import Quorums

# How a replica's report has a case, beside the outcomes of ci.case_results. The report of many
# cases names only those that did not pass.
NOT_FAILED = "not failed"
ABSENT = "absent"
UNKNOWN = "unknown"
# What is agreed on about a case that somebody saw fail or warn.
UNSETTLED = "unsettled"
OUTVOTED = "outvoted"
# Against the newest build of the target branch.
NEW = "new"
STILL = "still failing"


class ReportView(msgspec.Struct, frozen=True):
    """What one replica's run of the tests came to."""

    replica: str
    report_sha256: str
    set_sha256: Annotated[str, msgspec.Meta(description="of the ids alone")]
    total: int
    passed: int
    failed: int
    skipped: int
    warned: Annotated[int, msgspec.Meta(description="passed, but not at the first try")]
    is_cut: Annotated[
        bool, msgspec.Meta(description="its ballot has no room for all cases that did not pass")
    ]
    is_left_out: Annotated[
        bool,
        msgspec.Meta(description="it differs in so many cases that it says nothing of the tests"),
    ]


class SeenOutcome(msgspec.Struct, frozen=True):
    """How a case ended on one replica, by its report; `message`: by its own account."""

    replica: str
    outcome: str
    message: str | None = None


class CaseRow(msgspec.Struct, frozen=True):
    """A case that did not pass on every replica."""

    id: str
    sha256: Annotated[str, msgspec.Meta(description="of the id; its address")]
    agreed: Annotated[
        str, msgspec.Meta(description="failed, warned, unsettled, or outvoted: others saw it pass")
    ]
    since: Annotated[
        str | None,
        msgspec.Meta(
            description="of a failed case: `new` or `still failing`, against `compared_with`;"
            " null: nobody can tell"
        ),
    ]
    state: Annotated[
        str | None,
        msgspec.Meta(description="what the repository's builds say of it; null: not known"),
    ]
    seen: tuple[SeenOutcome, ...]

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """Each outcome with the replicas that saw it."""
        return _groups(self.seen)

    @property
    def messages(self) -> list[tuple[list[str], str]]:
        """Each message, with the replicas whose it is."""
        by_message: dict[str, list[str]] = {}
        for one in self.seen:
            if one.message:
                by_message.setdefault(one.message, []).append(one.replica)
        return [(replicas, message) for message, replicas in by_message.items()]


class SlowCase(msgspec.Struct, frozen=True):
    """A slow case: `seconds` is the median of the replicas that have it among their slowest."""

    id: str
    sha256: str
    seconds: float


class BuildCasesView(msgspec.Struct, frozen=True):
    """GET /api/v1/builds/<id>/tests: all that its ballots say of its test cases."""

    build: str
    reports: tuple[ReportView, ...]
    agreed_report_sha256: Annotated[
        str | None, msgspec.Meta(description="of the report that n - f replicas have")
    ]
    counts: Annotated[
        CaseCounts | None, msgspec.Meta(description="agreed on; null: there are no reports")
    ]
    sets_differ: Annotated[bool, msgspec.Meta(description="not all replicas have the same cases")]
    compared_with: Annotated[
        str | None, msgspec.Meta(description="the newest build of the target branch before it")
    ]
    cases: tuple[CaseRow, ...]
    fixed: Annotated[
        tuple[str, ...], msgspec.Meta(description="failed in that build, and do not in this one")
    ]
    slowest: tuple[SlowCase, ...]
    next: Annotated[
        str | None, msgspec.Meta(description="the `after` of the following page of `cases`")
    ] = None

    @property
    def summary(self) -> str:
        """Its tests in a sentence or two."""
        counts = self.counts
        if counts is None:
            return "No replica reported tests."
        reported = counted(len(self.reports), "replica")
        alike = Counter(report.report_sha256 for report in self.reports).most_common(1)[0][1]
        are_equal = "all alike" if alike == len(self.reports) else f"{alike} of them alike"
        if alike == 1 < len(self.reports):
            are_equal = "each another report"
        total = "" if counts.total is None else f" {counted(counts.total, 'test')}:"
        return f"{reported} reported tests, {are_equal}.{total} {', '.join(self._parts(counts))}."

    @property
    def sets(self) -> list[tuple[list[str], int]]:
        """The replicas of each set of cases, with the number of cases."""
        found: dict[str, list[ReportView]] = {}
        for report in self.reports:
            found.setdefault(report.set_sha256, []).append(report)
        return [
            ([report.replica for report in reports], reports[0].total) for reports in found.values()
        ]

    @property
    def is_worth_rebuilding(self) -> bool:
        """Did cases fail, and is none of these failures agreed on?"""
        return bool(self.cases) and all(row.agreed != CaseOutcome.FAILED for row in self.cases)

    def _parts(self, counts: CaseCounts) -> list[str]:
        agreed = Counter(row.agreed for row in self.cases)
        new = sum(row.since == NEW for row in self.cases)
        told = {
            "passed": counts.passed,
            "failed": counts.failed,
            UNSETTLED: agreed[UNSETTLED],
            "warned": counts.warned - counts.quarantined,
            "quarantined": counts.quarantined,
            "skipped": counts.skipped,
        }
        parts = [f"{number} {name}" for name, number in told.items() if number]
        if new:
            parts = [f"{part} ({new} new)" if " failed" in part else part for part in parts]
        return parts or ["no failure is agreed on" if self.cases else "none failed"]


class Differed(msgspec.Struct, frozen=True):
    """How often a replica was on the smaller side when replicas differed about a case."""

    replica: str
    times: int


class CaseView(msgspec.Struct, frozen=True):
    """How a case stands in a repository, by the builds of the last 30 days, at most 200."""

    id: str
    sha256: str
    repository: str
    state: str
    score: Annotated[
        float,
        msgspec.Meta(
            description="lower end of the 95 % Wilson interval of how often a report differs"
        ),
    ]
    observations: Annotated[int, msgspec.Meta(description="builds that say something of it")]
    disagreements: Annotated[int, msgspec.Meta(description="builds in which replicas differed")]
    made_red: Annotated[int, msgspec.Meta(description="red builds in which it failed")]
    last_seen: Annotated[
        str | None, msgspec.Meta(description="when it last did not pass everywhere")
    ]
    first_commit: Annotated[str, msgspec.Meta(description="at which it first did not")]
    differed: tuple[Differed, ...]


class QuarantinedView(msgspec.Struct, frozen=True):
    """A case that the pipeline file quarantines, as f + 1 replicas say."""

    id: str
    sha256: Annotated[str, msgspec.Meta(description="of the id; its address")]
    until: Annotated[str, msgspec.Meta(description="the day (UTC) from which it may not fail")]
    days_left: Annotated[
        int, msgspec.Meta(description="from the newest build's commit on; 0 or less: it is over")
    ]
    reason: str


class CasePage(msgspec.Struct, frozen=True):
    """Some cases, the highest score first; `next`: the `after` of the following page."""

    cases: tuple[CaseView, ...]
    next: str | None
    quarantined: Annotated[
        tuple[QuarantinedView, ...],
        msgspec.Meta(description="by the newest build with tests, on each page"),
    ] = ()


class SeenBuildView(msgspec.Struct, frozen=True):
    """What one build saw of a case; `seen` is empty if it says nothing of it."""

    build: str
    branch: str
    commit: str
    decided: str | None
    is_red: bool
    is_disagreement: bool
    seen: tuple[SeenOutcome, ...]

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """Each outcome with the replicas that saw it."""
        return _groups(self.seen)


class CaseHistory(msgspec.Struct, frozen=True):
    """GET /api/v1/tests/<sha256>: a case, and what the builds saw of it, the newest first."""

    case: CaseView
    builds: tuple[SeenBuildView, ...]
    elsewhere: Annotated[
        tuple[str, ...], msgspec.Meta(description="other repositories with a case of this id")
    ]


class CountedReports(msgspec.Struct, frozen=True):
    """The reports of a build that can be compared: all are of one commit and pipeline file."""

    compared: ResultKey
    ballots: Mapping[str, ResultWithTests]

    @property
    def reports(self) -> dict[str, CaseReport]:
        """By replica."""
        return {replica: ballot.tests for replica, ballot in self.ballots.items()}


def counted_reports(
    cast: Mapping[str, Ballot], agreeing: Sequence[str] = ()
) -> CountedReports | None:
    """The reports among these ballots, by replica; None: there are none.

    agreeing: the replicas that the verdict names.
    """
    tested = {name: b for name, b in cast.items() if isinstance(b, ResultWithTests)}
    sources = {
        name: (ballot.compared.commit, ballot.compared.pipeline_sha256)
        for name, ballot in tested.items()
    }
    ballots = {name: tested[name] for name in comparable(sources, agreeing)}
    if not ballots:
        return None
    return CountedReports(next(iter(ballots.values())).compared, ballots)


def agreed_on(found: CountedReports, quorums: Quorums) -> CaseAgreement:
    """What these reports agree on."""
    agreement = agreed_cases(found.ballots.items(), found.compared, quorums)
    assert agreement is not None, "there is a report"
    return agreement


class Baseline(msgspec.Struct, frozen=True):
    """The build that a build's cases are compared with, and what was agreed on about it."""

    build: bytes
    agreement: CaseAgreement


def build_cases_view(
    build: bytes,
    found: CountedReports | None,
    quorums: Quorums,
    *,
    baseline: Baseline | None = None,
    standings: Mapping[str, CaseStanding] = {},
    slowest: tuple[SlowCase, ...] = (),
) -> BuildCasesView:
    """All that is to be shown of a build's cases, but for their messages. found: its reports."""
    if found is None:
        return BuildCasesView(build.hex(), (), None, None, False, None, (), (), ())
    agreement = agreed_on(found, quorums)
    reports = found.reports
    left_out = observe(reports, quorums.faults_max).left_out
    return BuildCasesView(
        build=build.hex(),
        reports=tuple(
            _report_view(replica, report, is_left_out=replica in left_out)
            for replica, report in sorted(reports.items())
        ),
        agreed_report_sha256=agreement.report_sha256,
        counts=agreement.counts,
        sets_differ=agreement.sets_differ,
        compared_with=None if baseline is None else baseline.build.hex(),
        cases=_rows(reports, agreement, baseline, standings=standings),
        fixed=() if baseline is None else fixed_cases(agreement, baseline.agreement),
        slowest=slowest,
    )


def with_messages(
    view: BuildCasesView, messages: Mapping[str, Mapping[str, str]]
) -> BuildCasesView:
    """The same, with what replicas say of the failures. messages: by replica and case."""

    def told(case: str, seen: SeenOutcome) -> SeenOutcome:
        message = messages.get(seen.replica, {}).get(case)
        return msgspec.structs.replace(seen, message=message)

    rows = tuple(
        msgspec.structs.replace(row, seen=tuple(told(row.id, seen) for seen in row.seen))
        for row in view.cases
    )
    return msgspec.structs.replace(view, cases=rows)


def since_when(case: str, baseline: CaseAgreement) -> str | None:
    """Whether a case that failed also failed in the build before: NEW or STILL.

    None: nobody can tell.
    """
    if case in baseline.failed:
        return STILL
    is_open = case in baseline.unsettled or not baseline.is_complete
    return None if is_open else NEW


def fixed_cases(agreement: CaseAgreement, baseline: CaseAgreement) -> tuple[str, ...]:
    """The cases that failed before and do not fail any more, as far as anybody can tell."""
    if not agreement.is_complete:
        return ()
    now = {*agreement.failed, *agreement.unsettled}
    return tuple(case for case in baseline.failed if case not in now)


def case_view(record: CaseRecord) -> CaseView:
    """A case and how it stands."""
    standing = record.standing
    return CaseView(
        id=record.name,
        sha256=record.sha256,
        repository=record.repository,
        state=standing.state,
        score=round(standing.score, 4),
        observations=standing.observations,
        disagreements=standing.disagreements,
        made_red=standing.made_red,
        last_seen=iso_time(standing.last_at),
        first_commit=standing.first_commit,
        differed=tuple(Differed(replica, times) for replica, times in standing.differed),
    )


def seen_build_view(build: bytes, branch: str, seen: SeenCase) -> SeenBuildView:
    """What a build saw of a case."""
    found = seen.observation
    outcomes: dict[str, str] = {}
    if found is not None:
        outcomes.update(dict.fromkeys(found.passed, NOT_FAILED))
        outcomes.update(dict.fromkeys(found.warned, CaseOutcome.WARNED))
        outcomes.update(dict.fromkeys(found.failed, CaseOutcome.FAILED))
    return SeenBuildView(
        build=build.hex(),
        branch=branch,
        commit=seen.build.commit,
        decided=iso_time(seen.build.at),
        is_red=seen.build.is_red,
        is_disagreement=found is not None and found.is_disagreement,
        seen=tuple(SeenOutcome(name, outcome) for name, outcome in sorted(outcomes.items())),
    )


def agreeing_of(verdict: VerdictFields | None) -> tuple[str, ...]:
    """The replicas that a verdict names as agreeing; none without a verdict."""
    return () if verdict is None else verdict.agreeing


def _groups(seen: Sequence[SeenOutcome]) -> list[tuple[str, list[str]]]:
    """What most replicas saw comes last: what is rare is what people look for."""
    by_outcome: dict[str, list[str]] = {}
    for one in seen:
        by_outcome.setdefault(one.outcome, []).append(one.replica)
    return sorted(by_outcome.items(), key=lambda group: (len(group[1]), group[0]))


def _report_view(replica: str, report: CaseReport, *, is_left_out: bool) -> ReportView:
    return ReportView(
        replica=replica,
        report_sha256=report.report_sha256,
        set_sha256=report.set_sha256,
        total=report.total,
        passed=report.passed,
        failed=report.failed,
        skipped=report.skipped,
        warned=report.warned,
        is_cut=report.is_cut,
        is_left_out=is_left_out,
    )


def _rows(
    reports: Mapping[str, CaseReport],
    agreement: CaseAgreement,
    baseline: Baseline | None,
    *,
    standings: Mapping[str, CaseStanding],
) -> tuple[CaseRow, ...]:
    """New failures first, then failed, unsettled, warned and outvoted cases, each by id."""
    named = {replica: cases_named(report) for replica, report in reports.items()}
    bad = (CaseOutcome.FAILED, CaseOutcome.WARNED)
    cases = {case for found in named.values() for case, told in found.items() if told in bad}
    rows = []
    for case in cases:
        agreed = _agreed_outcome(case, agreement)
        is_compared = baseline is not None and agreed == CaseOutcome.FAILED
        standing = standings.get(case)
        rows.append(
            CaseRow(
                id=case,
                sha256=case_sha256(case),
                agreed=agreed,
                since=since_when(case, baseline.agreement) if baseline and is_compared else None,
                state=None if standing is None else standing.state,
                seen=tuple(
                    SeenOutcome(replica, _outcome(case, report, named[replica]))
                    for replica, report in sorted(reports.items())
                ),
            )
        )
    order = (CaseOutcome.FAILED, UNSETTLED, CaseOutcome.WARNED, OUTVOTED)
    return tuple(sorted(rows, key=lambda r: (r.since != NEW, order.index(r.agreed), r.id)))


def _agreed_outcome(case: str, agreement: CaseAgreement) -> str:
    if case in agreement.failed:
        return CaseOutcome.FAILED
    if case in agreement.warned:
        return CaseOutcome.WARNED
    return UNSETTLED if case in agreement.unsettled else OUTVOTED


def _outcome(case: str, report: CaseReport, named: Mapping[str, CaseOutcome]) -> str:
    """How this report has the case. named: the cases that it names."""
    found = named.get(case)
    if found is not None:
        return found
    if report.lines:
        return ABSENT
    return UNKNOWN if report.is_cut else NOT_FAILED
