"""The redo log gives back every entry that was acknowledged, whatever single fault comes to it."""

import errno
import hashlib
import itertools
import os
import random
from pathlib import Path

import pytest

from node.storage.redo_log import (
    AREA_BYTES,
    AREAS,
    CONTENT_BYTES_MAX,
    COPIES,
    PAGE_BYTES,
    RedoEntry,
    RedoLog,
)

SIZE = AREAS * COPIES * AREA_BYTES


def _mark(position: int) -> RedoEntry:
    """SQLite has everything up to there."""
    return RedoEntry(position, position, bytes([position % 256]) * 32)


def _save(position: int, content: bytes = b"content") -> RedoEntry:
    """One record more."""
    return RedoEntry(position - 1, position, bytes([position % 256]) * 32, content)


def _write(path: Path, count: int, content: bytes = b"content") -> list[RedoEntry]:
    log = RedoLog.open(path)
    entries = [_mark(1), *(_save(position, content) for position in range(2, count + 1))]
    for entry in entries:
        assert not entry.content or log.takes(len(entry.content))
        log.append(entry)
    log.close()
    return entries


def _read(path: Path) -> tuple[list[RedoEntry], bool]:
    log = RedoLog.open(path)
    log.close()
    return list(log.entries), log.is_broken


def test_a_new_file_has_no_entries(tmp_path: Path) -> None:
    log = RedoLog.open(tmp_path / "log")
    assert (log.entries, log.end, log.position, log.is_broken) == ((), None, 0, False)
    assert not log.takes(1), "nothing says yet what SQLite has on disk"
    log.close()
    assert (tmp_path / "log").stat().st_size == SIZE


@pytest.mark.parametrize("content_bytes", [1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 7])
def test_what_was_appended_is_there_in_order(tmp_path: Path, content_bytes: int) -> None:
    entries = _write(tmp_path / "log", 9, bytes(content_bytes))
    assert _read(tmp_path / "log") == (entries, False)


def test_a_second_process_is_kept_away(tmp_path: Path) -> None:
    log = RedoLog.open(tmp_path / "log")
    with pytest.raises(BlockingIOError):
        RedoLog.open(tmp_path / "log")
    log.close()
    RedoLog.open(tmp_path / "log").close()


def test_a_start_begins_a_new_generation_and_keeps_the_old_one_until_it_has_begun(
    tmp_path: Path,
) -> None:
    entries = _write(tmp_path / "log", 4)
    log = RedoLog.open(tmp_path / "log")
    assert not log.takes(1)
    assert _read_copy(tmp_path) == (entries, False)
    log.append(_mark(5))
    assert log.takes(1)
    log.append(_save(6))
    log.close()
    assert _read(tmp_path / "log") == ([_mark(5), _save(6)], False)


def _read_copy(folder: Path) -> tuple[list[RedoEntry], bool]:
    (folder / "copy").write_bytes((folder / "log").read_bytes())
    return _read(folder / "copy")


def test_a_full_area_is_followed_by_the_other_one(tmp_path: Path) -> None:
    log = RedoLog.open(tmp_path / "log")
    log.append(_mark(1))
    position, marks = 1, 0
    while marks < 5:
        position += 1
        if log.takes(CONTENT_BYTES_MAX):
            log.append(_save(position, bytes(CONTENT_BYTES_MAX)))
        else:
            marks += 1
            log.append(_mark(position))
        if position % 3 == 0:
            assert _read_copy(tmp_path)[0][-1] == log.end
    log.close()
    assert _read(tmp_path / "log") == ([_mark(position)], False)
    assert position > 5 * 7


def test_what_is_too_large_is_not_taken(tmp_path: Path) -> None:
    log = RedoLog.open(tmp_path / "log")
    log.append(_mark(1))
    assert log.takes(CONTENT_BYTES_MAX)
    assert not log.takes(CONTENT_BYTES_MAX + 1)
    log.close()


def test_a_flipped_bit_loses_nothing(tmp_path: Path) -> None:
    entries = _write(tmp_path / "log", 6)
    data = (tmp_path / "log").read_bytes()
    used = [place for place in range(SIZE) if data[place]]
    chance = random.Random(1)
    for place in chance.sample(used, 200):
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        (tmp_path / "flipped").write_bytes(flipped)
        assert _read(tmp_path / "flipped") == (entries, False), place


def test_a_torn_entry_is_there_or_was_never_acknowledged(tmp_path: Path) -> None:
    """The power goes while it is written: of each page any may be there, and one in part."""
    log = RedoLog.open(tmp_path / "log")
    entries = [_mark(1), _save(2), _save(3)]
    for entry in entries:
        log.append(entry)
    before = (tmp_path / "log").read_bytes()
    log.append(_save(4, b"x" * 3 * PAGE_BYTES))
    after = (tmp_path / "log").read_bytes()
    log.close()
    pages = [p for p in range(0, SIZE, PAGE_BYTES) if before[p : p + 4096] != after[p : p + 4096]]
    chance = random.Random(2)
    seen = set()
    for _ in range(100):
        torn = bytearray(before)
        for page in chance.sample(pages, chance.randrange(len(pages) + 1)):
            size = chance.choice((PAGE_BYTES, PAGE_BYTES, chance.randrange(PAGE_BYTES)))
            torn[page : page + size] = after[page : page + size]
        (tmp_path / "torn").write_bytes(torn)
        found, is_broken = _read(tmp_path / "torn")
        assert found[:3] == entries
        assert found[3:] in ([], [_save(4, b"x" * 3 * PAGE_BYTES)])
        assert not is_broken
        seen.add(len(found))
    assert seen == {3, 4}


def test_an_unreadable_entry_between_others_is_noticed(tmp_path: Path) -> None:
    entries = _write(tmp_path / "log", 6)
    data = bytearray((tmp_path / "log").read_bytes())
    for copy in range(COPIES):
        data[AREAS * copy * AREA_BYTES + 2 * PAGE_BYTES + 40] ^= 1
    (tmp_path / "log").write_bytes(data)
    assert _read(tmp_path / "log") == (entries[:2], True)


def test_content_that_looks_like_an_entry_is_none(tmp_path: Path) -> None:
    """A stranger chooses what is in a body, but not the mark of the generation."""
    _write(tmp_path / "other", 3)
    copied = (tmp_path / "other").read_bytes()[: 3 * PAGE_BYTES]
    head = bytes(7) + b"\1" + bytes(24)
    empty = (head + hashlib.sha256(head).digest()) * 200  # right, but nothing that can be decoded
    for shift, forged in itertools.product((0, 32, 511, 2048, 4064), (copied, empty)):
        path = tmp_path / f"log{shift}{len(forged)}"
        log = RedoLog.open(path)
        entries = [_mark(1), _save(2, bytes(shift) + forged)]
        for entry in entries:
            log.append(entry)
        place = log._last.size
        log.append(_save(3, bytes(shift) + forged))
        log.close()
        data = bytearray(path.read_bytes())
        for copy in range(COPIES):  # it is lost: so what lies in its pages is looked at
            data[AREAS * copy * AREA_BYTES + place + 33] ^= 1
        path.write_bytes(data)
        assert _read(path) == (entries, False)


def test_an_append_that_failed_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedoLog.open(tmp_path / "log")
    for entry in (_mark(1), _save(2)):
        with monkeypatch.context() as patch:
            patch.setattr("node.storage.redo_log.os.fdatasync", _refuse)
            with pytest.raises(OSError, match="refused"):
                log.append(entry)
        assert log.position == entry.ends - 1
        log.append(entry)
    log.close()
    assert _read(tmp_path / "log") == ([_mark(1), _save(2)], False)


def _refuse(_: int) -> None:
    raise OSError("refused")


def _with_bad_pages(monkeypatch: pytest.MonkeyPatch, *pages: int) -> None:
    """The disk cannot read these: as the kernel does, a read ends before one, or fails at it."""
    pread = os.pread
    bad = [page * PAGE_BYTES for page in pages]

    def failing(descriptor: int, count: int, offset: int) -> bytes:
        ahead = min((page for page in bad if page + PAGE_BYTES > offset), default=SIZE)
        if ahead <= offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, min(count, ahead - offset), offset)

    monkeypatch.setattr(os, "pread", failing)


@pytest.mark.parametrize("copy", range(COPIES))
def test_pages_of_one_copy_that_the_disk_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: int
) -> None:
    entries = _write(tmp_path / "log", 9)
    first = copy * SIZE // COPIES // PAGE_BYTES
    last = first + SIZE // COPIES // PAGE_BYTES - 1
    _with_bad_pages(monkeypatch, first, first + 4, first + 5, last)
    assert _read(tmp_path / "log") == (entries, False)


def test_pages_of_both_copies_that_the_disk_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where they are of different entries: one fault is what it is made for."""
    _write(tmp_path / "log", 9)
    data = (tmp_path / "log").read_bytes()
    _with_bad_pages(monkeypatch, 1, SIZE // COPIES // PAGE_BYTES + 7)
    with pytest.raises(OSError, match="both copies"):
        RedoLog.open(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == data


def test_another_fault_of_the_disk_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "log", 2)

    def refusing(descriptor: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(os, "pread", refusing)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        RedoLog.open(tmp_path / "log")
