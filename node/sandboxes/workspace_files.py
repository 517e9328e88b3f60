"""The files that a build leaves in its workspace, as far as its pipeline names them. Blocking.

Artifacts are copied if all steps passed. Test reports are read after the last step, also after one
that failed; and after a failed step, if a quarantine (`tests: quarantine:`) may be why its failure
does not count.

The rule: only the reports that a step wrote say why it failed. Else the failed test of one step
would excuse another step, which tests something else.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ci.case_results import CaseOutcome
from ci.operations import Artifact, Outcome
from common.english import counted
from common.pipeline.pipeline_file import Pipeline, Quarantined, ReportOrder, commit_date
from common.safe_text import log_text
from node.outputs.artifact_store import Collector, FilesWrong, Selection, artifacts_of
from node.outputs.case_details import (
    CaseDetails,
    QuarantineRow,
    quarantined,
    read_reports,
    reports_of,
)
from node.outputs.kept_builds import remove_folder
from node.sandboxes.sandbox import RunResult, Work, failed
from node.work.threads import Stop

# How test runners say that tests failed, and nothing else went wrong: most of them, ctest, nextest.
TESTS_FAILED_CODES = frozenset({1, 8, 100})


class WorkspaceFiles:
    """What the steps of one run leave. One thread uses it."""

    def __init__(
        self,
        work: Work,
        pipeline: Pipeline,
        *,
        workspace: str,
        take: Callable[[Collector], None],
        stop: Stop,
    ) -> None:
        """workspace: its path for the steps. take: offers the workspace's files to a collector.

        All methods raise what `take` raises, but for FilesWrong; and InfrastructureError, Stopped,
        OSError.
        """
        self._work = work
        self._pipeline = pipeline
        self._workspace = workspace
        self._take = take
        self._stop = stop
        tests, seconds = pipeline.tests, work.origin.commit_seconds
        self._in_force: Mapping[str, Quarantined] = {} if tests is None else tests.in_force(seconds)
        # the reports that were there before the step; None: not known
        self._before: frozenset[Artifact] | None = None
        # on the reports between the steps
        self.seconds_spent = 0.0

    def note_before_step(self) -> None:
        """Note the reports that are there, before each step whose failure counts."""
        if not self._in_force:
            return
        with self._reading() as folder:
            self._before = None
            with suppress(FilesWrong):
                self._before = frozenset(self._reports(folder))

    def excuse(self, result: RunResult) -> str | None:
        """Why the step that ended so counts as passed, in words; None: it does not.

        It does if its exit code says that tests failed, and each failed case of the reports that it
        wrote is quarantined.
        """
        if (
            self._before is None
            or result.outcome is not Outcome.FAILED
            or result.exit_code not in TESTS_FAILED_CODES
        ):
            return None
        with self._reading() as folder:
            details = self._details(folder, self._before)
        cases = {case.id for case in details.cases if case.outcome is CaseOutcome.FAILED}
        if not cases or not cases <= self._in_force.keys():
            return None
        what = "test is" if len(cases) == 1 else f"{len(cases)} tests are"
        return f"its failed {what} quarantined"

    def finish(self, result: RunResult) -> RunResult:
        """The result of the steps, with copies of the files that the pipeline names.

        A build that did not make the artifacts that its pipeline names has failed, and so has one
        without a report that is required: on every replica.
        """
        log = self._work.log
        if self._pipeline.artifacts and result.outcome is Outcome.PASSED:
            self._work.show_state("artifacts")
            selection = artifacts_of(self._pipeline.artifacts, self._work.limits)
            try:
                made = self._collected(self._work.artifacts_folder, selection, is_told=True)
                result = msgspec.structs.replace(result, artifacts=made)
            except FilesWrong as wrong:
                result = failed(result, f"artifact {wrong}")
        if (tests := self._pipeline.tests) is None:
            return result
        self._work.show_state("tests")
        found = self._details(self._work.reports_folder, is_told=True)
        self._note_expired(tests, found)
        details = quarantined(found, {case: _in_words(e) for case, e in self._in_force.items()})
        today = commit_date(self._work.origin.commit_seconds)
        entries = tuple(
            QuarantineRow(e.case, str(e.until), (e.until - today).days, e.reason)
            for e in tests.quarantine
        )
        details = msgspec.structs.replace(details, quarantine=entries)
        result = msgspec.structs.replace(result, cases=details)
        if details.problem is None:
            log.note(f"tests: {_counted(details)}")
            return result
        if tests.is_required and result.outcome is Outcome.PASSED:
            problem = f"tests: {details.problem}, and the pipeline requires one (required)"
            return failed(result, problem)
        log.note(f"tests: {details.problem}")
        return result

    @contextmanager
    def _reading(self) -> Iterator[Path]:
        """A folder for copies while a step's reports are looked at."""
        began_at = time.monotonic()
        folder = self._work.folder / "step-reports"
        try:
            yield folder
        finally:
            remove_folder(folder)
            self.seconds_spent += time.monotonic() - began_at

    def _details(
        self, folder: Path, before: Collection[Artifact] = (), *, is_told: bool = False
    ) -> CaseDetails:
        """What the reports say that are not among those before."""
        try:
            files = self._reports(folder, is_told=is_told)
        except FilesWrong as wrong:
            return CaseDetails(problem=f"test report {wrong}")
        new = [file for file in files if file not in before]
        readers = self._work.report_readers
        return read_reports(folder, new, self._workspace, stop=self._stop, readers=readers)

    def _reports(self, folder: Path, *, is_told: bool = False) -> tuple[Artifact, ...]:
        """Copies of all reports that are there. Raises FilesWrong."""
        assert self._pipeline.tests is not None
        selection = reports_of(self._pipeline.tests.junit)
        return self._collected(folder, selection, is_told=is_told)

    def _collected(
        self, folder: Path, selection: Selection, *, is_told: bool
    ) -> tuple[Artifact, ...]:
        """Copies of these files. is_told: the log names each pattern without one.

        Raises FilesWrong.
        """
        collector = Collector(folder, selection)
        self._take(collector)
        files = collector.finish()
        if is_told:
            for pattern in collector.unmatched():
                self._work.log.note(f"no file matches {pattern}")
        return files

    def _note_expired(self, tests: ReportOrder, found: CaseDetails) -> None:
        """A line in the log for each failed case whose quarantine is over."""
        cases = {case.id for case in found.cases if case.outcome is CaseOutcome.FAILED}
        today = commit_date(self._work.origin.commit_seconds)
        for entry in tests.quarantine:
            if entry.case in cases and entry.case not in self._in_force:
                self._work.log.note(
                    f"the quarantine of {log_text(entry.case)} ended on {entry.until}, and the"
                    f" commit is of {today}"
                )


def _in_words(entry: Quarantined) -> str:
    return f"quarantined until {entry.until}: {entry.reason}"


def _counted(cases: CaseDetails) -> str:
    """`812 cases, 2 failed, 810 passed`."""
    counts = Counter(case.outcome for case in cases.cases)
    ended = [f"{counts[outcome]} {outcome}" for outcome in reversed(CaseOutcome) if counts[outcome]]
    return ", ".join((counted(len(cases.cases), "case"), *ended))
