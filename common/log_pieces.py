"""Pieces of a build's log by their place in the build's whole output, live or finished.

The rule: an offset counts the bytes that the build wrote, not those that are kept. So it means
the same while the log grows, when it is finished, and in any copy of it. What is kept of a long
log is a head and a tail, with one line between them in the file that says how much was cut.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

# room for the line between head and tail
MARKER_BYTES_MAX = 96
# beyond this no number in that line is believed
_CUT_DIGITS_MAX = 18
_NUMBER = re.compile(r"[0-9]{1,18}")
_RUN = re.compile(r"[0-9a-z]{1,32}")
_MARKER = re.compile(rb"\n\[pbft-ci\] \.\.\. ([1-9][0-9]*) bytes were cut here \.\.\.\n")


class LogPiece(msgspec.Struct, frozen=True):
    """Some bytes of a log.

    offset: where `data` begins in the whole output; more than was asked for where those bytes
        are gone. total: how long the whole output is so far.
    dropped: from which byte on and up to which (exclusive) nothing is kept; None: all is kept.
    """

    offset: int
    data: bytes
    total: int
    dropped: tuple[int, int] | None
    is_growing: bool

    @property
    def end(self) -> int:
        """The offset to go on from."""
        return self.offset + len(self.data)


class ServedPiece(msgspec.Struct, frozen=True):
    """A piece as it travels over HTTP. run: another one where a log was begun anew."""

    piece: LogPiece
    run: str


class LogLayout(msgspec.Struct, frozen=True):
    """How a finished log lies in its file: head, marker, tail. Sizes in bytes.

    marker_bytes and cut_bytes are 0 where everything was kept; then all of it is the head.
    """

    head_bytes: int
    marker_bytes: int
    cut_bytes: int
    tail_bytes: int

    @property
    def total(self) -> int:
        """How long the whole output was."""
        return self.head_bytes + self.cut_bytes + self.tail_bytes

    @property
    def dropped(self) -> tuple[int, int] | None:
        """See LogPiece."""
        if not self.cut_bytes:
            return None
        return self.head_bytes, self.head_bytes + self.cut_bytes

    def place(self, offset: int, bytes_max: int) -> tuple[int, int, int]:
        """(offset, place in the file, length) of the first piece at or after an offset."""
        tail_offset = self.head_bytes + self.cut_bytes
        if offset < self.head_bytes:
            return offset, offset, min(bytes_max, self.head_bytes - offset)
        offset = min(max(offset, tail_offset), self.total)
        place = self.head_bytes + self.marker_bytes + offset - tail_offset
        return offset, place, min(bytes_max, self.total - offset)


def piece_headers(served: ServedPiece) -> dict[str, str]:
    """The headers that a piece travels with; its data is the body.

    Pbft-Log-Dropped is first-end, the end exclusive, and missing where nothing was dropped.
    """
    piece = served.piece
    headers = {
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
        "Pbft-Log-Offset": str(piece.offset),
        "Pbft-Log-Total": str(piece.total),
        "Pbft-Log-Growing": "yes" if piece.is_growing else "no",
        "Pbft-Log-Run": served.run,
    }
    if piece.dropped is not None:
        headers["Pbft-Log-Dropped"] = f"{piece.dropped[0]}-{piece.dropped[1]}"
    return headers


def read_piece(headers: Mapping[str, str], data: bytes) -> ServedPiece:
    """The inverse of piece_headers. Raises ValueError naming the header that is wrong."""
    dropped = None
    if "Pbft-Log-Dropped" in headers:
        first, _, end = headers["Pbft-Log-Dropped"].partition("-")
        dropped = _number(first, "Dropped"), _number(end, "Dropped")
        if dropped[0] >= dropped[1]:
            raise ValueError("Pbft-Log-Dropped is not first-end")
    run = headers.get("Pbft-Log-Run", "")
    if not _RUN.fullmatch(run):
        raise ValueError("Pbft-Log-Run is not a word")
    piece = LogPiece(
        offset=_number(headers.get("Pbft-Log-Offset", ""), "Offset"),
        data=data,
        total=_number(headers.get("Pbft-Log-Total", ""), "Total"),
        dropped=dropped,
        is_growing=headers.get("Pbft-Log-Growing") == "yes",
    )
    if piece.end > piece.total:
        raise ValueError("Pbft-Log-Total is less than what came")
    return ServedPiece(piece, run)


def kept_sizes(log_bytes_max: int) -> tuple[int, int]:
    """The most that is kept of a log's head and of its tail, in bytes."""
    head = (log_bytes_max - MARKER_BYTES_MAX) // 2
    return head, log_bytes_max - MARKER_BYTES_MAX - head


def marker(cut_bytes: int) -> bytes:
    """The line between head and tail."""
    return b"\n[pbft-ci] ... %d bytes were cut here ...\n" % cut_bytes


def read_log_file(path: Path, offset: int, *, bytes_max: int) -> LogPiece:
    """A piece of a finished log. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        layout = read_layout(file.fileno())
        offset, place, length = layout.place(offset, bytes_max)
        data = os.pread(file.fileno(), length, place)
    return LogPiece(offset, data, layout.total, layout.dropped, False)


def read_layout(descriptor: int) -> LogLayout:
    """How a finished log lies in its open file, whatever limit it was written with: that follows
    from its size, if it was cut. Raises OSError.

    A build may write a line like the marker; it counts only where head, marker and tail have
    exactly their sizes, and then the offsets after it are wrong and nothing else.
    """
    size = os.fstat(descriptor).st_size
    longest = len(marker(10**_CUT_DIGITS_MAX - 1))
    begin = max(0, (size - longest) // 2 - 1)
    middle = os.pread(descriptor, 2 * longest, begin)
    for digits in range(1, _CUT_DIGITS_MAX + 1):
        marker_bytes = longest - _CUT_DIGITS_MAX + digits
        head, tail = kept_sizes(size - marker_bytes + MARKER_BYTES_MAX)
        found = _MARKER.match(middle, head - begin) if head >= begin else None
        if found is not None and found.end() - found.start() == marker_bytes:
            return LogLayout(head, marker_bytes, int(found[1]), tail)
    return LogLayout(size, 0, 0, 0)


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"Pbft-Log-{name} is not a number")
    return int(text)
