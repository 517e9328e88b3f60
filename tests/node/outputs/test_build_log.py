"""The bounded log: what is kept is the head and the tail, whatever comes in between."""

import hashlib
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.log_pieces import LogPiece
from node.outputs import build_log
from node.outputs.build_log import NO_GIT, BuildLog


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


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_first_message_about_git_is_followed_by_a_line_about_it(
    tmp_path: Path, size: int
) -> None:
    said = b"a\nfatal: not a git repository (or any of the parent directories): .git\nb\n"
    log = BuildLog(tmp_path / "log", 4096)
    for place in range(0, len(said), size):
        log.write(said[place : place + size])
    log.write(said)
    log.finish()
    text = (tmp_path / "log").read_text()
    assert text.count(NO_GIT) == 1
    assert text.startswith("a\nfatal: not a git repository")
    line = next(line for line in text.splitlines() if NO_GIT in line)
    assert line == f"[pbft-ci] {NO_GIT}"
    assert text.replace(f"{line}\n", "").replace("\n", "") == 2 * said.decode().replace("\n", "")
    if size == 1000:
        assert text.splitlines()[2] == line


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


def test_a_growing_log_is_read_from_any_byte(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log", 4096)
    assert log.read(0, 100) == LogPiece(0, b"", 0, None, True)
    log.write(b"0123456789")
    assert log.read(4, 3) == LogPiece(4, b"456", 10, None, True)
    assert log.read(10, 3) == LogPiece(10, b"", 10, None, True)
    assert log.read(99, 3) == LogPiece(10, b"", 10, None, True)
    log.finish()
    assert log.read(4, 3) == LogPiece(4, b"456", 10, None, False)
    log.close()


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6000), max_size=8),
    piece_bytes=st.integers(1, 5000),
)
def test_who_reads_along_misses_only_what_he_is_told(sizes: list[int], piece_bytes: int) -> None:
    """A reader after every write, and one who comes at the end, live and from the file."""
    counter = iter(range(10**6))
    pieces = [bytes(next(counter) % 251 for _ in range(size)) for size in sizes]
    whole = b"".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        log = BuildLog(Path(folder) / "log", 4096)
        offset = 0
        for piece in pieces:
            log.write(piece)
            offset = _read_to_the_end(log, offset, piece_bytes, whole)
        live = _kept(log, piece_bytes, whole)
        log.finish()
        assert _kept(log, piece_bytes, whole) == live


def _read_to_the_end(log: BuildLog, offset: int, piece_bytes: int, whole: bytes) -> int:
    while (piece := log.read(offset, piece_bytes)).data:
        assert piece.data == whole[piece.offset : piece.end]
        if piece.offset != offset:
            assert piece.dropped is not None
            assert piece.dropped[0] <= offset
            assert piece.offset == piece.dropped[1]
        offset = piece.end
    assert offset == piece.total
    return offset


def _kept(log: BuildLog, piece_bytes: int, whole: bytes) -> list[tuple[int, bytes]]:
    """The stretches of the output that a reader gets who comes now."""
    stretches: list[tuple[int, bytes]] = []
    offset = 0
    while (piece := log.read(offset, piece_bytes)).data:
        if stretches and piece.offset == offset:
            start, data = stretches.pop()
            stretches.append((start, data + piece.data))
        else:
            stretches.append((piece.offset, piece.data))
        offset = piece.end
    assert piece.total == len(whole)
    return stretches


def test_it_can_be_read_while_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads along does not wait for a disk that takes the tail slowly."""
    log = BuildLog(tmp_path / "log", 4096)
    log.write(b"x" * 10_000)
    before = [log.read(offset, 100) for offset in (0, 9_950)]
    meanwhile: list[LogPiece] = []
    write_all = build_log._write_all

    def write_slowly(file: BinaryIO, data: bytes | bytearray) -> None:
        reader = threading.Thread(
            target=lambda: meanwhile.extend(log.read(offset, 100) for offset in (0, 9_950)),
            daemon=True,
        )
        reader.start()
        reader.join(10)
        log.write(b"too late")
        write_all(file, data)

    monkeypatch.setattr(build_log, "_write_all", write_slowly)
    _, size = log.finish()
    assert size <= 4096
    assert meanwhile[:2] == before
    assert b"too late" not in (tmp_path / "log").read_bytes()
    assert not log.is_open


@pytest.mark.parametrize(
    "said",
    [
        b"curl: (6) Could not resolve host: example.org",
        b"wget: bad address 'example.org'",
        b"[Errno -3] Temporary failure in name resolution",
        b"npm ERR! code EAI_AGAIN",
        b"dial tcp: lookup proxy.golang.org: Try again",
        b"connect: Network is unreachable",
        b"java.net.UnknownHostException: example.org",
        b"fatal: unable to access 'https://example.org/': Couldn't resolve host",
    ],
)
def test_a_resolvers_or_connections_error_at_the_end_looks_offline(
    tmp_path: Path, said: bytes
) -> None:
    log = BuildLog(tmp_path / "log", 4096)
    log.write(b"x" * 100_000 + b"\n")
    assert not log.looks_offline()
    for place in range(0, len(said), 5):
        log.write(said[place : place + 5])
    assert log.looks_offline(), "in what of a long log is kept, too"
    log.close()
    log = BuildLog(tmp_path / "larger", 2**20)
    log.write(said + b"\n")
    assert log.looks_offline()
    log.write(b"a line that has nothing to do with it\n" * 5_000)
    assert not log.looks_offline(), "much else happened since"
    log.close()


def test_what_fails_for_another_reason_does_not_look_offline(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log", 4096)
    log.write(b"2 tests failed\nconnect 127.0.0.1:5432: Connection refused\n+ exit 4\n")
    assert not log.looks_offline()
    log.close()
