"""Test cases as the archive has them: of a build, of a repository, and one case's history."""

import asyncio
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from ci.case_results import case_sha256
from ci.flaky import CaseStanding, CaseState, SeenBuild, not_passed_in, observe
from ci.operations import Event, Outcome
from ci.statement import VerdictFields, parse_statement
from client.storage.archive import Archive, BuildRecord
from client.storage.case_archive import CasePlace
from client.storage.case_extract import CaseExtract
from client.views.build_view import read_ballot
from client.views.case_view import (
    NEW,
    Baseline,
    BuildCasesView,
    CaseHistory,
    CasePage,
    CountedReports,
    QuarantinedView,
    SlowCase,
    agreed_on,
    agreeing_of,
    build_cases_view,
    case_view,
    counted_reports,
    seen_build_view,
    since_when,
    with_messages,
)
from pbft.quorums import Quorums

SLOWEST_SHOWN = 20
REPOSITORIES_MAX = 200


class NoSuchCase(Exception):
    """No case has that id, or none that is kept; one line what to do."""


class NewestCases(msgspec.Struct, frozen=True):
    """A repository's newest build with test reports: its slowest cases, and quarantined ones."""

    build: BuildRecord
    slowest: tuple[SlowCase, ...]
    quarantined: tuple[QuarantinedView, ...]


class CaseReader:
    """Reads what one gateway's archive has of test cases, and notes what builds saw of them."""

    def __init__(self, archive: Archive, quorums: Quorums) -> None:
        self._archive = archive
        self._quorums = quorums

    def note(self, record: BuildRecord) -> None:
        """Take in what the ballots of a decided build say of its cases, and what follows from it.

        Call it inside a transaction. Again and again is fine: a late ballot completes a build.
        Raises StorageFailed.
        """
        verdict = _verdict_of(record)
        counted = self.counted(record)
        if verdict is None or counted is None or record.decided_at is None:
            return
        seen = SeenBuild(
            at=record.decided_at,
            commit=counted.compared.commit or "",
            branch=record.branch if record.event in (Event.PUSH, Event.CRON) else None,
            is_red=verdict.outcome is not Outcome.PASSED,
            seen=observe(counted.reports, self._quorums.faults_max),
        )
        cases = self._archive.cases
        cases.put(record.number, record.repository, seen)
        cases.update(record.repository, self._quorums.faults_max, record.decided_at)

    def counted(self, record: BuildRecord) -> CountedReports | None:
        """The reports among the ballots of a build; None: there are none. Raises StorageFailed."""
        ballots = self._archive.ballots(record.build)
        cast = {ballot.replica: read_ballot(ballot.signed) for ballot in ballots}
        return counted_reports(cast, agreeing_of(_verdict_of(record)))

    def baseline(self, record: BuildRecord) -> Baseline | None:
        """What a build's cases are compared with: the build of its target branch before it.

        None: there is none, or it has no reports.
        """
        if record.event is Event.TAG:
            return None
        before = self._archive.newest_decided(record.repository, record.branch, record.number)
        counted = None if before is None else self.counted(before)
        if before is None or counted is None:
            return None
        return Baseline(before.build, agreed_on(counted, self._quorums))

    def new_failures(self, record: BuildRecord, failed: Iterable[str]) -> list[str] | None:
        """Those of a build's failed cases that did not fail in the build that it is compared with.

        None: there is none.
        """
        baseline = self.baseline(record)
        if baseline is None:
            return None
        return [case for case in failed if since_when(case, baseline.agreement) == NEW]

    async def build_cases(
        self, record: BuildRecord, slowest_max: int = SLOWEST_SHOWN
    ) -> BuildCasesView:
        """All that is known of a build's cases."""
        counted = self.counted(record)
        if counted is None:
            return build_cases_view(record.build, None, self._quorums)
        extracts = await self._extracts(record, counted)
        view = build_cases_view(
            record.build,
            counted,
            self._quorums,
            baseline=self.baseline(record),
            standings=self._standings(record, counted),
            slowest=slowest_cases(extracts, slowest_max),
        )
        messages = {replica: extract.messages for replica, extract in extracts.items()}
        return with_messages(view, messages)

    def page(
        self, repository: str, state: CaseState | None, after: str | None, *, cases_max: int
    ) -> CasePage:
        """The cases of a repository that are not healthy, or those in a state.

        after: the id's SHA-256 of the last case of the page before. Raises NoSuchCase.
        """
        place = None
        if after is not None:
            last = self._archive.cases.find(after, repository)
            if not last:
                raise NoSuchCase("`after` must be the sha256 of a case; take it from `next`")
            place = CasePlace(last[0].standing.score, last[0].number)
        records = self._archive.cases.page(repository, state, after=place, cases_max=cases_max + 1)
        shown = tuple(case_view(record) for record in records[:cases_max])
        return CasePage(shown, shown[-1].sha256 if len(records) > cases_max else None)

    def history(self, sha256: str, repository: str | None) -> CaseHistory:
        """What the builds saw of a case. repository: None for the one it was seen in last.

        Raises NoSuchCase.
        """
        found = self._archive.cases.find(sha256)
        record = next((r for r in found if repository in (None, r.repository)), None)
        if record is None:
            raise NoSuchCase(
                "no case of that id is kept: only those are that did not pass everywhere in the"
                " last 30 days; GET /api/v1/tests?repository= lists them"
            )
        builds = []
        for seen in self._archive.cases.seen(record):
            build = self._archive.by_number(seen.number)
            if build is not None:
                builds.append(seen_build_view(build.build, build.branch, seen))
        elsewhere = sorted(r.repository for r in found if r.repository != record.repository)
        return CaseHistory(case_view(record), tuple(builds), tuple(elsewhere))

    def repositories(self) -> list[str]:
        """The repositories whose builds report tests."""
        return self._archive.cases.repositories(REPOSITORIES_MAX)

    async def newest(self, repository: str) -> NewestCases | None:
        """What the newest build of a repository with reports says, or None."""
        number = self._archive.cases.newest_build(repository)
        record = None if number is None else self._archive.by_number(number)
        counted = None if record is None else self.counted(record)
        if record is None or counted is None:
            return None
        extracts = await self._extracts(record, counted)
        return NewestCases(
            record,
            slowest_cases(extracts, SLOWEST_SHOWN),
            quarantined_cases(extracts, self._quorums.weak),
        )

    def _standings(
        self, record: BuildRecord, counted: CountedReports
    ) -> Mapping[str, CaseStanding]:
        named = {case for report in counted.reports.values() for case in not_passed_in(report)}
        return self._archive.cases.standings_of(record.repository, named)

    async def _extracts(
        self, record: BuildRecord, counted: CountedReports
    ) -> dict[str, CaseExtract]:
        archived = [b.replica for b in self._archive.ballots(record.build) if b.tests_archived]
        names = [name for name in archived if name in counted.ballots]
        return await asyncio.to_thread(self._archive.read_extracts, record.build, names)


def quarantined_cases(
    extracts: Mapping[str, CaseExtract], needed: int
) -> tuple[QuarantinedView, ...]:
    """The quarantined cases that so many replicas name alike, the fewest days left first."""
    named = Counter(entry for extract in extracts.values() for entry in set(extract.quarantine))
    agreed = [entry for entry, count in named.items() if count >= needed]
    agreed.sort(key=lambda entry: (entry.days_left, entry.case))
    return tuple(
        QuarantinedView(e.case, case_sha256(e.case), e.until, e.days_left, e.reason) for e in agreed
    )


def slowest_cases(extracts: Mapping[str, CaseExtract], cases_max: int) -> tuple[SlowCase, ...]:
    """The slowest cases, by the median of the replicas that have each among their slowest."""
    seconds: dict[str, list[float]] = {}
    for extract in extracts.values():
        for case, spent in extract.slowest:
            seconds.setdefault(case, []).append(spent)
    medians = [(statistics.median(spent), case) for case, spent in seconds.items()]
    medians.sort(key=lambda found: (-found[0], found[1]))
    return tuple(
        SlowCase(case, case_sha256(case), round(median, 3)) for median, case in medians[:cases_max]
    )


def _verdict_of(record: BuildRecord) -> VerdictFields | None:
    return None if record.statement is None else parse_statement(record.statement).verdict
