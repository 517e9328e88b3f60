"""Test reports of a build: which files are taken, what cases they have, and what is kept of it.

The files are a stranger's, so a process with narrow limits reads them (common.junit). Blocking.

The rule: a report that is wrong is wrong on every replica, and then the build has no report at
all, since a part of the cases would look like all of them. What this machine alone decides (time,
memory, a process that ended) is an InfrastructureError.
"""

import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Annotated

import msgspec

from ci.artifact_rules import PATH_BYTES_MAX
from ci.case_results import CaseOutcome, encode_report, id_problem, report_sha256
from ci.operations import Artifact, CaseId
from common.junit import report_process
from common.junit.junit_report import FILE_BYTES_MAX, MESSAGE_CHARACTERS_MAX, UnreadableReport
from common.safe_text import log_text
from node.outputs.artifact_store import CHUNK_BYTES, Selection, sync
from node.outputs.report_readers import ReportReaders, start_reader
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

REPORTS_FOLDER = "reports"
DETAILS = "tests.json"
FILES_MAX = 200
BYTES_MAX = 32 * 2**20
# Ids and messages, of which JSON may double the bytes (a quote, a line's end), paths of files, and
# twenty thousand outcomes, times and commas; tests/node/outputs/test_case_details.py reckons it up.
DETAILS_BYTES_MAX = 20 * 2**20
PROBLEM_BYTES_MAX = 600
# A machine may be so busy that ten seconds of processor time take minutes.
PROCESS_SECONDS_MAX = 300.0


class CaseRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A case and what is known of it beside its outcome, which nothing is compared by.

    seconds: how long it took; message: of its failure; file: the first report that names it.
    """

    id: CaseId
    outcome: CaseOutcome
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None
    message: Annotated[str, msgspec.Meta(max_length=MESSAGE_CHARACTERS_MAX)] | None
    file: Annotated[str, msgspec.Meta(max_length=PATH_BYTES_MAX)]


class QuarantineRow(msgspec.Struct, frozen=True, array_like=True):
    """An entry of a quarantine. until: a day, as the file has it; days_left: from the commit's date
    on; none or fewer are left once it is over."""

    case: str
    until: str
    days_left: int
    reason: str


class CaseDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a build's test reports, and served (node.web.kept_file_routes).

    report_sha256: of the canonical report that follows from ids and outcomes (ci.case_results),
        and is in the ballot; None: there is none, and `problem` says why.
    cases: sorted by id. quarantined: the warned ones that failed, and may.
    quarantine: all of the pipeline file.
    """

    report_sha256: str | None = None
    problem: str | None = None
    cases: tuple[CaseRow, ...] = ()
    quarantined: tuple[CaseId, ...] = ()
    quarantine: tuple[QuarantineRow, ...] = ()

    @property
    def outcomes(self) -> Mapping[str, CaseOutcome]:
        """The outcome of each case by its id."""
        return {case.id: case.outcome for case in self.cases}


_rows_decoder = msgspec.json.Decoder(tuple[CaseRow, ...])


def reports_of(patterns: Iterable[str]) -> Selection:
    """The files that a pipeline names as test reports."""
    return Selection(tuple(patterns), FILES_MAX, FILE_BYTES_MAX, BYTES_MAX, is_each_needed=False)


def read_reports(
    folder: Path,
    files: Iterable[Artifact],
    workspace: str,
    *,
    stop: Stop,
    readers: ReportReaders | None = None,
) -> CaseDetails:
    """The cases in these files of a finished collector's folder, or why there are none.

    workspace: the path of the build's files as its steps saw it. readers: whose process reads
    them; None: a new one. Raises InfrastructureError, Stopped, OSError.
    """
    # files with equal content say the same
    by_content = {file.sha256: file for file in sorted(files, key=_path, reverse=True)}
    unequal = sorted(by_content.values(), key=_path)
    try:
        process = start_reader if readers is None else readers.take
        cases = _read(folder, unequal, workspace, process=process, stop=stop) if unequal else ()
    except UnreadableReport as error:
        return CaseDetails(problem=str(error))
    if not cases:
        found = "no test report has a case" if unequal else "there is no test report"
        return CaseDetails(problem=found)
    report = encode_report({case.id: case.outcome for case in cases})
    return CaseDetails(report_sha256=report_sha256(report), cases=cases)


def quarantined(details: CaseDetails, reasons: Mapping[str, str]) -> CaseDetails:
    """The same, where each failed case that has a reason why it may fail is `warned`.

    Its message begins with the reason.
    """

    def told(case: CaseRow) -> CaseRow:
        if case.outcome is not CaseOutcome.FAILED or case.id not in reasons:
            return case
        lines = (reasons[case.id], *(() if case.message is None else (case.message,)))
        message = "\n".join(lines)[:MESSAGE_CHARACTERS_MAX]
        return CaseRow(case.id, CaseOutcome.WARNED, case.seconds, message, case.file)

    cases = tuple(told(case) for case in details.cases)
    if cases == details.cases:
        return details
    report = encode_report({case.id: case.outcome for case in cases})
    names = tuple(n.id for n, old in zip(cases, details.cases, strict=True) if n != old)
    return CaseDetails(report_sha256=report_sha256(report), cases=cases, quarantined=names)


def keep_details(details: CaseDetails, kept: Path) -> None:
    """Write them to where they are kept, whole or not at all. Raises OSError."""
    made = kept.with_name(f"{kept.name}.new")
    made.write_bytes(msgspec.json.encode(details))
    sync(made)
    made.replace(kept)
    sync(kept.parent)


def _path(file: Artifact) -> str:
    return file.path


def _read(
    folder: Path,
    files: list[Artifact],
    workspace: str,
    *,
    process: Callable[[], "subprocess.Popen[bytes]"],
    stop: Stop,
) -> tuple[CaseRow, ...]:
    """process: gives one that reads.

    Raises UnreadableReport, InfrastructureError, Stopped, OSError.
    """
    code, answer = _ask_process(folder, files, workspace, process=process(), stop=stop)
    if code == 0 and len(answer) <= DETAILS_BYTES_MAX:
        return _checked(answer, {file.path for file in files})
    text = answer[:PROBLEM_BYTES_MAX].decode(errors="replace")
    said = log_text(text, PROBLEM_BYTES_MAX)
    if code == report_process.REFUSED_CODE:
        raise UnreadableReport(f"test report {said}")
    # By its rules it never comes to its limits: they are of this machine, and so is the error.
    raise InfrastructureError(
        f"the process that reads test reports ended with {code} after {len(answer)} bytes: {said}"
    )


def _checked(answer: bytes, paths: set[str]) -> tuple[CaseRow, ...]:
    """The rows, if they are as the process makes them; a report may have taken it over."""
    try:
        cases = tuple(chain.from_iterable(_rows_decoder.decode_lines(answer)))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InfrastructureError(f"the process that reads test reports: {error}") from error
    last = ""
    for case in cases:
        if id_problem(case.id) or case.id <= last or case.file not in paths:
            raise InfrastructureError("the process that reads test reports printed no rows of them")
        last = case.id
    return cases


def _ask_process(
    folder: Path,
    files: list[Artifact],
    workspace: str,
    *,
    process: "subprocess.Popen[bytes]",
    stop: Stop,
) -> tuple[int, bytes]:
    """The process's exit code and what it printed, a byte more than it may at most."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(PROCESS_SECONDS_MAX, process.kill)
    timer.start()
    try:
        with stop.interrupting(process.kill):
            # it reads no further once it has refused one
            with suppress(BrokenPipeError), process.stdin:
                place = workspace.encode()
                process.stdin.write(b"%d\n%s" % (len(place), place))
                for file in files:
                    _send(process.stdin, file, folder)
            answer = process.stdout.read(DETAILS_BYTES_MAX + 1)
            if len(answer) > DETAILS_BYTES_MAX:
                process.kill()
            code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    stop.check()
    return code, answer


def _send(process: IO[bytes], file: Artifact, folder: Path) -> None:
    path = file.path.encode()
    process.write(b"%d %d\n%s" % (len(path), file.length, path))
    with (folder / file.sha256).open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            process.write(chunk)
