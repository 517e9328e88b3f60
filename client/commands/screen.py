"""What is shown while a command waits: redrawn on a terminal, plain lines anywhere else."""

import os
import shutil
from collections.abc import Sequence
from typing import TextIO

_COLOURS = {"good": "32", "bad": "31", "open": "33", "quiet": "2"}


def is_terminal(stream: TextIO) -> bool:
    """Whether lines can be redrawn there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colours(stream: TextIO) -> bool:
    """Whether colours are wanted there (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def coloured(text: str, kind: str, stream: TextIO) -> str:
    """The text in the colour of a kind (client.views.formats.kind), if the stream has colours."""
    return f"\033[{_COLOURS[kind]}m{text}\033[0m" if has_colours(stream) else text


class Screen:
    """Some lines that change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = is_terminal(stream)
        self._shown: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Show these in place of those before; where nothing is redrawn, those that are new."""
        lines = list(lines)
        if lines == self._shown:
            return
        if self._is_live:
            width, height = shutil.get_terminal_size()
            # a line that wraps would be two of them, and those that have scrolled away stay
            lines = [line[: width - 1] for line in lines[: height - 1]]
            up = f"\033[{len(self._shown)}A" if self._shown else ""
            self._stream.write(up + "".join(f"\033[2K{line}\n" for line in lines) + "\033[J")
        else:
            self._stream.write("".join(f"{line}\n" for line in lines if line not in self._shown))
        self._stream.flush()
        self._shown = lines
