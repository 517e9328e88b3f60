"""The invariants of test cases: what is agreed on was seen."""

from collections.abc import Mapping

from ci.case_results import CaseOutcome, decode_report
from ci.operations import ResultWithTests
from ci.statement import StatementView
from simulator.world.world import World

Key = tuple[bytes, int]


class CaseChecker:
    """Compares what statements say of test cases with what containers really showed.

    correct: the replicas that follow the rules.
    """

    def __init__(self, world: World, correct: Mapping[str, None]) -> None:
        self._goals = world.goals
        self._truth = world.truth
        self._quorums = world.cluster.quorums
        self._correct = correct
        self._violate = world.violate

    def on_verdict(self, key: Key, statement: StatementView) -> None:
        """A build was decided, and this is said of it."""
        tests = statement.verdict.tests
        if tests is None:
            return
        seen = self._seen(key)
        # n - f say so; f of them may lie
        least = self._quorums.replicas - 2 * self._quorums.faults_max
        predicate = statement.predicate
        for names, outcome, needed in (
            (predicate.failed_tests, CaseOutcome.FAILED, 1),
            (predicate.warned_tests, CaseOutcome.WARNED, 1),
            (predicate.passed_tests, CaseOutcome.PASSED, least),
        ):
            for case in names:
                if sum((case, outcome) in shown for shown in seen.values()) < needed:
                    self._violate("40 an agreed case was seen", f"{case} {outcome}")
        if predicate.failed_tests:
            self._goals.hit("a test case is agreed to have failed")
        if tests.unsettled:
            self._goals.hit("a test case stays unsettled")
        if tests.quarantined:
            self._goals.hit("a quarantined test case is agreed on")
            if max(self._quarantined(key), default=0) < tests.quarantined:
                self._violate("42 quarantined cases were seen", f"not {tests.quarantined} of them")
        if tests.report_sha256 is not None:
            self._goals.hit("a report of test cases is agreed on")
            counts = (tests.passed, tests.failed, tests.skipped, tests.warned)
            equal = sum((tests.report_sha256, counts) in shown for shown in seen.values())
            if equal < least:
                self._violate("41 an agreed report was seen", f"by {equal} correct replicas")

    def _quarantined(self, key: Key) -> list[int]:
        """How many quarantined cases each finding of a correct replica has."""
        return [
            len(ballot.tests.quarantined)
            for replica, ballots in self._truth.observed.get(key, {}).items()
            if replica in self._correct
            for ballot in ballots
            if isinstance(ballot, ResultWithTests)
        ]

    def _seen(self, key: Key) -> dict[str, set[tuple[object, object]]]:
        """By correct replica: each case with its outcome, and each report with its counts."""
        seen: dict[str, set[tuple[object, object]]] = {}
        for replica, ballots in self._truth.observed.get(key, {}).items():
            if replica not in self._correct:
                continue
            shown = seen.setdefault(replica, set())
            for ballot in ballots:
                if isinstance(ballot, ResultWithTests):
                    report = ballot.tests
                    counts = (report.passed, report.failed, report.skipped, report.warned)
                    shown.add((report.report_sha256, counts))
                    shown.update((case.id, case.outcome) for case in report.not_passed)
                    shown.update(decode_report(report.lines.encode()).items())
        return seen
