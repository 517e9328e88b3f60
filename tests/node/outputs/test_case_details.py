"""node.outputs.case_details: the process that reads test reports, and what is kept of them."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from ci.artifact_rules import PATH_BYTES_MAX
from ci.case_results import CASES_MAX, CaseOutcome, encode_report
from ci.operations import Artifact
from common.junit import report_process
from common.junit.junit_report import IDS_BYTES_MAX, MESSAGES_BYTES_MAX, SECONDS_MAX
from node.outputs import case_details
from node.outputs.case_details import (
    DETAILS_BYTES_MAX,
    CaseDetails,
    CaseRow,
    keep_details,
    read_reports,
)
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, Stopped
from tests.waiting import block_until

ROOT = Path(__file__).resolve().parents[3]
REPORT = b"""<testsuite name="s">
<testcase name="b" time="0.5"><failure message="said"/></testcase>
<testcase name="a"/><testcase name="/work/x/c"><skipped/></testcase>
</testsuite>"""


def collected(folder: Path, reports: Mapping[str, bytes]) -> tuple[Artifact, ...]:
    """As a collector leaves these files."""
    files = []
    for path, content in reports.items():
        digest = hashlib.sha256(content).hexdigest()
        (folder / digest).write_bytes(content)
        files.append(Artifact(path, digest, len(content)))
    return tuple(files)


def read(folder: Path, *reports: bytes) -> CaseDetails:
    files = collected(folder, {f"{number}.xml": data for number, data in enumerate(reports)})
    return read_reports(folder, files, "/work/x", stop=Stop())


def test_cases_are_sorted_and_give_the_canonical_report_again(tmp_path: Path) -> None:
    found = read(tmp_path, REPORT, b"<testsuite><testcase name='s'/></testsuite>", REPORT)
    assert found.problem is None
    assert found.cases == (
        CaseRow("s", CaseOutcome.PASSED, None, None, "1.xml"),
        CaseRow("s::a", CaseOutcome.PASSED, None, None, "0.xml"),
        CaseRow("s::b", CaseOutcome.FAILED, 0.5, "said", "0.xml"),
        CaseRow("s::c", CaseOutcome.SKIPPED, None, None, "0.xml"),
    )
    report = encode_report(found.outcomes)
    assert report == b"s\tpassed\ns::a\tpassed\ns::b\tfailed\ns::c\tskipped\n"
    assert found.report_sha256 == hashlib.sha256(report).hexdigest()


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        ([], "there is no test report"),
        ([b"<testsuite/>"], "no test report has a case"),
        ([REPORT, b"<coverage/>"], "test report 1.xml: its first element is neither"),
        ([REPORT, b"<testsuite>\x00\x1b[31m"], "test report 1.xml: it is no well-formed XML"),
        # much comes behind it
        ([b"<a/>", *(REPORT + b" " * (2**20 + n) for n in range(3))], "test report 0.xml: "),
    ],
)
def test_without_a_case_it_says_why(tmp_path: Path, reports: list[bytes], problem: str) -> None:
    found = read(tmp_path, *reports)
    assert (found.report_sha256, found.cases) == (None, ())
    assert found.problem is not None
    assert found.problem.startswith(problem)


def test_cases_come_in_several_lines(tmp_path: Path) -> None:
    count = 2 * report_process.ROWS_MAX + 1
    cases = "".join(f'<testcase name="{number:06}"/>' for number in reversed(range(count)))
    found = read(tmp_path, f"<testsuite>{cases}</testsuite>".encode())
    assert [case.id for case in found.cases] == [f"{number:06}" for number in range(count)]


def test_the_process_can_open_nothing() -> None:
    """Nor write a file, start a program or take much memory."""
    tried = f"""
import os, socket, sys
sys.path.insert(0, {str(ROOT)!r})
from common.junit.report_process import restrict
restrict()
def refused(what):
    try:
        what()
    except (OSError, MemoryError) as error:
        return type(error).__name__
print(refused(lambda: open("/etc/hostname")), refused(socket.socket), refused(os.pipe),
      refused(lambda: bytearray(300 * 2**20)))
os.close(2)
print(refused(lambda: open("/etc/hostname")))
"""
    command = (sys.executable, "-I", "-S", "-c", tried)
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout
    assert said == "OSError OSError OSError MemoryError\nOSError\n"


def test_it_has_its_limits_before_it_reads() -> None:
    command = (sys.executable, "-I", "-S", report_process.__file__)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        limits = Path(f"/proc/{process.pid}/limits")

        def has_limits() -> bool:
            text = " ".join(limits.read_text().split())
            return "Max open files 0 0 files Max locked" in text and (
                f"Max address space {256 * 2**20} {256 * 2**20} bytes" in text
                and "Max cpu time 10 10 seconds" in text
                and "Max file size 0 0 bytes" in text
            )

        block_until(has_limits, "the process has its limits")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"ended with -9 after 0 bytes"),
        ("print('MemoryError: x'); raise SystemExit(4)", r"ended with 4 after 15 bytes: MemoryErr"),
        ("print('{}')", r"reads test reports: "),
        ("""print('[["a","passed",null,null,"0.xml"]')""", "reads test reports: "),
        ("print('\\xff')", r"reads test reports: "),
        ("""print('[["a", "passed", null, null, "other.xml"]]')""", "no rows of them"),
        (
            """print('[["b","passed",null,null,"0.xml"],["b","passed",null,null,"0.xml"]]')""",
            "no rows of them",
        ),
        ("""print('[["b","passed",null,null,"0.xml"]]\\n' * 2)""", "no rows of them"),
        ("""print('[["a\\\\tb", "passed", null, null, "0.xml"]]')""", "no rows of them"),
        ("""print('[["", "passed", null, null, "0.xml"]]')""", "reads test reports: "),
        ("""print('[["a", "good", null, null, "0.xml"]]')""", "reads test reports: "),
        ("while True: print('x' * 65536)", r"ended with -9 after 1001 bytes"),
    ],
)
def test_what_the_machine_or_a_process_gone_wild_does_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: str
) -> None:
    script = tmp_path / "other.py"
    script.write_text(program)
    monkeypatch.setattr(report_process, "__file__", str(script))
    monkeypatch.setattr(case_details, "DETAILS_BYTES_MAX", 1000)
    with pytest.raises(InfrastructureError, match=error):
        read(tmp_path, REPORT)


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_process_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    script = tmp_path / "other.py"
    script.write_text(f"open({str(tmp_path / 'begun')!r}, 'w')\nimport time\ntime.sleep(1e6)\n")
    monkeypatch.setattr(report_process, "__file__", str(script))
    stop = Stop()
    monkeypatch.setattr(case_details, "PROCESS_SECONDS_MAX", 1e5 if is_stopped else 0.2)
    if is_stopped:
        watcher = threading.Thread(target=_stop_when, args=(stop, tmp_path / "begun"))
        watcher.start()
    # more than a pipe takes
    files = collected(tmp_path, {"0.xml": REPORT + b" " * 2**20})
    with pytest.raises(Stopped if is_stopped else InfrastructureError):
        read_reports(tmp_path, files, "/work/x", stop=stop)
    if is_stopped:
        watcher.join()


def _stop_when(stop: Stop, file: Path) -> None:
    block_until(file.exists, "the process begins")
    stop.set()


def test_the_largest_details_fit() -> None:
    """Each byte of an id or a message may be two in JSON; the rest of a row is always short."""
    longest = CaseRow("", CaseOutcome.SKIPPED, SECONDS_MAX - 1e-6, "", "")
    row_bytes = len(msgspec.json.encode(longest)) + 1 + PATH_BYTES_MAX
    assert 2 * (IDS_BYTES_MAX + MESSAGES_BYTES_MAX) + CASES_MAX * row_bytes < DETAILS_BYTES_MAX


def test_details_are_kept_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "tests.json"
    first, second = CaseDetails(problem="first"), read(tmp_path, REPORT)
    keep_details(first, kept)

    def fails(path: Path) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(case_details, "sync", fails)
        with pytest.raises(OSError, match="disk full"):
            keep_details(second, kept)
    assert msgspec.json.decode(kept.read_bytes(), type=CaseDetails) == first
    keep_details(second, kept)
    assert msgspec.json.decode(kept.read_bytes(), type=CaseDetails) == second
