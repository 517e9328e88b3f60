"""Lines of a build's log by step and by pattern, as its bytes come. Pure."""

import re

# As node.sandboxes.sandbox.Work.begin_step writes it.
_STEP = re.compile(rb"\[pbft-ci\] step (?P<name>.{1,200}) \([0-9]{1,4} of [0-9]{1,4}\)\r?\n?")
# A longer line is looked at in parts.
LINE_BYTES_MAX = 64 * 1024


class LogFilter:
    """Gives the lines that are wanted."""

    def __init__(self, step: str | None, pattern: re.Pattern[bytes] | None) -> None:
        """step: the only one that is wanted; None: all. pattern: what a line must have in it."""
        self._step = None if step is None else step.encode()
        self._pattern = pattern
        self._is_in_step = step is None
        self._rest = b""
        # the steps that the log named
        self.steps: list[str] = []

    def take(self, data: bytes, *, is_last: bool = False) -> bytes:
        """What is wanted of the next bytes. is_last: no more come."""
        *lines, rest = (self._rest + data).split(b"\n")
        shown = [line for text in lines if (line := self._line(text + b"\n"))]
        if rest and (is_last or len(rest) > LINE_BYTES_MAX):
            shown.append(self._line(rest))
            rest = b""
        self._rest = rest
        return b"".join(shown)

    def _line(self, line: bytes) -> bytes:
        if begun := _STEP.fullmatch(line):
            self.steps.append(begun["name"].decode("utf-8", "replace"))
            self._is_in_step = self._step in (None, begun["name"])
        is_wanted = self._is_in_step and (self._pattern is None or self._pattern.search(line))
        return line if is_wanted else b""
