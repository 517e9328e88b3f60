"""Mutants of agreed test cases: what a ballot may report, what is agreed on, and what is stated."""

from tests.mutants.mutation_runner import Mutant

_AGREEMENT = "ci/case_agreement.py"
_BUILDS = "ci/builds.py"
_LEDGER = "ci/ledger.py"
_POLICY = "ci/policy.py"
_REPORTS = "ci/case_reports.py"
_STATED = "ci/stated_cases.py"
_STATEMENT = "ci/statement.py"
_VERDICT = "ci/verdict.py"

_ADMISSION_TEST = "tests/ci/test_admission.py::"
_AGREEMENT_TEST = "tests/ci/test_case_agreement.py::"
_BUILDS_TEST = "tests/ci/test_builds.py::"
_LEDGER_TEST = "tests/ci/test_ledger.py::"
_REPORTS_TEST = "tests/ci/test_case_reports.py::"
_STATEMENT_TEST = "tests/ci/test_statement.py::"
_VERDICT_TEST = "tests/ci/test_verdict.py::"
_VERIFY_TEST = "tests/scripts/test_verify_build.py::"

CASES_MUTANTS: tuple[Mutant, ...] = (
    # --- what a ballot may report -----------------------------------------------------------------
    Mutant(
        name="C1 digests that are not those of the lines",
        file=_REPORTS,
        old="    if report != case_report(cases, quarantined=quarantined_in(report)):\n",
        new="    if report.total != len(cases):\n",
        test=_REPORTS_TEST + "test_reports_that_no_cases_have",
    ),
    Mutant(
        name="C2 cases that did not pass, in any order and twice",
        file=_REPORTS,
        old="    in_order = (*sorted(set(failed)), *sorted(set(warned)))\n",
        new="    in_order = tuple(case.id for case in named)\n",
        test=_REPORTS_TEST + "test_reports_that_no_cases_have",
    ),
    Mutant(
        name="C3 a report may make a ballot larger than is reckoned",
        file=_REPORTS,
        old="    report = _with_names(counted, cases, data, bytes_max=room())\n",
        new="    report = case_report(cases, quarantined=quarantined)\n",
        test=_ADMISSION_TEST + "test_a_build_has_no_more_bytes_than_is_reckoned",
    ),
    Mutant(
        name="C4 test cases of what tested nothing",
        file=_BUILDS,
        old="    if outcome not in TESTED_OUTCOMES:\n",
        new="    if False:\n",
        test=_BUILDS_TEST + "test_findings_that_cannot_count",
    ),
    # --- what is agreed on ------------------------------------------------------------------------
    Mutant(
        name="C5 test cases are compared",
        file=_VERDICT,
        old="            agreeing = found.setdefault(compared, [])\n",
        new="            agreeing = found.setdefault(msgspec.json.encode(ballot), [])\n",
        test=_VERDICT_TEST + "test_a_flaky_case_changes_no_verdict",
    ),
    Mutant(
        name="C6 f + 1 equal reports are agreed on as a whole",
        file=_AGREEMENT,
        old="    agreed = _held_by(needed, [report.report_sha256 for report in reports])\n",
        new="    agreed = _held_by(quorums.weak, [report.report_sha256 for report in reports])\n",
        test=_AGREEMENT_TEST + "test_a_red_verdict_has_too_few_ballots_for_a_whole_report",
    ),
    Mutant(
        name="C7 f replicas say that a case failed",
        file=_AGREEMENT,
        old="        if failed_by[case] >= weak:\n",
        new="        if failed_by[case] >= quorums.faults_max:\n",
        test=_AGREEMENT_TEST + "test_a_case_takes_f_plus_1_to_have_failed_or_warned",
    ),
    Mutant(
        name="C8 reports of another set of cases outvote who saw a case fail",
        file=_AGREEMENT,
        old="for report, cases in named if report.set_sha256 == found_set]\n",
        new="for report, cases in named]\n",
        test=_AGREEMENT_TEST + "test_ballots_that_are_cut_or_of_another_set_outvote_nobody",
    ),
    Mutant(
        name="C9 cut reports outvote who saw a case fail",
        file=_AGREEMENT,
        old="    whole = [(report, cases) for report, cases in of_set if not report.is_cut]\n",
        new="    whole = of_set\n",
        test=_AGREEMENT_TEST + "test_ballots_that_are_cut_or_of_another_set_outvote_nobody",
    ),
    Mutant(
        name="C10 one liar among equal reports counts for all of them",
        file=_AGREEMENT,
        old="    counts = _held_by(weak, [_counts(report) for report in equal])\n",
        new="    counts = _counts(equal[0]) if equal else None\n",
        test=_AGREEMENT_TEST + "test_a_case_that_only_a_liar_names_did_not_pass",
    ),
    Mutant(
        name="C11 reports of another pipeline file count",
        file=_AGREEMENT,
        old="        and (ballot.compared.commit, ballot.compared.pipeline_sha256) == source\n",
        new="        and ballot.compared.commit == source[0]\n",
        test=_AGREEMENT_TEST + "test_only_reports_of_the_agreed_commit_and_file_count",
    ),
    Mutant(
        name="C22 reports count that no replica accepts",
        file=_AGREEMENT,
        old="        and report_refusal(ballot.tests) is None\n",
        new="",
        test=_AGREEMENT_TEST + "test_a_report_that_no_cases_have_does_not_count",
    ),
    Mutant(
        name="C19 f replicas say that a case failed, and a seed notices",
        file=_AGREEMENT,
        old="        if failed_by[case] >= weak:\n",
        new="        if failed_by[case] >= quorums.faults_max:\n",
        seeds=(375,),
    ),
    Mutant(
        name="C20 any report is agreed on",
        file=_AGREEMENT,
        old="    agreed = _held_by(needed, [report.report_sha256 for report in reports])\n",
        new="    agreed = _held_by(1, [report.report_sha256 for report in reports])\n",
        seeds=(375,),
    ),
    Mutant(
        name="C21 a ballot with a failed case does not count",
        file=_VERDICT,
        old="        if isinstance(ballot, BuildResult):\n",
        new="        tests = getattr(ballot, 'tests', None)\n"
        "        if isinstance(ballot, BuildResult) and not (tests and tests.failed):\n",
        seeds=(375,),
    ),
    # --- what is stated and recorded --------------------------------------------------------------
    Mutant(
        name="C12 a statement is as long as strangers' names are",
        file=_STATED,
        old="    room = NAMES_BYTES_MAX\n",
        new="    room = 100 * NAMES_BYTES_MAX\n",
        test=_STATEMENT_TEST + "test_the_names_of_test_cases_have_a_bound",
    ),
    Mutant(
        name="C13 names are counted as they are before JSON escapes them",
        file=_STATED,
        old="    return len(msgspec.json.encode(name)) + 1\n",
        new="    return len(name.encode()) + 3\n",
        test=_STATEMENT_TEST + "test_the_names_of_test_cases_have_a_bound",
    ),
    Mutant(
        name="C14 a warning is a pass like any other",
        file=_STATEMENT,
        old='    return "WARNED" if cases is not None and cases.warned else "PASSED"\n',
        new='    return "PASSED"\n',
        test=_STATEMENT_TEST + "test_agreed_test_cases_are_in_a_test_result",
    ),
    Mutant(
        name="C15 what tested nothing states test cases",
        file=_STATEMENT,
        old="    if is_tested and compared is not None:\n",
        new="    if compared is not None:\n",
        test=_STATEMENT_TEST + "test_what_tested_nothing_has_no_test_cases",
    ),
    Mutant(
        name="C16 a report that differs is recorded as another's",
        file=_LEDGER,
        old="            same_as = first.setdefault(ballot.tests, replica)\n",
        new="            same_as = first.setdefault(ballot.tests.set_sha256, replica)\n",
        test=_LEDGER_TEST + "test_equal_reports_are_in_an_entry_once",
    ),
    Mutant(
        name="C17 any report is taken for the agreed one",
        file=_POLICY,
        old="    if (found := report_sha256(report)) != tests.report_sha256:\n",
        new="    if (found := report_sha256(report)) == tests.set_sha256:\n",
        test=_VERIFY_TEST + "test_required_test_cases_are_looked_up_in_the_agreed_report",
    ),
    Mutant(
        name="C18 a required case may be skipped",
        file=_POLICY,
        old="    ran = (CaseOutcome.PASSED, CaseOutcome.WARNED)\n",
        new="    ran = (CaseOutcome.PASSED, CaseOutcome.WARNED, CaseOutcome.SKIPPED)\n",
        test=_VERIFY_TEST + "test_required_test_cases_are_looked_up_in_the_agreed_report",
    ),
)
