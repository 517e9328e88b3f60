"""The steps of a build as the sections of its log. Pure.

A node writes a line where a step or a cell begins, and one where a step did not pass. A build may
write such lines too: then one replica's log has more sections, and nothing else follows.
"""

import re
from collections.abc import Sequence

import msgspec

from client.logs.build_output import BuildOutput

# Beyond that a log's sections were not written by a pipeline.
SECTIONS_MAX = 1000

PASSED, FAILED, IGNORED, UNKNOWN = "passed", "failed", "ignored", ""

# As node.sandboxes.sandbox.Work.begin_step and node.builds.matrix write it; as
# node.sandboxes.step_sequence has it noted; as a log ends.
_LINE = re.compile(
    rb"^\[pbft-ci\] (?:"
    rb"(?P<kind>step|cell) (?P<name>[^\n]{1,200}?)"
    rb" \((?P<number>[0-9]{1,4}) of (?P<count>[0-9]{1,4})\)"
    rb"|step (?P<failed>[^\n]{1,200}?) did not pass(?:: (?P<why>[^\n]*))?"
    rb"|cell (?P<cell>[^\n]{1,200}?): (?P<came_to>[a-z_]+)(?:, exit code [0-9]+)?"
    rb"|(?P<outcome>passed|failed|timed_out|out_of_memory)(?:, exit code [0-9]+)?"
    rb")$",
    re.MULTILINE,
)
# How the reason of a step ends whose end counts for nothing.
_IGNORED = (b"ignored (failure: ignore)", b"the build had failed before")
_EXCUSED = b"; taken as passed, since "


class LogSection(msgspec.Struct, frozen=True):
    """A step, or the head of a cell. line: its first one in the file, from 1; offset: of that line.

    state: passed, failed, ignored (it did not pass, and that counts for nothing), or unknown.
    """

    is_cell: bool
    name: str
    number: int
    count: int
    line: int
    offset: int
    state: str = UNKNOWN
    why: str = ""


class SectionReader:
    """Finds the sections of one log, given its whole lines in their order."""

    def __init__(self) -> None:
        self._sections: list[LogSection] = []
        self._names: dict[tuple[bool, str], int] = {}
        self._has_ended = False

    def read(self, lines: bytes, *, line: int, offset: int) -> None:
        """Take the next lines. line: the number of the first; offset: where it is in the file."""
        read_to, number = 0, line
        for found in _LINE.finditer(lines):
            number += lines.count(b"\n", read_to, found.start())
            read_to = found.start()
            if found["kind"] is not None:
                self._begin(found, number, offset + found.start())
            elif found["failed"] is not None:
                why = found["why"] or b""
                is_ignored = why.endswith(_IGNORED) or _EXCUSED in why
                state = IGNORED if is_ignored else FAILED
                self._end((False, _plain(found["failed"])), state, _plain(why))
            elif found["cell"] is not None:
                state = PASSED if found["came_to"] == b"passed" else FAILED
                self._end((True, _plain(found["cell"])), state, "")
            else:
                self._has_ended = True

    def sections(self) -> tuple[LogSection, ...]:
        """Those that were found. One of which the log says nothing has passed, if the log ended."""
        last = len(self._sections) - 1
        return tuple(
            msgspec.structs.replace(section, state=PASSED)
            if section.state == UNKNOWN and (self._has_ended or index < last)
            else section
            for index, section in enumerate(self._sections)
        )

    def _begin(self, found: "re.Match[bytes]", line: int, offset: int) -> None:
        if len(self._sections) == SECTIONS_MAX:
            return
        is_cell, name = found["kind"] == b"cell", _plain(found["name"])
        self._names[(is_cell, name)] = len(self._sections)
        self._sections.append(
            LogSection(is_cell, name, int(found["number"]), int(found["count"]), line, offset)
        )

    def _end(self, key: tuple[bool, str], state: str, why: str) -> None:
        place = self._names.get(key)
        if place is not None:
            section = self._sections[place]
            self._sections[place] = msgspec.structs.replace(section, state=state, why=why)


def section_at(sections: Sequence[LogSection], line: int) -> int | None:
    """The place of the section that has that line; None: it is before the first."""
    found = None
    for place, section in enumerate(sections):
        if section.line > line:
            break
        found = place
    return found


def _plain(data: bytes) -> str:
    return "".join(span.text for span in BuildOutput().take(data, is_last=True))
