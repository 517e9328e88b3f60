"""The cells of a matrix as test cases of their build, beside the cases of their test reports.

A cell's case has the cell's name as its id, and the cases in the cell have that name before their
own ids. So what replicas agree on, what a statement says and what pages show of test cases holds
for cells.
"""

from collections.abc import Iterator, Sequence

import msgspec

from ci.case_results import CASES_MAX, CaseOutcome, encode_report, report_sha256
from common.junit.junit_report import IDS_BYTES_MAX, MESSAGES_BYTES_MAX, cut_id
from node.outputs.case_details import CaseDetails, CaseRow


class EndedCell(msgspec.Struct, frozen=True):
    """How a cell ended.

    message: in words, if it did not pass. tests: of its reports; None if the pipeline names none.
    is_skipped: no step is for it.
    """

    name: str
    seconds: float
    message: str | None = None
    tests: CaseDetails | None = None
    is_skipped: bool = False

    @property
    def outcome(self) -> CaseOutcome:
        """As a test case."""
        if self.is_skipped:
            return CaseOutcome.SKIPPED
        return CaseOutcome.PASSED if self.message is None else CaseOutcome.FAILED


def cases_of_cells(cells: Sequence[EndedCell], file: str) -> CaseDetails:
    """The cases of a build with these cells, of which there is at least one. file: names them.

    Without those of the reports if they are more than a build may have: a part of them would look
    like all of them. Then `problem` says so.
    """
    own = [CaseRow(cell.name, cell.outcome, cell.seconds, cell.message, file) for cell in cells]
    rows, problem = [*own, *_reported(cells)], None
    if len(rows) > CASES_MAX or sum(len(row.id.encode()) for row in rows) > IDS_BYTES_MAX:
        rows, problem = own, "the cells' test reports together have more cases than a build may"
    rows = sorted(_with_few_messages(rows), key=_id)
    report = encode_report({row.id: row.outcome for row in rows})
    # all cells have one file's quarantine; those in which a step ran say it
    first = next((cell.tests for cell in cells if cell.tests is not None), None)
    return CaseDetails(
        report_sha256=report_sha256(report),
        problem=problem,
        cases=tuple(rows),
        quarantined=() if problem is not None else tuple(_quarantined(cells)),
        quarantine=() if first is None else first.quarantine,
    )


def _reported(cells: Sequence[EndedCell]) -> Iterator[CaseRow]:
    for cell in cells:
        for row in () if cell.tests is None else cell.tests.cases:
            yield msgspec.structs.replace(row, id=_id_in(cell, row.id))


def _quarantined(cells: Sequence[EndedCell]) -> Iterator[str]:
    for cell in cells:
        for case in () if cell.tests is None else cell.tests.quarantined:
            yield _id_in(cell, case)


def _id_in(cell: EndedCell, case: str) -> str:
    return cut_id(f"{cell.name}::{case}")


def _with_few_messages(rows: Sequence[CaseRow]) -> Iterator[CaseRow]:
    """As many messages as a build may have; nothing is compared by them."""
    room = MESSAGES_BYTES_MAX
    for row in rows:
        room -= 0 if row.message is None else len(row.message.encode())
        yield row if room >= 0 else msgspec.structs.replace(row, message=None)


def _id(row: CaseRow) -> str:
    return row.id
