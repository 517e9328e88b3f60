"""Which test cases are flaky, by what the replicas of each build saw of the same commit.

Not replicated: anybody computes it again from the reports in the ledger and the times of the
verdicts. Each build has n runs of one commit, so no case is ever run twice to find out.

The rule: a case is flaky only if no f replicas explain it. Reports of at least 2f+1 replicas count,
so the larger side of each disagreement has an honest replica. If more than f replicas were ever on
the smaller side, one of them is honest too: honest machines differed. If it was always the same f
or fewer, they may lie, be broken or just be different, and the case is told as theirs.
"""

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ci.case_reports import cases_named, quarantined_in
from ci.case_results import CaseOutcome
from ci.ledger import LateBallotEntry, RecordedCases, VerdictEntry, whole_cases
from ci.operations import CaseReport, NamedCase
from ci.statement import parse_statement

DAY_SECONDS = 86_400.0
WINDOW_SECONDS = 30 * DAY_SECONDS
WINDOW_BUILDS_MAX = 200
# Without a disagreement for so long, and in so many builds, a case is healthy again.
HEALTHY_SECONDS = 14 * DAY_SECONDS
HEALTHY_OBSERVATIONS = 50
# Failed in so many builds of a branch, the newest ones, it is broken.
BROKEN_BUILDS = 3
# A replica that differs in so many cases has trouble of its own, and they say nothing of the tests.
TROUBLE_CASES_MIN = 5
TROUBLE_SHARE = 0.2
# Commit and SHA-256 of the pipeline file: what a report is of.
Source = tuple[str | None, str | None]
# 95 % of a normal distribution lie within so many standard deviations.
_DEVIATIONS = 1.959964


class CaseState(enum.StrEnum):
    """What is known of a case. The worst news first: the first state that holds counts."""

    # agreed failed in the newest builds of a branch, whatever f replicas say
    BROKEN = "broken"
    # honest machines differed, on two commits or more
    FLAKY = "flaky"
    # only the same f replicas or fewer ever differed: their fault, not the case's
    ONE_MACHINE = "one machine"
    # there was a disagreement, which may still become either
    SUSPECT = "suspect"
    HEALTHY = "healthy"


class CaseObservation(msgspec.Struct, frozen=True, array_like=True):
    """What the replicas of one build saw of one case, each in one of these, sorted.

    passed: also those that skipped it; reports without `lines` do not tell the two apart.
    """

    failed: tuple[str, ...]
    warned: tuple[str, ...]
    passed: tuple[str, ...]

    @property
    def reports(self) -> int:
        """How many replicas reported it."""
        return len(self.failed) + len(self.warned) + len(self.passed)

    @property
    def is_disagreement(self) -> bool:
        """Did replicas differ, or one of them from itself (`warned`)?"""
        return bool(self.warned or (self.failed and self.passed))

    @property
    def differing(self) -> tuple[str, ...]:
        """The replicas on the smaller side; of a tie those of both. `warned` ones always are."""
        sides = sorted((self.failed, self.passed), key=len)
        is_tie = len(sides[0]) == len(sides[1])
        return (*self.warned, *sides[0], *(sides[1] if is_tie else ()))

    @property
    def differing_count(self) -> int:
        """How many reports are not as the others'; of a tie one half."""
        return len(self.warned) + min(len(self.failed), len(self.passed))

    def is_failed(self, faults_max: int) -> bool:
        """Is one of those that saw it fail honest?"""
        return len(self.failed) > faults_max

    def is_broken(self, faults_max: int) -> bool:
        """Is it failed, and may all who say otherwise be faulty?"""
        return self.is_failed(faults_max) and self.reports - len(self.failed) <= faults_max


class BuildObservation(msgspec.Struct, frozen=True, array_like=True):
    """What is to be learned of a build's cases.

    set_sha256: of the reports that count; None: too few have the same cases.
    replicas: those whose reports count. left_out: those of the same cases with trouble of their
    own. uncut: those that name all their failed and warned cases, so that they saw the others pass.
    cases: the failed and warned ones.
    """

    set_sha256: str | None
    replicas: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    uncut: tuple[str, ...] = ()
    cases: Mapping[str, CaseObservation] = {}


class SeenBuild(msgspec.Struct, frozen=True, array_like=True):
    """A decided build, and what was seen of its cases.

    at: when it was decided, in seconds since 1970. branch: None unless the branch was pushed.
    is_red: its verdict is not `passed`.
    """

    at: float
    commit: str
    branch: str | None
    is_red: bool
    seen: BuildObservation


class CaseStanding(msgspec.Struct, frozen=True, array_like=True):
    """What the builds of a repository say of one case.

    score: the lower end of the 95 % Wilson interval of how often a report differs, for ranking.
    observations: builds that say something of it. disagreements: those in which replicas differed.
    made_red: those that were red and in which it failed. last_at: when it was last seen not to
    pass everywhere. first_commit: of the first of these builds. differed: how often which replica
    was on the smaller side, the most frequent first.
    """

    state: CaseState
    score: float
    observations: int
    disagreements: int
    made_red: int
    last_at: float
    first_commit: str
    differed: tuple[tuple[str, int], ...]


def comparable(sources: Mapping[str, Source], agreeing: Iterable[str] = ()) -> tuple[str, ...]:
    """The replicas, sorted, whose reports can be compared: all are of one commit and pipeline file.

    sources: of each report, by replica. agreeing: the replicas that the verdict names; their source
    counts. Without an agreed value it is the one that most have, of a tie that of the first name.
    """
    agreed = next((sources[name] for name in agreeing if name in sources), None)
    by_source: dict[Source, list[str]] = {}
    for replica in sorted(sources):
        by_source.setdefault(sources[replica], []).append(replica)
    if agreed is not None:
        return tuple(by_source[agreed])
    largest = max(by_source.values(), key=len) if by_source else []
    return tuple(largest)


def recorded_reports(
    verdict: VerdictEntry, late: Iterable[LateBallotEntry] = ()
) -> dict[str, CaseReport]:
    """The reports of a build in the ledger, by replica, as far as they can be compared.

    late: its late ballots. Raises InvalidStatement, and ValueError for a report that is none.
    """
    late_ballots = [entry.ballot for entry in late]
    reports = whole_cases(verdict.ballots) | whole_cases(late_ballots)
    ballots = (*verdict.ballots, *late_ballots)
    sources = {b.replica: (b.commit, b.pipeline_sha256) for b in ballots if b.replica in reports}
    agreeing = parse_statement(bytes(verdict.statement)).verdict.agreeing
    return {name: _as_cast(reports[name]) for name in comparable(sources, agreeing)}


def observe(reports: Mapping[str, CaseReport], faults_max: int) -> BuildObservation:
    """What the reports of one build, by replica, say of its cases.

    reports: those that are of one commit and one pipeline file, of ballots that were taken.
    """
    alike = _of_the_same_cases(reports)
    enough = 2 * faults_max + 1
    if len(alike) < enough:
        return BuildObservation(None)
    set_sha256 = next(iter(alike.values())).set_sha256
    named = {replica: not_passed_in(report) for replica, report in alike.items()}
    troubled = _troubled(alike, named)
    kept = tuple(sorted(alike.keys() - troubled))
    uncut = tuple(replica for replica in kept if not alike[replica].is_cut)
    left_out = tuple(sorted(troubled))
    if len(kept) < enough:
        return BuildObservation(None, left_out=left_out)
    cases = {
        case: observation
        for case in sorted({case for replica in kept for case in named[replica]})
        if (observation := _observation(case, kept, uncut, named=named)).reports >= enough
    }
    return BuildObservation(set_sha256, kept, left_out, uncut, cases)


def not_passed_in(report: CaseReport) -> dict[str, CaseOutcome]:
    """The failed and the warned cases that a report names.

    A quarantined one has failed: that its failure does not count says nothing of how it ran.
    """
    bad = (CaseOutcome.FAILED, CaseOutcome.WARNED)
    found = {case: outcome for case, outcome in cases_named(report).items() if outcome in bad}
    return found | dict.fromkeys(quarantined_in(report), CaseOutcome.FAILED)


def standings(builds: Iterable[SeenBuild], faults_max: int, now: float) -> dict[str, CaseStanding]:
    """Each case that did not pass everywhere in these builds of one repository, oldest first.

    Only the newest WINDOW_BUILDS_MAX of the last WINDOW_SECONDS before `now` count. A case that is
    not among the results was seen to pass everywhere, or never.
    """
    recent = [build for build in builds if now - build.at <= WINDOW_SECONDS]
    window = recent[-WINDOW_BUILDS_MAX:]
    known = _Window(window, faults_max)
    cases = dict.fromkeys(case for build in window for case in build.seen.cases)
    return {case: known.standing(case, now) for case in cases}


def wilson_lower(differing: int, reports: int) -> float:
    """The lower end of the 95 % Wilson score interval of differing / reports; 0 of none."""
    if reports == 0:
        return 0.0
    share, square = differing / reports, _DEVIATIONS**2
    spread: float = (share * (1 - share) / reports + square / (4 * reports**2)) ** 0.5
    low = (share + square / (2 * reports) - _DEVIATIONS * spread) / (1 + square / reports)
    return max(0.0, low)


class _Window:
    """The builds that count, and in which of their sets each case is."""

    def __init__(self, builds: Sequence[SeenBuild], faults_max: int) -> None:
        self._builds = builds
        self._faults_max = faults_max
        self._enough = 2 * faults_max + 1
        # A case is known to be in a set of cases if a report with that set names it.
        self._sets: dict[str, set[str]] = {}
        newest: dict[str, list[SeenBuild]] = {}
        for build in builds:
            if build.seen.set_sha256 is None:
                continue
            for case in build.seen.cases:
                self._sets.setdefault(case, set()).add(build.seen.set_sha256)
            if build.branch is not None:
                newest.setdefault(build.branch, []).append(build)
        self._newest = [found[-BROKEN_BUILDS:] for found in newest.values()]

    def standing(self, case: str, now: float) -> CaseStanding:
        """What is known of that case, which one of the builds names."""
        seen = self._observations(case)
        differing = [index for index, (_, found) in enumerate(seen) if found.is_disagreement]
        if differing and self._is_over(seen[differing[-1]][0], len(seen) - 1 - differing[-1], now):
            differing = []
        disagreements = [seen[index] for index in differing]
        noted = [(build, found) for build, found in seen if found.failed or found.warned]
        differed = Counter(name for _, found in disagreements for name in found.differing)
        return CaseStanding(
            state=self._state(case, disagreements, set(differed)),
            score=wilson_lower(
                sum(found.differing_count for _, found in disagreements),
                sum(found.reports for _, found in seen),
            ),
            observations=len(seen),
            disagreements=len(disagreements),
            made_red=sum(b.is_red and found.is_failed(self._faults_max) for b, found in noted),
            last_at=noted[-1][0].at,
            first_commit=noted[0][0].commit,
            differed=tuple(sorted(differed.items(), key=lambda item: (-item[1], item[0]))),
        )

    def _observations(self, case: str) -> list[tuple[SeenBuild, CaseObservation]]:
        """The builds that say something of it, oldest first."""
        sets, found = self._sets[case], []
        for build in self._builds:
            seen = build.seen
            if seen.set_sha256 not in sets:
                continue
            observation = seen.cases.get(case)
            if observation is None and len(seen.uncut) >= self._enough:
                observation = CaseObservation((), (), seen.uncut)
            if observation is not None:
                found.append((build, observation))
        return found

    def _is_over(self, last: SeenBuild, observations_since: int, now: float) -> bool:
        """Was the last disagreement so long ago that it does not count any more?"""
        return now - last.at >= HEALTHY_SECONDS and observations_since >= HEALTHY_OBSERVATIONS

    def _state(
        self,
        case: str,
        disagreements: Sequence[tuple[SeenBuild, CaseObservation]],
        differed: set[str],
    ) -> CaseState:
        if any(self._is_broken(case, newest) for newest in self._newest):
            return CaseState.BROKEN
        if not disagreements:
            return CaseState.HEALTHY
        commits = {build.commit for build, _ in disagreements}
        if len(differed) > self._faults_max and len(commits) >= 2:
            return CaseState.FLAKY
        if len(differed) <= self._faults_max and len(disagreements) >= 2:
            return CaseState.ONE_MACHINE
        return CaseState.SUSPECT

    def _is_broken(self, case: str, newest: Sequence[SeenBuild]) -> bool:
        found = [build.seen.cases.get(case) for build in newest]
        return len(found) == BROKEN_BUILDS and all(
            observation is not None and observation.is_broken(self._faults_max)
            for observation in found
        )


def _as_cast(recorded: RecordedCases) -> CaseReport:
    return CaseReport(
        report_sha256=recorded.report_sha256,
        set_sha256=recorded.set_sha256,
        passed=recorded.passed,
        failed=recorded.failed,
        skipped=recorded.skipped,
        warned=recorded.warned,
        lines=recorded.lines,
        not_passed=tuple(
            NamedCase(case.id, CaseOutcome(case.outcome)) for case in recorded.not_passed
        ),
        is_cut=recorded.is_cut,
        quarantined=recorded.quarantined,
    )


def _of_the_same_cases(reports: Mapping[str, CaseReport]) -> dict[str, CaseReport]:
    """The reports with the set of cases that most have; none where two sets have as many."""
    counted = Counter(report.set_sha256 for report in reports.values()).most_common(2)
    if not counted or (len(counted) == 2 and counted[0][1] == counted[1][1]):
        return {}
    return {name: found for name, found in reports.items() if found.set_sha256 == counted[0][0]}


def _troubled(
    reports: Mapping[str, CaseReport], named: Mapping[str, Mapping[str, CaseOutcome]]
) -> set[str]:
    """The replicas that differ in so many cases that it is not the tests that differ.

    One that is cut differs in at least as many cases as it failed more or fewer than the median.
    """
    uncut = [replica for replica, report in reports.items() if not report.is_cut]
    differing: Counter[str] = Counter()
    for case in {case for found in named.values() for case in found}:
        observation = _observation(case, tuple(sorted(reports)), uncut, named=named)
        if observation.failed and observation.passed:
            differing.update(set(observation.differing) - set(observation.warned))
    failed = sorted(report.failed for report in reports.values())
    totals = sorted(report.total for report in reports.values())
    median_failed, median_total = (found[(len(found) - 1) // 2] for found in (failed, totals))
    cases_max = max(TROUBLE_CASES_MIN - 1, TROUBLE_SHARE * median_total)
    return {
        replica
        for replica, report in reports.items()
        if max(differing[replica], abs(report.failed - median_failed)) > cases_max
    }


def _observation(
    case: str,
    replicas: Iterable[str],
    uncut: Iterable[str],
    *,
    named: Mapping[str, Mapping[str, CaseOutcome]],
) -> CaseObservation:
    """What these replicas say of a case. One that is cut says nothing of what it does not name."""
    told = {replica: named[replica].get(case) for replica in replicas}
    known = set(uncut)
    return CaseObservation(
        failed=tuple(name for name, outcome in told.items() if outcome is CaseOutcome.FAILED),
        warned=tuple(name for name, outcome in told.items() if outcome is CaseOutcome.WARNED),
        passed=tuple(name for name, outcome in told.items() if outcome is None and name in known),
    )
