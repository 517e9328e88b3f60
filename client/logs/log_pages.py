"""A finished log in pages of whole lines, each line with its number, as HTML.

The rule: lines are counted in the file that is kept, as `grep -n` counts them in the same file
downloaded. A page ends at a line's end; only a line longer than a page goes on on the next one, and
both say so. Bytes that the replica did not keep are named by the line that stands in their place.
Steps are folded, but for what failed; if nothing did, none is.
"""

import bisect
import functools
import html
import os
import time
from pathlib import Path

import msgspec

from client.logs.build_output import BuildOutput, html_of
from client.logs.log_sections import FAILED, LogSection, SectionReader, section_at
from client.views.build_times import span
from client.views.formats import kind, sign
from common.log_pieces import LogLayout, read_layout
from common.log_times import Entry, clock_text, milliseconds_at

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


class ShownSection(msgspec.Struct, frozen=True):
    """A section and how long it took, by the replica's own account; None: it does not say."""

    section: LogSection
    seconds: float | None

    @property
    def took(self) -> str:
        """How long, in words; empty: not known."""
        return "" if self.seconds is None else span(self.seconds)


class Reading(msgspec.Struct, frozen=True):
    """How somebody reads a log.

    times: when each part came. are_times_shown: beside each line. line: one that is to be seen.
    """

    times: tuple[Entry, ...] = ()
    are_times_shown: bool = False
    line: int | None = None


class LogPage(msgspec.Struct, frozen=True):
    """One page. number: from 1. html: escaped text, and elements and classes of our own alone.

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
    sections: tuple[ShownSection, ...] = ()
    has_times: bool = False


class PageTable(msgspec.Struct, frozen=True):
    """The pages of one file of that size."""

    starts: tuple[PageStart, ...]
    lines: int
    size: int
    layout: LogLayout
    sections: tuple[LogSection, ...]

    @property
    def cut_bytes(self) -> int:
        """How many bytes the replica did not keep."""
        return self.layout.cut_bytes

    def output_offset(self, place: int) -> int:
        """Where the byte at a place in the file lies in the build's whole output."""
        layout = self.layout
        if place < layout.head_bytes + layout.marker_bytes:
            return min(place, layout.head_bytes)
        return place - layout.marker_bytes + layout.cut_bytes

    def page_of_line(self, line: int) -> int:
        """The number of the page on which that line begins; the last one, if there is no such."""
        begins = [start.line + start.is_continued for start in self.starts]
        return max(1, bisect.bisect_right(begins, line))


def page_table(file: Path) -> PageTable:
    """Where the pages of a finished log begin. Blocking. Raises OSError."""
    found = file.stat()
    return _table(file, found.st_size, found.st_mtime_ns)


def log_page(file: Path, number: int, reading: Reading | None = None) -> LogPage:
    """That page (from 1; the last one, if there are fewer). Blocking. Raises OSError.

    Colours begin anew on each page: what an earlier page left on is not known here.
    """
    reading = reading or Reading()
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
        html=_Renderer(table, reading).html(data, start, goes_on=goes_on),
        sections=shown_sections(table, reading.times),
        has_times=bool(reading.times),
    )


def shown_sections(table: PageTable, times: tuple[Entry, ...]) -> tuple[ShownSection, ...]:
    """The sections of a log, each from its first line to that of the next."""
    begins = [
        milliseconds_at(times, table.output_offset(section.offset)) for section in table.sections
    ]
    ends = [*begins[1:], times[-1][1] if times else None]
    return tuple(
        ShownSection(section, None if begin is None or end is None else max(0, end - begin) / 1000)
        for section, begin, end in zip(table.sections, begins, ends, strict=False)
    )


@functools.lru_cache(FILES_KEPT)
def _table(file: Path, size: int, changed: int) -> PageTable:
    """Of that file with that size, changed then."""
    starts = [PageStart(0, 1, False)]
    line = 1
    with file.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        layout = read_layout(descriptor)
        reader = SectionReader()
        while True:
            offset = starts[-1].offset
            data = os.pread(descriptor, PAGE_BYTES_MAX, offset)
            length = _page_length(data, is_all=offset + len(data) >= size)
            # what goes on from the page before begins no line
            whole = data.find(b"\n") + 1 if starts[-1].is_continued else 0
            reader.read(data[whole:length], line=line + (whole > 0), offset=offset + whole)
            line += data.count(b"\n", 0, length)
            if offset + length >= size or not length:
                break
            is_continued = data[length - 1 : length] != b"\n"
            starts.append(PageStart(offset + length, line, is_continued))
            time.sleep(0)
        ends_open = bool(data) and not data.endswith(b"\n")
    lines = line - (not ends_open)
    return PageTable(tuple(starts), lines, size, layout, reader.sections())


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


class _Renderer:
    """Renders lines, with their numbers, into blocks and folded sections."""

    def __init__(self, table: PageTable, reading: Reading) -> None:
        self._table = table
        self._reading = reading
        self._sections = shown_sections(table, reading.times)
        self._by_line = {shown.section.line: shown for shown in self._sections}
        self._is_any_failed = any(section.state == FAILED for section in table.sections)
        self._wanted = None if reading.line is None else section_at(table.sections, reading.line)
        self._parts: list[str] = []
        self._block_lines = 0
        self._is_in_section = False

    def html(self, data: bytes, start: PageStart, *, goes_on: bool) -> str:
        """The lines of a page."""
        output = BuildOutput()
        lines = data.split(b"\n")
        last = len(lines) - 1
        place = start.offset
        before = section_at(self._table.sections, start.line - (not start.is_continued))
        is_begun_here = start.line in self._by_line and not start.is_continued
        if before is not None and not is_begun_here and lines != [b""]:
            self._begin_section(self._sections[before], is_continued=True)
        for index, text in enumerate(lines):
            if index == last and not text:
                break
            if index % LINES_AT_ONCE == 0:
                time.sleep(0)
            number = start.line + index
            if index == 0 and start.is_continued:
                self._begin_line()
                self._parts.append(_note(f"[line {start.line} began on the page before]\n"))
            else:
                if number in self._by_line:
                    self._begin_section(self._by_line[number])
                self._begin_line()
                self._parts.append(
                    f'<a id="L{number}" href="#L{number}" tabindex="-1">{number}</a>'
                )
                self._parts.append(self._time(place))
            ending = b"" if index == last else b"\n"
            self._parts.append(html_of(output.take(text + ending, is_last=index == last)))
            place += len(text) + 1
        if goes_on:
            self._parts.append(_note("\n[this line goes on on the next page]\n"))
        self._end_section()
        return "".join(self._parts)

    def _begin_line(self) -> None:
        """In a block of its own, if the last one has enough."""
        if self._block_lines % BLOCK_LINES == 0:
            self._parts.append(
                '</span><span class="lines">' if self._block_lines else '<span class="lines">'
            )
        self._block_lines += 1

    def _begin_section(self, shown: ShownSection, *, is_continued: bool = False) -> None:
        self._end_section()
        section = shown.section
        is_open = (
            not self._is_any_failed
            or section.state == FAILED
            or (self._wanted is not None and self._sections[self._wanted] is shown)
        )
        outcome = {"": "building", "ignored": "skipped"}.get(section.state, section.state)
        words = section.state or "did not end"
        head = (
            f'<span class="outcome {kind(outcome)}"><span aria-hidden="true">{sign(outcome)}'
            f"</span> {words}</span> <strong>{html.escape(section.name)}</strong>"
            f' <span class="soft">{"cell " if section.is_cell else ""}{section.number} of'
            f" {section.count}{', goes on' if is_continued else ''}</span>"
        )
        took = f' <span class="took">{shown.took}</span>' if shown.took else ""
        opened = " open" if is_open else ""
        self._parts.append(f'<details class="step"{opened}><summary>{head}{took}</summary>')
        self._is_in_section = True

    def _end_section(self) -> None:
        if self._block_lines:
            self._parts.append("</span>")
            self._block_lines = 0
        if self._is_in_section:
            self._parts.append("</details>")
            self._is_in_section = False

    def _time(self, place: int) -> str:
        """When the line at a place in the file came."""
        if not self._reading.are_times_shown:
            return ""
        found = milliseconds_at(self._reading.times, self._table.output_offset(place))
        return f'<span class="at">{"" if found is None else clock_text(found)}</span>'


def _note(text: str) -> str:
    return f'<span class="log-note">{html.escape(text)}</span>'
