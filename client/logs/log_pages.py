"""A finished log in pages of whole lines, each line with its number, as HTML.

The rule: lines are counted in the file that is kept, as `grep -n` counts them in the same file
downloaded. A page ends at a line's end; only a line longer than a page goes on on the next one, and
both say so. Bytes that the replica did not keep are named by the line that stands in their place.
"""

import bisect
import functools
import html
import os
import time
from pathlib import Path

import msgspec

from client.logs.build_output import BuildOutput, html_of
from common.log_pieces import read_layout

# A log of one megabyte is one page.
PAGE_BYTES_MAX = 2**20
# What a browser shows at once; a megabyte of empty lines would be a million.
PAGE_LINES_MAX = 20_000
# A browser lays a block out when it is near the screen (style.css, `.lines`).
BLOCK_LINES = 100
FILES_KEPT = 64
# After so many lines the thread lets the event loop go on.
LINES_AT_ONCE = 20

_COUNTED_BYTES = 4096


class PageStart(msgspec.Struct, frozen=True):
    """Where a page begins. is_continued: in mid-line; the line began on the page before."""

    offset: int
    line: int
    is_continued: bool


class LogPage(msgspec.Struct, frozen=True):
    """One page. number: from 1. html: escaped text and spans of classes, nothing else.

    lines: how many lines the whole file has. cut_bytes: how many bytes the replica did not keep.
    """

    number: int
    count: int
    first_line: int
    last_line: int
    lines: int
    size: int
    cut_bytes: int
    html: str


class PageTable(msgspec.Struct, frozen=True):
    """The pages of one file of that size."""

    starts: tuple[PageStart, ...]
    lines: int
    size: int
    cut_bytes: int

    def page_of_line(self, line: int) -> int:
        """The number of the page on which that line begins; the last one, if there is no such."""
        begins = [start.line + start.is_continued for start in self.starts]
        return max(1, bisect.bisect_right(begins, line))


def page_table(file: Path) -> PageTable:
    """Where the pages of a finished log begin. Blocking. Raises OSError."""
    found = file.stat()
    return _table(file, found.st_size, found.st_mtime_ns)


def log_page(file: Path, number: int) -> LogPage:
    """That page (from 1; the last one, if there are fewer). Blocking. Raises OSError.

    Colours begin anew on each page: what an earlier page left on is not known here.
    """
    table = page_table(file)
    number = min(max(1, number), len(table.starts))
    start = table.starts[number - 1]
    is_last = number == len(table.starts)
    end = table.size if is_last else table.starts[number].offset
    with file.open("rb", buffering=0) as stream:
        data = os.pread(stream.fileno(), end - start.offset, start.offset)
    goes_on = not is_last and table.starts[number].is_continued
    lines = data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))
    return LogPage(
        number=number,
        count=len(table.starts),
        first_line=start.line,
        last_line=start.line + max(0, lines - 1),
        lines=table.lines,
        size=table.size,
        cut_bytes=table.cut_bytes,
        html=_rendered(data, start, goes_on=goes_on),
    )


@functools.lru_cache(FILES_KEPT)
def _table(file: Path, size: int, changed: int) -> PageTable:
    """Of that file with that size, changed then."""
    starts = [PageStart(0, 1, False)]
    line = 1
    with file.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        cut_bytes = read_layout(descriptor).cut_bytes
        while True:
            offset = starts[-1].offset
            data = os.pread(descriptor, PAGE_BYTES_MAX, offset)
            length = _page_length(data, is_all=offset + len(data) >= size)
            line += data.count(b"\n", 0, length)
            if offset + length >= size or not length:
                break
            is_continued = data[length - 1 : length] != b"\n"
            starts.append(PageStart(offset + length, line, is_continued))
            time.sleep(0)
        ends_open = bool(data) and not data.endswith(b"\n")
    return PageTable(tuple(starts), line - (not ends_open), size, cut_bytes)


def _page_length(data: bytes, *, is_all: bool) -> int:
    """How much of the bytes at a page's beginning is that page."""
    place, lines = 0, 0
    while place < len(data):
        count = data.count(b"\n", place, place + _COUNTED_BYTES)
        if lines + count >= PAGE_LINES_MAX:
            for _ in range(PAGE_LINES_MAX - lines):
                place = data.index(b"\n", place) + 1
            return place
        lines += count
        place += _COUNTED_BYTES
    if is_all:
        return len(data)
    if end := data.rfind(b"\n") + 1:
        return end
    # One line and no end of it: cut it between characters, if it is text.
    end = len(data)
    while end > len(data) - 3 and 0x80 <= data[end - 1] < 0xC0:
        end -= 1
    return end - 1 if data[end - 1] >= 0xC0 else len(data)


def _rendered(data: bytes, start: PageStart, *, goes_on: bool) -> str:
    output = BuildOutput()
    parts: list[str] = []
    lines = data.split(b"\n")
    last = len(lines) - 1
    for index, text in enumerate(lines):
        if index == last and not text:
            break
        if index % BLOCK_LINES == 0:
            parts.append('</span><span class="lines">' if index else '<span class="lines">')
        if index % LINES_AT_ONCE == 0:
            time.sleep(0)
        if index == 0 and start.is_continued:
            parts.append(_note(f"[line {start.line} began on the page before]\n"))
        else:
            number = start.line + index
            parts.append(f'<a id="L{number}" href="#L{number}" tabindex="-1">{number}</a>')
        ending = b"" if index == last else b"\n"
        parts.append(html_of(output.take(text + ending, is_last=index == last)))
    if goes_on:
        parts.append(_note("\n[this line goes on on the next page]\n"))
    if parts:
        parts.append("</span>")
    return "".join(parts)


def _note(text: str) -> str:
    return f'<span class="log-note">{html.escape(text)}</span>'
