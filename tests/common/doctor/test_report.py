"""The parts of a report that both programs have."""

import tomllib
from pathlib import Path

import pytest

from common.doctor import report
from common.doctor.report import LIBRARIES, last_lines, sizes, versions
from scripts.folders import ROOT


def test_the_versions_of_all_libraries_are_in_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(LIBRARIES) == sorted(project["dependencies"])
    assert "not installed" not in versions()


def test_of_a_log_its_last_whole_lines_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %03d\n" % number for number in range(100)) + b"\xff half")
    monkeypatch.setattr(report, "LOG_BYTES_MAX", 40)
    assert last_lines(log) == "line 097\nline 098\nline 099\n\\xff half"
    monkeypatch.setattr(report, "LOG_LINES_MAX", 2)
    assert last_lines(log) == "line 099\n\\xff half"


def test_sizes_are_of_each_entry(tmp_path: Path) -> None:
    (tmp_path / "builds" / "a").mkdir(parents=True)
    (tmp_path / "builds" / "a" / "log").write_bytes(bytes(700))
    (tmp_path / "builds" / "link").symlink_to("/dev/null")
    (tmp_path / "redo-log").write_bytes(bytes(5))
    rows = [line.split() for line in sizes(tmp_path).splitlines()]
    assert rows == [
        [str(700 + len("/dev/null")), "bytes", "2", "files", "builds"],
        ["5", "bytes", "1", "files", "redo-log"],
    ]
