"""Which steps of a pipeline run, one after the other, and what the build comes to. Blocking.

The rule: the first step that does not pass is what the build comes to, unless the pipeline ignores
how that step ends (`failure: ignore`), or quarantines the tests that failed in it. After it only
those steps run that ask for it (`when: status`), and how they end never counts.
"""

import time
from collections.abc import Iterator

import msgspec

from ci.operations import Outcome
from common.pipeline.pipeline_file import Pipeline, Step
from node.sandboxes.sandbox import RunResult, Work
from node.sandboxes.workspace_files import WorkspaceFiles

# of the steps before one that had no time left
LONGEST_MAX = 5


class StepSequence:
    """The steps of one run. Whoever runs them takes each from `steps`, and says how it ended."""

    def __init__(
        self,
        work: Work,
        pipeline: Pipeline,
        wanted: tuple[Step, ...],
        *,
        passed: RunResult,
        files: WorkspaceFiles | None = None,
    ) -> None:
        """The time of the build begins now.

        passed: its result if nothing fails. files: None if the pipeline names no test reports.
        """
        self.result = passed
        self._work = work
        self._pipeline = pipeline
        self._wanted = wanted
        self._files = files
        self._began_at = self._step_began_at = time.monotonic()
        # how long each step took, by name
        self._seconds: dict[str, float] = {}

    @property
    def has_failed(self) -> bool:
        """Whether a step did not pass whose end counts."""
        return self.result.outcome is not Outcome.PASSED

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Each step that is to run now, with its place among all. People are told."""
        for number, step in enumerate(self._wanted, 1):
            if not step.is_due(has_failed=self.has_failed):
                continue
            if self.has_failed and self._seconds_left() <= 0.0:
                self._work.log.note(f"step {step.name}: no time is left for it")
                continue
            self._work.begin_step(step, number, len(self._wanted))
            yield number, step

    def begin(self, step: Step) -> float:
        """Begin the step's time; how long it may take.

        Raises what WorkspaceFiles raises, as `end` does.
        """
        if self._files is not None and not self.has_failed and not step.is_failure_ignored:
            self._files.note_before_step()
        self._step_began_at = time.monotonic()
        return min(step.timeout_seconds, max(0.0, self._seconds_left()))

    def end(self, step: Step, result: RunResult) -> None:
        """Take how the step ended."""
        seconds = time.monotonic() - self._step_began_at
        if result.outcome is Outcome.PASSED:
            pass
        elif self.has_failed:
            told = f"{self._in_words(step, result, seconds)}; the build had failed before"
            self._work.log.note(f"step {step.name} did not pass: {told}")
        elif step.is_failure_ignored:
            told = f"{self._in_words(step, result, seconds)}; ignored (failure: ignore)"
            self._work.log.note(f"step {step.name} did not pass: {told}")
        elif self._files is not None and (why := self._files.excuse(result)) is not None:
            told = f"{self._in_words(step, result, seconds)}; taken as passed, since {why}"
            self._work.log.note(f"step {step.name} did not pass: {told}")
        else:
            told = self._in_words(step, result, seconds)
            problem = f"step {step.name} did not pass: {told}"
            self.result = msgspec.structs.replace(result, problem=problem)
        self._seconds[step.name] = seconds

    def _seconds_left(self) -> float:
        # what a replica spends on looking at reports is none of the build's time
        spent = 0.0 if self._files is None else self._files.seconds_spent
        return self._began_at + spent + self._pipeline.timeout_seconds - time.monotonic()

    def _in_words(self, step: Step, result: RunResult, seconds: float) -> str:
        """How a step ended that did not pass, and which limit it reached."""
        if result.outcome is Outcome.OUT_OF_MEMORY:
            mebibytes = self._pipeline.step_memory_bytes // 2**20
            return f"out of memory after {seconds:.1f} s; it may use {mebibytes} MiB (resources)"
        if result.outcome is not Outcome.TIMED_OUT:
            return f"exit code {result.exit_code} after {seconds:.1f} s"
        if self._seconds_left() > 0.0:
            return f"ended after {seconds:.1f} s; it may take {step.timeout_seconds} s"
        longest = sorted(self._seconds.items(), key=lambda item: -item[1])[:LONGEST_MAX]
        before = ", ".join(f"{name} {taken:.1f} s" for name, taken in longest)
        return (
            f"ended after {seconds:.1f} s; all steps together may take"
            f" {self._pipeline.timeout_seconds} s"
            + (f"; the longest before it: {before}" if before else "")
        )
