"""common.log_pieces: offsets count what the build wrote, whatever is kept of it."""

from pathlib import Path

import pytest

from common.log_pieces import LogPiece, kept_sizes, marker, read_log_file

BYTES_MAX = 4096
HEAD, TAIL = kept_sizes(BYTES_MAX)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    file = tmp_path / "log"
    file.write_bytes(b"h" * HEAD + marker(1000) + b"t" * TAIL)
    return file


def test_a_log_that_is_kept_whole_is_its_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"0123456789")
    assert read_log_file(file, 3, bytes_max=4) == LogPiece(3, b"3456", 10, None, False)
    assert read_log_file(file, 8, bytes_max=100).data == b"89"
    assert read_log_file(file, 10, bytes_max=100) == LogPiece(10, b"", 10, None, False)


@pytest.mark.parametrize("bytes_max", [4096, 4097, 5000, 2**17 + 1])
@pytest.mark.parametrize("cut_bytes", [1, 12, 9_999, 10**18 - 1])
def test_a_log_says_by_itself_where_it_was_cut(
    tmp_path: Path, bytes_max: int, cut_bytes: int
) -> None:
    """The limit that it was written under may have changed since."""
    head, tail = kept_sizes(bytes_max)
    file = tmp_path / "log"
    file.write_bytes(b"h" * head + marker(cut_bytes) + b"t" * tail)
    piece = read_log_file(file, head, bytes_max=9)
    assert piece == LogPiece(
        head + cut_bytes, b"t" * 9, head + cut_bytes + tail, (head, head + cut_bytes), False
    )


def test_a_piece_ends_where_the_head_does(whole: Path) -> None:
    piece = read_log_file(whole, HEAD - 5, bytes_max=100)
    total = HEAD + 1000 + TAIL
    assert piece == LogPiece(HEAD - 5, b"hhhhh", total, (HEAD, HEAD + 1000), False)
    assert piece.end == HEAD


@pytest.mark.parametrize("offset", [HEAD, HEAD + 1, HEAD + 999, HEAD + 1000])
def test_what_is_gone_is_skipped_and_said(whole: Path, offset: int) -> None:
    piece = read_log_file(whole, offset, bytes_max=7)
    assert (piece.offset, piece.data) == (HEAD + 1000, b"t" * 7)
    assert piece.dropped == (HEAD, HEAD + 1000)


def test_the_end_of_the_tail(whole: Path) -> None:
    total = HEAD + 1000 + TAIL
    assert read_log_file(whole, total - 2, bytes_max=100).data == b"tt"
    beyond = read_log_file(whole, total + 50, bytes_max=100)
    assert (beyond.offset, beyond.data) == (total, b"")


def test_all_pieces_together_are_all_that_is_kept(whole: Path) -> None:
    data, offset = b"", 0
    while True:
        piece = read_log_file(whole, offset, bytes_max=333)
        if not piece.data:
            break
        data, offset = data + piece.data, piece.end
    assert data == b"h" * HEAD + b"t" * TAIL
    assert offset == HEAD + 1000 + TAIL


@pytest.mark.parametrize(
    "content",
    [
        # a build that writes the line itself, anywhere but where all sizes fit
        b"h" * HEAD + marker(5),
        b"h" * HEAD + marker(5) + b"t" * (TAIL - 1),
        b"h" * (HEAD - 2) + marker(5) + b"t" * TAIL,
        b"h" * HEAD + b"\n[pbft-ci] ... " + b"9" * 30 + b" bytes were cut here ...\n" + b"t" * TAIL,
        b"h" * HEAD + b"\n[pbft-ci] ... 07 bytes were cut here ...\n" + b"t" * TAIL,
    ],
)
def test_a_line_like_the_marker_is_only_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(content)
    piece = read_log_file(file, 0, bytes_max=10**6)
    assert (piece.data, piece.dropped, piece.total) == (content, None, len(content))
