"""When each part of a build's log came, in a small file beside the log. Pure.

The rule: an entry is (offset, milliseconds): what the build wrote from that byte on came so long
after its log began. Offsets are as in common.log_pieces. There are few entries, whatever the build
writes: if there are too many, every second one goes, and later ones are further apart. So a time is
never too late, and too early by at most the distance to the next entry.
"""

import bisect
import itertools
import re
from collections.abc import Sequence

ENTRIES_MAX = 4096
GAP_MILLISECONDS = 10
TIMES_BYTES_MAX = ENTRIES_MAX * 40

_LINE = re.compile(rb"([0-9]{1,18}) ([0-9]{1,15})\n")

Entry = tuple[int, int]


class LogTimes:
    """Notes times as a log is written."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._gap_milliseconds = GAP_MILLISECONDS

    def note(self, offset: int, milliseconds: int) -> None:
        """Something was written at that byte, then. Neither is ever less than before."""
        if self._entries and milliseconds < self._entries[-1][1] + self._gap_milliseconds:
            return
        self._entries.append((offset, milliseconds))
        if len(self._entries) > ENTRIES_MAX:
            del self._entries[1::2]
            self._gap_milliseconds *= 2

    def encode(self) -> bytes:
        """A line for each entry."""
        return b"".join(b"%d %d\n" % entry for entry in self._entries)


def read_times(data: bytes) -> tuple[Entry, ...]:
    """The entries in such a file; empty if it is none. It is a replica's own account."""
    if len(data) > TIMES_BYTES_MAX:
        return ()
    lines = data.splitlines(keepends=True)
    found = [_LINE.fullmatch(line) for line in lines[:ENTRIES_MAX]]
    entries = tuple((int(match[1]), int(match[2])) for match in found if match is not None)
    is_in_order = all(
        before[0] <= after[0] and before[1] <= after[1]
        for before, after in itertools.pairwise(entries)
    )
    return entries if len(entries) == len(lines) and is_in_order else ()


def clock_text(milliseconds: int) -> str:
    """`0:01.2`, from when the log began."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 60}:{seconds % 60:02d}.{rest // 100}"


def milliseconds_at(entries: Sequence[Entry], offset: int) -> int | None:
    """How long after the log's beginning the byte at an offset came; None: nothing says so."""
    place = bisect.bisect_right(entries, offset, key=lambda entry: entry[0])
    return entries[place - 1][1] if place else None
