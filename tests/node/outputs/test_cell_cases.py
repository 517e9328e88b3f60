"""Cells of a matrix as test cases."""

import pytest

from ci.case_results import CASE_ID_CHARACTERS_MAX, CaseOutcome, encode_report, report_sha256
from node.outputs import cell_cases
from node.outputs.case_details import CaseDetails, CaseRow
from node.outputs.cell_cases import EndedCell, cases_of_cells


def rows(*cases: tuple[str, CaseOutcome], message: str | None = None) -> CaseDetails:
    return CaseDetails(cases=tuple(CaseRow(id_, out, 1.0, message, "a.xml") for id_, out in cases))


def test_each_cell_is_a_case_and_begins_the_ids_of_its_cases() -> None:
    tests = rows(("a", CaseOutcome.PASSED), ("x" * CASE_ID_CHARACTERS_MAX, CaseOutcome.FAILED))
    found = cases_of_cells(
        [
            EndedCell("A=2", 1.0, "failed, exit code 3", tests),
            EndedCell("A=1", 2.0, None, rows(("a", CaseOutcome.WARNED))),
            EndedCell("A=3", 2.0, None, CaseDetails(problem="there is no test report")),
        ],
        ".pbft-ci.yml",
    )
    assert [case.id for case in found.cases] == sorted(case.id for case in found.cases)
    outcomes = dict(found.outcomes)
    (long,) = (id_ for id_ in outcomes if id_.startswith("A=2::xxx"))
    assert len(long) <= CASE_ID_CHARACTERS_MAX
    assert outcomes.pop(long) is CaseOutcome.FAILED
    assert outcomes == {
        "A=1": CaseOutcome.PASSED,
        "A=1::a": CaseOutcome.WARNED,
        "A=2": CaseOutcome.FAILED,
        "A=2::a": CaseOutcome.PASSED,
        "A=3": CaseOutcome.PASSED,
    }
    assert found.report_sha256 == report_sha256(encode_report(found.outcomes))
    assert next(c.message for c in found.cases if c.id == "A=2") == "failed, exit code 3"
    assert found.problem is None


def test_more_cases_than_a_build_may_have_leave_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = rows(("a", CaseOutcome.PASSED), ("b", CaseOutcome.PASSED))
    cells = [EndedCell("A=1", 1.0, None, tests), EndedCell("A=2", 1.0, None, tests)]
    monkeypatch.setattr(cell_cases, "CASES_MAX", 6)
    assert len(cases_of_cells(cells, "f").cases) == 6
    monkeypatch.setattr(cell_cases, "CASES_MAX", 5)
    found = cases_of_cells(cells, "f")
    assert [case.id for case in found.cases] == ["A=1", "A=2"]
    assert "more cases" in (found.problem or "")
    monkeypatch.undo()
    monkeypatch.setattr(cell_cases, "IDS_BYTES_MAX", 29)
    assert len(cases_of_cells(cells, "f").cases) == 2


def test_messages_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_cases, "MESSAGES_BYTES_MAX", 6)
    tests = rows(("a", CaseOutcome.FAILED), ("b", CaseOutcome.FAILED), message="1234")
    found = cases_of_cells([EndedCell("A=1", 1.0, None, tests)], "f")
    assert [case.message for case in found.cases] == [None, "1234", None]
