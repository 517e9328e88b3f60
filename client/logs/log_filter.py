"""Lines of a build's log by step and by pattern, with their times, as its bytes come. Pure."""

import re
from collections.abc import Sequence

from common.log_times import Entry, clock_text, milliseconds_at

# As node.sandboxes.sandbox.Work.begin_step writes it.
_STEP = re.compile(rb"\[pbft-ci\] step (?P<name>.{1,200}) \([0-9]{1,4} of [0-9]{1,4}\)\r?\n?")
# A longer line is looked at in parts.
LINE_BYTES_MAX = 64 * 1024


class LogFilter:
    """Gives the lines that are wanted."""

    def __init__(
        self,
        step: str | None,
        pattern: re.Pattern[bytes] | None,
        times: Sequence[Entry] = (),
    ) -> None:
        """step: the only one that is wanted; None: all. pattern: what a line must have in it.

        times: of `common.log_times`, to be put before each line that is wanted.
        """
        self._times = times
        # where the rest begins in the build's output
        self._offset = 0
        self._step = None if step is None else step.encode()
        self._pattern = pattern
        self._is_in_step = step is None
        self._rest = b""
        # the steps that the log named
        self.steps: list[str] = []

    def take(self, data: bytes, *, offset: int | None = None, is_last: bool = False) -> bytes:
        """What is wanted of the next bytes. is_last: no more come.

        offset: where they begin in the build's output; None: behind the last ones.
        """
        if offset is not None:
            self._offset = offset - len(self._rest)
        *lines, rest = (self._rest + data).split(b"\n")
        shown = [self._line(text + b"\n") for text in lines]
        if rest and (is_last or len(rest) > LINE_BYTES_MAX):
            shown.append(self._line(rest))
            rest = b""
        self._rest = rest
        return b"".join(shown)

    def _line(self, line: bytes) -> bytes:
        began_at = milliseconds_at(self._times, self._offset)
        self._offset += len(line)
        if begun := _STEP.fullmatch(line):
            self.steps.append(begun["name"].decode("utf-8", "replace"))
            self._is_in_step = self._step in (None, begun["name"])
        is_wanted = self._is_in_step and (self._pattern is None or self._pattern.search(line))
        if not is_wanted:
            return b""
        return line if began_at is None else b"%8s %s" % (clock_text(began_at).encode(), line)
