"""Mutants of what a pipeline comes to: failures, cells of a matrix, changed files, quarantine."""

from tests.mutants.mutation_runner import Mutant

_CASES = "node/outputs/cell_cases.py"
_CHANGES = "node/sources/changes.py"
_FILES = "node/sandboxes/workspace_files.py"
_MATRIX = "node/builds/matrix.py"
_PIPELINE = "common/pipeline/pipeline_file.py"
_RUNNER = "node/builds/build_runner.py"
_SEQUENCE = "node/sandboxes/step_sequence.py"

_CASES_TEST = "tests/node/outputs/test_cell_cases.py::"
_CHANGES_TEST = "tests/node/sources/test_changes.py::"
_MATRIX_FILE_TEST = "tests/common/pipeline/test_matrix.py::"
_MATRIX_TEST = "tests/node/builds/test_matrix.py::"
_PIPELINE_TEST = "tests/common/pipeline/test_pipeline_file.py::"
_QUARANTINE_TEST = "tests/node/builds/test_case_reports.py::"
_SANDBOX_TEST = "tests/node/sandboxes/test_process_sandbox.py::"

PIPELINES_MUTANTS: tuple[Mutant, ...] = (
    # --- failure: ignore, when: status ------------------------------------------------------------
    Mutant(
        name="P1 a step with failure: ignore counts",
        file=_SEQUENCE,
        old="        elif step.is_failure_ignored:\n",
        new="        elif False:\n",
        test=_SANDBOX_TEST + "test_what_runs_after_a_failure",
    ),
    Mutant(
        name="P2 what runs after a failure takes its place",
        file=_SEQUENCE,
        old="        elif self.has_failed:\n",
        new="        elif False:\n",
        test=_SANDBOX_TEST + "test_what_runs_after_a_failure",
    ),
    Mutant(
        name="P3 steps for failures run while all is well",
        file=_SEQUENCE,
        old="            if not step.is_due(has_failed=self.has_failed):\n",
        new="            if self.has_failed and not step.is_due(has_failed=True):\n",
        test=_SANDBOX_TEST + "test_what_runs_after_a_failure",
    ),
    Mutant(
        name="P4 steps for failures alone are something that passes",
        file="node/sandboxes/sandbox.py",
        old="        if any(step.is_due(has_failed=False) for step in wanted):\n",
        new="        if wanted:\n",
        test=_SANDBOX_TEST + "test_where_steps_are_for_failures_alone_nothing_passes",
    ),
    Mutant(
        name="P5 a step whose end was ignored is stated as one that passed",
        file=_RUNNER,
        old="        ignored = choice and step.is_failure_ignored\n",
        new="        ignored = False\n",
        test=_SANDBOX_TEST + "test_what_runs_after_a_failure",
    ),
    # --- when: path -------------------------------------------------------------------------------
    Mutant(
        name="P6 the base moves with the target branch",
        file=_CHANGES,
        old="    return line[older] if older < len(line) else None\n",
        new="    return line[0] if older < len(line) else None\n",
        test=_CHANGES_TEST + "test_the_base_stays_when_the_target_takes_commits",
    ),
    Mutant(
        name="P7 the base is where the branch began",
        file=_CHANGES,
        old='        *("rev-list", "--first-parent", f"--max-count={MAINLINE_MAX}", tip, "--"),\n',
        new='        *("rev-list", "--reverse", "--first-parent", tip, "--"),\n',
        test=_CHANGES_TEST + "test_a_request_that_took_in_its_target_changes_its_own_alone",
    ),
    Mutant(
        name="P8 a submodule is a file like any other",
        file=_CHANGES,
        old='        if _SUBMODULE in difference.lstrip(b":").split()[:2]:\n',
        new="        if False:\n",
        test=_CHANGES_TEST + "test_what_cannot_be_told_is_said",
    ),
    Mutant(
        name="P9 where nothing changed no step runs",
        file=_PIPELINE,
        old="        if not paths or are_too_many(filters, paths):\n",
        new="        if paths is None or are_too_many(filters, paths):\n",
        test=_PIPELINE_TEST + "test_when_of_paths",
    ),
    Mutant(
        name="P10 paths leave steps out of a push",
        file=_PIPELINE,
        old="        return event in CHANGING_EVENTS and any(\n",
        new="        return any(\n",
        test=_PIPELINE_TEST + "test_which_builds_depend_on_what_was_changed",
    ),
    # --- matrix -----------------------------------------------------------------------------------
    Mutant(
        name="P11 the last red cell is the result",
        file=_MATRIX,
        old="    for cell, result in ran:\n        if result.outcome is not",
        new="    for cell, result in reversed(ran):\n        if result.outcome is not",
        test=_MATRIX_TEST + "test_all_cells_are_run_and_the_first_that_did_not_pass_is_the_result",
    ),
    Mutant(
        name="P12 an image may be another one in each cell",
        file=_MATRIX,
        old="            if known.setdefault(name, digest) != digest:\n",
        new="            if known.setdefault(name, digest) is None and digest:\n",
        test=_MATRIX_TEST + "test_a_tag_that_moved_between_cells_is_no_finding",
    ),
    Mutant(
        name="P13 cells without a step pass",
        file=_MATRIX,
        old="        return results[0]\n",
        new="        return RunResult(Outcome.PASSED, 0)\n",
        test=_MATRIX_TEST + "test_a_matrix_of_which_no_step_is_wanted_is_skipped",
    ),
    Mutant(
        name="P14 each cell has the time of a build",
        file=_PIPELINE,
        old="        max(1, limits.build_seconds_max // len(cells)),\n",
        new="        limits.build_seconds_max,\n",
        test=_MATRIX_FILE_TEST + "test_all_cells_together_have_the_time_of_a_build",
    ),
    Mutant(
        name="P15 a step runs in cells that it is not for",
        file=_PIPELINE,
        old="        if self.is_elsewhere or self.is_untouched:\n",
        new="        if self.is_untouched:\n",
        test=_MATRIX_FILE_TEST + "test_a_step_may_be_for_some_cells",
    ),
    Mutant(
        name="P16 each cell may make as many files as a build",
        file=_MATRIX,
        old="        if self._is_too_much:\n            return failed(",
        new="        if False:\n            return failed(",
        test=_MATRIX_TEST + "test_artifacts_of_a_cell_are_below_its_name",
    ),
    Mutant(
        name="P17 cases of two cells have one id",
        file=_CASES,
        old='    return cut_id(f"{cell.name}::{case}")\n',
        new="    return cut_id(case)\n",
        test=_CASES_TEST + "test_each_cell_is_a_case_and_begins_the_ids_of_its_cases",
    ),
    # --- quarantine -------------------------------------------------------------------------------
    Mutant(
        name="P18 a quarantine holds on its last day",
        file=_PIPELINE,
        old="if entry.until > today}\n",
        new="if entry.until >= today}\n",
        test=_PIPELINE_TEST + "test_a_quarantine_ends_on_its_day_by_the_commits_date",
    ),
    Mutant(
        name="P19 a quarantine may last for ever",
        file=_PIPELINE,
        old="    if (until - today).days > QUARANTINE_DAYS_MAX:\n",
        new="    if False:\n",
        test=_PIPELINE_TEST + "test_a_quarantine_is_at_most_so_many_days_ahead_of_its_commit",
    ),
    Mutant(
        name="P20 a quarantine excuses any exit code",
        file=_FILES,
        old="            or result.exit_code not in TESTS_FAILED_CODES\n",
        new="",
        test=_QUARANTINE_TEST + "test_a_step_fails_in_spite_of_a_quarantine",
    ),
    Mutant(
        name="P21 one quarantined case excuses the others",
        file=_FILES,
        old="        if not cases or not cases <= self._in_force.keys():\n",
        new="        if not cases & self._in_force.keys():\n",
        test=_QUARANTINE_TEST + "test_a_step_fails_in_spite_of_a_quarantine",
    ),
    Mutant(
        name="P22 a report of the commit excuses a step",
        file=_FILES,
        old="            details = self._details(folder, self._before)\n",
        new="            details = self._details(folder, frozenset())\n",
        test=_QUARANTINE_TEST + "test_a_report_of_the_repository_excuses_no_step",
    ),
)
