"""The redo log: the last saves, on disk with one flush each, before SQLite has flushed them.

SQLite alone can lose acknowledged transactions silently: a flipped bit in its write-ahead log
dropped them in 1,387 of 1,500 trials. To flush its log, and then a mark of how far it went, takes
two flushes for each save. So SQLite commits a save without a flush. An entry here, which is
flushed, repeats the save and the position where it ends. When the files are opened, the store
repeats from the redo log what a power cut took from SQLite; what is missing beyond that is damage.

The rule: an acknowledged entry is there twice, half the file apart. A flipped bit leaves the other
copy. If both are unreadable, the power failed while they were written, so nothing was acknowledged.
Entries have pages of their own, so that writing one never touches another. There are two areas with
a generation of entries in each: the older one stays until the first entry of the newer one is
safe.

The file has no format number: its layout belongs to the store's format (node/storage/schema.py).
"""

import errno
import fcntl
import hashlib
import logging
import os
from pathlib import Path
from typing import Self

import msgspec

AREA_BYTES = 1024 * 1024
PAGE_BYTES = 4096
# A larger save is flushed in SQLite, so that no area is full after a few.
CONTENT_BYTES_MAX = 128 * 1024
AREAS = 2
COPIES = 2

# Number and secret of the generation, number of the entry, length of its body.
_HEAD_BYTES = 8 + 16 + 4 + 4
_CHECKSUM_BYTES = 32
# What an entry's body has beside the content, at most.
_ENTRY_BYTES = 64


class RedoEntry(msgspec.Struct, frozen=True, array_like=True):
    """One save: the positions of the last records before and after it, and the chain there.

    content: what to save again after `begins`; empty where SQLite has all up to `ends` on disk.
    """

    begins: int
    ends: int
    chain: bytes
    content: bytes = b""


class _Generation(msgspec.Struct):
    """The entries of an area, from one that SQLite had on disk.

    secret: random. Whoever chose what is in some entry's content does not know it, and so cannot
    make a part of that look like an entry.
    """

    number: int
    secret: bytes
    area: int
    entries: int = 0
    size: int = 0


class _Frame(msgspec.Struct):
    """An entry as it lies in the file."""

    generation: int
    secret: bytes
    number: int
    entry: RedoEntry
    size: int


class EntriesUnknown(Exception):
    """An entry is whole, and not one of this version's."""


_log = logging.getLogger(__name__)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RedoEntry)


class RedoLog:
    """The file, held open.

    entries: those of the newest generation when it was opened, in order. is_broken: one that was
    acknowledged after them cannot be read.
    """

    def __init__(self, descriptor: int, newest: _Generation | None, frames: list[_Frame]) -> None:
        self._descriptor = descriptor
        self._last = newest or _Generation(0, b"", AREAS - 1)
        # Nothing is added to a generation that was begun before this start.
        self._generation: _Generation | None = None
        self.entries = tuple(frame.entry for frame in frames)
        self.is_broken = newest is not None and newest.entries > len(frames)
        self.end = self.entries[-1] if self.entries else None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or make the file, and keep other processes away until it is closed, also by a
        crash: two of them would say different things under one name.

        Raises BlockingIOError where another one has it, OSError, EntriesUnknown.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = AREAS * COPIES * AREA_BYTES
            there = os.fstat(descriptor).st_size
            if there < size:
                # Written, not only promised: then an entry changes nothing but its own pages.
                _write(descriptor, bytes(size - there), there)
            # A process that was killed may have written what was never flushed.
            os.fdatasync(descriptor)
            data = _read_file(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        newest: _Generation | None = None
        frames: list[_Frame] = []
        for area in range(AREAS):
            try:
                found = _read_area(data, area)
            except msgspec.MsgspecError as error:
                os.close(descriptor)
                raise EntriesUnknown(str(error)) from error
            if found is not None and (newest is None or found[0].number > newest.number):
                newest, frames = found
        return cls(descriptor, newest, frames)

    @property
    def position(self) -> int:
        """Where the last entry ends; 0 where there is none."""
        return self.end.ends if self.end is not None else 0

    def takes(self, content_bytes: int) -> bool:
        """Whether an entry with so much content may be appended."""
        is_small = content_bytes <= CONTENT_BYTES_MAX
        has_begun = self._generation is not None and self._generation.entries > 0
        return is_small and has_begun and self._has_room(_frame_bytes(content_bytes + _ENTRY_BYTES))

    def append(self, entry: RedoEntry) -> None:
        """Put an entry on disk. Raises OSError: then it, or another one, may be appended.

        With content it must follow the last entry, and `takes` must have said yes. Without, it
        says that SQLite has everything on disk up to there: where there is little room left, the
        next generation begins with it.
        """
        body = _encoder.encode(entry)
        if not entry.content and not self._has_room(_frame_bytes(CONTENT_BYTES_MAX)):
            self._generation = _Generation(
                self._last.number + 1, os.urandom(16), (self._last.area + 1) % AREAS
            )
        generation = self._generation
        assert generation is not None
        if entry.content:
            assert generation.entries > 0
            assert entry.begins == self.position, "what is done again follows what is there"
        frame = _frame(generation, body)
        for copy in range(COPIES):
            _write(self._descriptor, frame, _offset(generation.area, copy) + generation.size)
        os.fdatasync(self._descriptor)
        generation.entries += 1
        generation.size += len(frame)
        self._last = generation
        self.end = entry

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _has_room(self, frame_bytes: int) -> bool:
        generation = self._generation
        return generation is not None and generation.size + frame_bytes <= AREA_BYTES


def _offset(area: int, copy: int) -> int:
    return (AREAS * copy + area) * AREA_BYTES


def _write(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes were written")


def _read_file(descriptor: int, size: int) -> bytes:
    """The whole file, with zeros for pages of one half that the disk cannot read.

    Such a page is known to be damaged, where a torn one is not: so where both halves have some,
    nobody takes an entry for torn that may have been acknowledged. Raises OSError then.
    """
    data = bytearray()
    unreadable: list[int] = []
    while len(data) < size:
        # as far as it gets: a read that meets such a page ends before it
        try:
            read = os.pread(descriptor, size - len(data), len(data))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            read = b""
        data += read
        if len(data) < size and not read:
            unreadable.append(len(data))
            data += bytes(PAGE_BYTES - len(data) % PAGE_BYTES)
    if len({offset * 2 // size for offset in unreadable}) > 1:
        raise OSError(errno.EIO, "the disk cannot read pages of both copies of its entries")
    if unreadable:
        _log.error(
            "the disk cannot read the redo log at %s: its other copy serves; look after the disk",
            ", ".join(map(str, unreadable[:8])),
        )
    return bytes(data)


def _frame_bytes(body_bytes: int) -> int:
    """A whole number of pages."""
    size = _HEAD_BYTES + body_bytes + _CHECKSUM_BYTES
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _frame(generation: _Generation, body: bytes) -> bytes:
    head = (
        generation.number.to_bytes(8, "big")
        + generation.secret
        + generation.entries.to_bytes(4, "big")
        + len(body).to_bytes(4, "big")
    )
    frame = head + body + hashlib.sha256(head + body).digest()
    return frame.ljust(_frame_bytes(len(body)), b"\0")


def _read_area(data: bytes, area: int) -> tuple[_Generation, list[_Frame]] | None:
    """The newest generation in an area and its entries, in order; None where none is there.

    Its count of entries tells of those, too, that come after one that cannot be read.
    """
    firsts = [frame for frame in _copies(data, area, 0, secret=None) if frame.number == 0]
    if not firsts:
        return None
    first = max(firsts, key=lambda frame: frame.generation)
    frames, size = [first], first.size
    while size < AREA_BYTES:
        following = _copies(data, area, size, secret=first.secret)
        if not following or following[0].number != len(frames):
            break
        frames.append(following[0])
        size += following[0].size
    last = len(frames)
    for place in range(size, AREA_BYTES, PAGE_BYTES):
        for frame in _copies(data, area, place, secret=first.secret):
            last = max(last, frame.number + 1)
    return _Generation(first.generation, first.secret, area, last, size), frames


def _copies(data: bytes, area: int, place: int, *, secret: bytes | None) -> list[_Frame]:
    """What can be read of the copies of the entry at that place.

    secret: of the generation; None where an area begins, and nobody else's bytes can be.
    """
    frames = (_read_frame(data, _offset(area, copy) + place, secret) for copy in range(COPIES))
    return [frame for frame in frames if frame is not None]


def _read_frame(data: bytes, start: int, secret: bytes | None) -> _Frame | None:
    head = data[start : start + _HEAD_BYTES]
    if secret is not None and head[8:24] != secret:
        return None
    body_bytes = int.from_bytes(head[28:32], "big")
    if not any(head[:8]) or body_bytes > CONTENT_BYTES_MAX + _ENTRY_BYTES:
        return None
    end = start + _HEAD_BYTES + body_bytes
    if hashlib.sha256(data[start:end]).digest() != data[end : end + _CHECKSUM_BYTES]:
        return None
    body = data[start + _HEAD_BYTES : end]
    return _Frame(
        generation=int.from_bytes(head[:8], "big"),
        secret=head[8:24],
        number=int.from_bytes(head[24:28], "big"),
        entry=_decoder.decode(body),
        size=_frame_bytes(len(body)),
    )
