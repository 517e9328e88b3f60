"""Finds the lines of a finished log that have a text, in any case, wherever they are. Blocking.

Escape sequences are no part of a line's text: a word in two colours is found.
"""

import re
import time
from pathlib import Path

import msgspec

from client.logs.build_output import BuildOutput

MATCHES_MAX = 200
QUERY_CHARACTERS_MAX = 200
# Of a line that has the text, what is shown around it.
SHOWN_CHARACTERS = 160
CHUNK_BYTES = 64 * 1024
# A longer line is looked through in pieces.
LINE_BYTES_MAX = 1024 * 1024

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}[@-~]|[ -/]{0,4}[0-~])|\r")


class Match(msgspec.Struct, frozen=True):
    """A line with the text: its number, and what stands before, in and after the place."""

    line: int
    before: str
    found: str
    after: str


class Found(msgspec.Struct, frozen=True):
    """The first lines with a text. is_all: there are no more."""

    query: str
    matches: tuple[Match, ...]
    is_all: bool


def find_lines(file: Path, query: str) -> Found:
    """The lines that have this text, which is not empty. Raises OSError."""
    wanted = query.lower()
    matches: list[Match] = []
    number = 1
    with file.open("rb") as stream:
        while line := stream.readline(LINE_BYTES_MAX):
            if number % 100 == 0:
                # gives the interpreter to whoever waits for it
                time.sleep(0)
            text = _SEQUENCE.sub(b"", line).decode(errors="replace")
            place = text.lower().find(wanted)
            if place >= 0:
                if len(matches) == MATCHES_MAX:
                    return Found(query, tuple(matches), False)
                matches.append(_match(number, text.rstrip("\n"), place, length=len(query)))
            number += line.endswith(b"\n")
    return Found(query, tuple(matches), True)


def _match(number: int, text: str, place: int, *, length: int) -> Match:
    begin, end = max(0, place - SHOWN_CHARACTERS), place + length
    return Match(
        number,
        ("\u2026" if begin else "") + _shown(text[begin:place]),
        _shown(text[place:end]),
        _shown(text[end : end + SHOWN_CHARACTERS])
        + ("\u2026" if len(text) > end + SHOWN_CHARACTERS else ""),
    )


def _shown(text: str) -> str:
    """Without what cannot be seen."""
    return "".join(span.text for span in BuildOutput().take(text.encode(), is_last=True))
