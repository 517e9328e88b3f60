"""Logs: one line per record, whatever a stranger put into it."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import logs
from common.config_error import ConfigError
from common.logs import STDERR_VARIABLE, LineFormatter, start_logging


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in list(root.handlers):
        if isinstance(handler.formatter, LineFormatter):
            root.removeHandler(handler)
            with contextlib.suppress(OSError):  # what a full disk did not take
                handler.close()
    root.setLevel(level)


def test_a_record_is_one_line_with_utc_time_and_milliseconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log" / "node0.log"
    start_logging(file, "node0")
    logging.getLogger("common.links.link").warning("peer %s is\nback", "node1")
    line = file.read_text()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING node0 common\.links\.link: "
        r"peer node1 is \| back\n",
        line,
    )
    assert capsys.readouterr().err == line


def test_a_traceback_stays_on_the_line(tmp_path: Path) -> None:
    file = tmp_path / "node0.log"
    start_logging(file, "node0")
    try:
        raise ValueError("broken\x1b[31m")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    lines = file.read_text().splitlines()
    assert len(lines) == 1
    assert "ValueError: broken\\x1b[31m" in lines[0]


def test_starting_again_replaces_the_file_and_writes_nothing_twice(tmp_path: Path) -> None:
    start_logging(tmp_path / "a.log", "a")
    start_logging(tmp_path / "b.log", "b")
    logging.getLogger("x").info("once")
    assert (tmp_path / "a.log").read_text() == ""
    assert (tmp_path / "b.log").read_text().count("once") == 1


def test_stderr_can_be_spared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STDERR_VARIABLE, "no")
    start_logging(tmp_path / "a.log", "a")
    logging.getLogger("x").info("to the file alone")
    assert "to the file alone" in (tmp_path / "a.log").read_text()
    assert capsys.readouterr().err == ""
    start_logging(None, "a")
    logging.getLogger("x").info("nowhere else to go")
    assert "nowhere else to go" in capsys.readouterr().err


def test_the_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_FILE_BYTES_MAX", 2000)
    start_logging(tmp_path / "a.log", "a")
    for _ in range(300):
        logging.getLogger("x").info("y" * 100)
    files = list(tmp_path.iterdir())
    assert len(files) == logs.LOG_FILES_KEPT + 1
    assert all(file.stat().st_size <= 2000 for file in files)


def test_it_goes_on_once_a_new_file_can_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file is full while the folder is gone: what came meanwhile is lost, and no more."""
    monkeypatch.setattr(logs, "LOG_FILE_BYTES_MAX", 500)
    monkeypatch.setenv(STDERR_VARIABLE, "no")
    folder, away = tmp_path / "log", tmp_path / "away"
    start_logging(folder / "a.log", "a")
    logger = logging.getLogger("x")
    folder.rename(away)
    logger.info("y" * 600)
    assert "a.log cannot be written (No such file or directory)" in capsys.readouterr().err
    away.rename(folder)
    logger.info("here again")
    assert (folder / "a.log").read_text().endswith("here again\n")


def test_a_full_disk_is_one_line_on_stderr_for_all_lines_that_it_loses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STDERR_VARIABLE, "no")
    start_logging(Path("/dev/full"), "a")
    for number in range(3):
        logging.getLogger("x").info("line %d", number)
    said = capsys.readouterr().err
    assert said == (
        "/dev/full cannot be written (No space left on device):"
        " its lines are lost until it can be\n"
    )


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    with pytest.raises(ConfigError, match=r"log/a\.log: log_file: cannot be written"):
        start_logging(tmp_path / "log" / "a.log", "a")


def test_json_is_one_object_per_line_whatever_a_stranger_said(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    start_logging(file, "node0", "json")
    logger = logging.getLogger("common.links.link")
    logger.warning("peer %s is\nback \x1b[31m\u2028", "node1")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("oh")
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "WARNING",
        "process": "node0",
        "logger": "common.links.link",
        "message": "peer node1 is\\nback \\x1b[31m\\u2028",
    }
    assert second["message"] == "oh"
    assert second["exception"].endswith("ValueError: two\nlines")
