"""The file that says which process serves from a data directory."""

import os
from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.process_file import (
    FILE_NAME,
    LastReload,
    ProcessFile,
    RunningProcess,
    find_process,
)


def test_a_process_is_found_while_it_lives_and_no_longer(tmp_path: Path) -> None:
    assert find_process(tmp_path) is None
    file = ProcessFile(tmp_path)
    assert find_process(tmp_path) == RunningProcess(os.getpid())
    first = LastReload(1, True, "reloaded: " + "x" * 200)
    file.note_reload(first)
    assert find_process(tmp_path) == RunningProcess(os.getpid(), first)
    # shorter than what was there
    second = LastReload(2, False, "refused")
    file.note_reload(second)
    assert find_process(tmp_path) == RunningProcess(os.getpid(), second)
    file.close()
    assert (tmp_path / FILE_NAME).exists()
    assert find_process(tmp_path) is None


def test_a_file_is_of_one_process(tmp_path: Path) -> None:
    file = ProcessFile(tmp_path)
    with pytest.raises(ConfigError, match=r"process\.json cannot be written"):
        ProcessFile(tmp_path)
    file.close()
    ProcessFile(tmp_path).close()


def test_a_process_of_a_newer_version_is_named_in_one_line(tmp_path: Path) -> None:
    process = ProcessFile(tmp_path)
    file = tmp_path / FILE_NAME
    file.write_text('{"process": {"pid": 7}}')
    with pytest.raises(ConfigError) as refused:
        find_process(tmp_path)
    line = str(refused.value)
    assert line.startswith(f"{file}: is not what this version reads (")
    assert line.endswith("; use the commands of the version of PBFT/CI that runs here")
    process.close()
    assert find_process(tmp_path) is None
