"""The high-water mark survives a torn write of either slot."""

from pathlib import Path

import pytest

from node.high_water_mark import HighWaterMark, MarkFile


def _mark(position: int) -> HighWaterMark:
    return HighWaterMark(position, bytes([position]) * 32)


def test_a_new_file_has_no_mark(tmp_path: Path) -> None:
    assert MarkFile.open(tmp_path / "mark").mark is None


def test_the_last_mark_is_found_again(tmp_path: Path) -> None:
    for position in range(1, 6):
        mark_file = MarkFile.open(tmp_path / "mark")
        mark_file.write(_mark(position))
        mark_file.close()
        assert MarkFile.open(tmp_path / "mark").mark == _mark(position)


@pytest.mark.parametrize("torn_at", range(0, 72, 5))
def test_a_torn_write_leaves_the_mark_before(tmp_path: Path, torn_at: int) -> None:
    path = tmp_path / "mark"
    mark_file = MarkFile.open(path)
    for position in (1, 2):
        mark_file.write(_mark(position))
    before = path.read_bytes()
    mark_file.write(_mark(3))
    after = path.read_bytes()
    offset = next(i for i in range(len(after)) if before[i] != after[i]) // 4096 * 4096
    torn = bytearray(before)
    torn[offset : offset + torn_at] = after[offset : offset + torn_at]
    path.write_bytes(bytes(torn))
    assert MarkFile.open(path).mark == _mark(2)
