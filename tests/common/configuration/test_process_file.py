"""common.configuration.process_file: what a command may read of the process that runs."""

from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.process_file import FILE_NAME, ProcessFile, find_process


def test_a_process_of_a_newer_version_is_named_in_one_line(tmp_path: Path) -> None:
    running = ProcessFile(tmp_path)
    file = tmp_path / FILE_NAME
    file.write_text('{"process": {"pid": 7}}')
    with pytest.raises(ConfigError) as refused:
        find_process(tmp_path)
    line = str(refused.value)
    assert line.startswith(f"{file}: is not what this version reads (")
    assert line.endswith("; use the commands of the version of PBFT/CI that runs here")
    running.close()
    assert find_process(tmp_path) is None
