"""The bounded log: what is kept is the head and the tail, whatever comes in between."""

import hashlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from node.build_log import BuildLog


def finished(path: Path, bytes_max: int, pieces: list[bytes]) -> bytes:
    log = BuildLog(path, bytes_max)
    for piece in pieces:
        log.write(piece)
    digest, size = log.finish()
    data = path.read_bytes()
    assert (digest, size) == (hashlib.sha256(data).hexdigest(), len(data))
    return data


def test_a_short_log_is_kept_as_it_is(tmp_path: Path) -> None:
    assert finished(tmp_path / "log", 4096, [b"a\n", b"", b"b\xff"]) == b"a\nb\xff"


def test_the_head_can_be_read_while_it_comes(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "a" / "log", 4096)
    log.write(b"first")
    assert (tmp_path / "a" / "log").read_bytes() == b"first"
    log.close()


def test_notes_begin_on_a_line_of_their_own(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log", 4096)
    log.note("one")
    log.write(b"no end of line")
    log.note("two")
    log.finish()
    text = (tmp_path / "log").read_text()
    assert text == "[pbft-ci] one\nno end of line\n[pbft-ci] two\n"


def test_nothing_is_taken_after_the_end(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log", 4096)
    log.finish()
    log.write(b"late")
    assert log.finish()[1] == 0


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 40_000), max_size=12))
def test_any_pieces(sizes: list[int]) -> None:
    bytes_max = 16 * 1024
    pieces = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    whole = b"".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        kept = finished(Path(folder) / "log", bytes_max, pieces)
    assert len(kept) <= bytes_max
    if kept != whole:
        head, marker, rest = kept.partition(b"\n[pbft-ci] ... ")
        cut, _, tail = rest.partition(b" bytes were cut here ...\n")
        assert marker
        assert whole.startswith(head)
        assert whole.endswith(tail)
        assert len(head) + int(cut) + len(tail) == len(whole)
        assert min(len(head), len(tail)) > bytes_max // 2 - 128
    else:
        assert len(whole) <= bytes_max
