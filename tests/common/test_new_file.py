"""Files that are replaced as a whole."""

import os
from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.new_file import replace_file

OTHER = 12345


def test_a_replaced_file_keeps_its_permissions_and_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "there" / "file", tmp_path / "link"
    file.parent.mkdir()
    file.write_text("old\n")
    file.chmod(0o640)
    link.symlink_to(file)
    replace_file(link, "new\r\nlines")
    assert link.is_symlink()
    assert file.read_bytes() == b"new\r\nlines\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_a_services_file_to_its_user(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old\n")
    os.chown(file, OTHER, OTHER)
    replace_file(file, "new\n")
    assert (file.stat().st_uid, file.stat().st_gid) == (OTHER, OTHER)


def test_where_nothing_can_be_written_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        replace_file(file, "new")
    assert list(tmp_path.iterdir()) == [file]
