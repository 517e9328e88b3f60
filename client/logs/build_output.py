"""A build's output made safe to show: a stranger's bytes to spans of plain text. Pure.

The rule: whatever the bytes are, no span holds a control character but line feed and tab, and
nothing that changes the direction of writing or cannot be seen. Colours and weights (SGR) are
kept as names; every other escape sequence is dropped. Memory is bounded, wherever a sequence is
cut and however long it is.

Not a terminal emulator such as pyte: it shows the screen at the end, with lines overwritten and
erased. A log keeps every line.
"""

import codecs
import copy
import html
import re
from collections.abc import Iterable, Iterator

import msgspec

# A sequence longer than this is none, and its characters are text.
SEQUENCE_CHARACTERS_MAX = 64
# Of a string (a window's title, a link) that has no end. It ends with its line, too.
STRING_CHARACTERS_MAX = 4096

_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "struck"}
_FLAGS_OFF = {
    21: ("bold",), 22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",),
    29: ("struck",),
}  # fmt: skip
# what an extended colour (38, 48) takes after its kind
_EXTENDED_ARGUMENTS = {2: 3, 5: 1}

_RUN = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]+")
_RETURN = re.compile(r"\r+\n?")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}[@-~]|[ -/]{1,4}[0-~]|[0-OQ-WYZ\\`-~])")
_SEQUENCE_BEGUN = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[ -/]{0,4})\Z")
_STRING_BEGIN = re.compile(r"\x1b[\]PX^_]")
_STRING_END = re.compile(r"\x07|\x1b\\|(?=[\n\x18\x1a\x1b])")
# Controls of the second kind are sequences in one character.
_SECOND_CONTROL = re.compile(r"[\x80-\x9f]")
# Joiners make one sign of several: they are part of the text.
_JOINERS = "\u200c\u200d"


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Some text in one style, such as ("bold", "red", "on-white"). Never empty."""

    style: tuple[str, ...]
    text: str


class BuildOutput:
    """Takes one log's bytes in order, cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # the beginning of a sequence whose end has not come
        self._begun = ""
        self._string_characters_left = 0
        self._foreground: str | None = None
        self._background: str | None = None
        self._flags: set[str] = set()
        self._is_line_begun = False

    def copy(self) -> "BuildOutput":
        """Another one that has taken the same bytes."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        other._decoder.setstate(self._decoder.getstate())
        other._flags = set(self._flags)
        return other

    @property
    def held_bytes(self) -> int:
        """How many of the bytes taken have not been decided on: whoever goes on later, with a
        new object, has to begin so many bytes before the end."""
        undecoded, _ = self._decoder.getstate()
        return len(undecoded) + len(self._begun.encode())

    def take(self, data: bytes, *, is_last: bool = False) -> list[Span]:
        """What the next bytes show. is_last: there are no more."""
        text = self._begun + self._decoder.decode(data, is_last)
        self._begun = ""
        text = _SECOND_CONTROL.sub(lambda found: f"\x1b{chr(ord(found[0]) - 0x40)}", text)
        # Texts are joined once, at the end: one by one it would take time with their square.
        runs: list[tuple[tuple[str, ...], list[str]]] = []
        for style, shown in self._scan(text, is_last):
            if not shown:
                continue
            self._is_line_begun = not shown.endswith("\n")
            if not runs or runs[-1][0] != style:
                runs.append((style, []))
            runs[-1][1].append(shown)
        return [Span(style, "".join(texts)) for style, texts in runs]

    def _scan(self, text: str, is_last: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        position = 0
        while position < len(text):
            if self._string_characters_left:
                position = self._skip_string(text, position, is_last)
            elif run := _RUN.match(text, position):
                yield self._style(), _visible(run[0])
                position = run.end()
            elif found := _RETURN.match(text, position):
                if found.end() == len(text) and not is_last and not found[0].endswith("\n"):
                    self._begun = found[0][-1:]
                    return
                # alone it goes back over the line: what comes next is shown on a line of its own
                yield self._style(), "\n" if "\n" in found[0] or self._is_line_begun else ""
                position = found.end()
            elif found := _SEQUENCE.match(text, position):
                if found[0].startswith("\x1b[") and found[0].endswith("m"):
                    self._set_style(found[0][2:-1])
                position = found.end()
            elif found := _STRING_BEGIN.match(text, position):
                self._string_characters_left = STRING_CHARACTERS_MAX
                position = found.end()
            elif not is_last and (found := _SEQUENCE_BEGUN.match(text, position)):
                self._begun = found[0]
                return
            else:
                position += 1

    def _skip_string(self, text: str, position: int, is_last: bool) -> int:
        """Where the text goes on after a string, or how far the string is known to go."""
        limit = position + self._string_characters_left
        end = _STRING_END.search(text, position, limit)
        if end is not None and end.end() == len(text) - 1 and text[-1] == "\x1b" and not is_last:
            self._begun = "\x1b"
            return len(text)
        if end is not None or limit <= len(text):
            self._string_characters_left = 0
            return end.end() if end is not None else limit
        self._string_characters_left = limit - len(text)
        return len(text)

    def _style(self) -> tuple[str, ...]:
        flags = (flag for flag in _FLAGS.values() if flag in self._flags)
        colours = (colour for colour in (self._foreground, self._background) if colour)
        return (*flags, *colours)

    def _set_style(self, parameters: str) -> None:
        """SGR (ECMA-48 8.3.117). Where it is malformed, up to there."""
        if not re.fullmatch(r"[0-9;:]*", parameters):
            return
        codes = [min(int(code or "0"), 999) for code in re.split("[;:]", parameters)]
        while codes:
            code = codes.pop(0)
            if code in (38, 48):
                colour = _extended_colour(codes)
                if code == 38:
                    self._foreground = colour
                else:
                    self._background = None if colour is None else f"on-{colour}"
            else:
                self._set_simple(code)

    def _set_simple(self, code: int) -> None:
        if code == 0:
            self._foreground = self._background = None
            self._flags.clear()
        elif code in _FLAGS:
            self._flags.add(_FLAGS[code])
        elif code in _FLAGS_OFF:
            self._flags.difference_update(_FLAGS_OFF[code])
        elif code == 39 or 30 <= code <= 37 or 90 <= code <= 97:
            self._foreground = _simple_colour(code)
        elif code == 49 or 40 <= code <= 47 or 100 <= code <= 107:
            colour = _simple_colour(code - 10)
            self._background = None if colour is None else f"on-{colour}"


def html_of(spans: Iterable[Span]) -> str:
    """The spans as HTML: all text escaped, each style as classes sgr-<name>."""
    parts = []
    for span in spans:
        text = html.escape(span.text)
        classes = " ".join(f"sgr-{name}" for name in span.style)
        parts.append(f'<span class="{classes}">{text}</span>' if classes else text)
    return "".join(parts)


def terminal_text(spans: Iterable[Span]) -> str:
    """The spans for a terminal: in the same styles, each ended where it ends and at each line."""
    parts = []
    for span in spans:
        codes = ";".join(str(_code_of(name)) for name in span.style)
        if not codes:
            parts.append(span.text)
            continue
        for line in span.text.splitlines(keepends=True):
            content = line.rstrip("\n")
            ending = line[len(content) :]
            parts.append(f"\x1b[{codes}m{content}\x1b[0m{ending}" if content else ending)
    return "".join(parts)


def _visible(text: str) -> str:
    """A run without controls, with every sign that cannot be seen shown by its number."""
    if text.isprintable():
        return text
    return "".join(
        sign
        if sign.isprintable() or sign in "\n\t" or sign in _JOINERS
        else " "
        if sign.isspace() and sign not in "\u2028\u2029"
        else f"<U+{ord(sign):04X}>"
        for sign in text
    )


def _simple_colour(code: int) -> str | None:
    if code == 39:
        return None
    return _COLOURS[code - 30] if code < 90 else f"bright-{_COLOURS[code - 90]}"


def _extended_colour(codes: list[int]) -> str | None:
    """Takes an extended colour's arguments off the codes; of 256, the first 16 have names."""
    kind = codes.pop(0) if codes else 0
    count = _EXTENDED_ARGUMENTS.get(kind, 0)
    arguments, codes[:] = codes[:count], codes[count:]
    if kind != 5 or not arguments or arguments[0] > 15:
        return None
    number = arguments[0]
    return _COLOURS[number] if number < 8 else f"bright-{_COLOURS[number - 8]}"


def _code_of(name: str) -> int:
    for code, flag in _FLAGS.items():
        if flag == name:
            return code
    base = 30
    if name.startswith("on-"):
        name, base = name.removeprefix("on-"), 40
    if name.startswith("bright-"):
        name, base = name.removeprefix("bright-"), base + 60
    return base + _COLOURS.index(name)
