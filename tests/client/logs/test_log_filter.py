"""client.logs.log_filter: lines by step and pattern, however the bytes come."""

import re

import pytest

from client.logs.log_filter import LINE_BYTES_MAX, LogFilter

LOG = b"checkout\n[pbft-ci] step a (1 of 2)\nerror: x\n[pbft-ci] step b (2 of 2)\nfine\nerror"


@pytest.mark.parametrize("size", [1, 7, len(LOG)])
@pytest.mark.parametrize(
    ("step", "pattern", "shown"),
    [
        ("a", None, b"[pbft-ci] step a (1 of 2)\nerror: x\n"),
        ("b", b"error", b"error"),
        (None, b"^error", b"error: x\nerror"),
        ("c", None, b""),
    ],
)
def test_what_is_shown(size: int, step: str | None, pattern: bytes | None, shown: bytes) -> None:
    wanted = LogFilter(step, None if pattern is None else re.compile(pattern))
    pieces = [LOG[begin : begin + size] for begin in range(0, len(LOG), size)]
    found = b"".join(wanted.take(piece) for piece in pieces)
    assert found + wanted.take(b"", is_last=True) == shown
    assert wanted.steps == ["a", "b"]


@pytest.mark.parametrize("size", [1, 7, len(LOG)])
def test_times_stand_before_the_lines_that_are_wanted(size: int) -> None:
    """Also behind bytes that were not kept."""
    times = ((0, 0), (LOG.index(b"error"), 61_250), (LOG.index(b"fine"), 99_000))
    wanted = LogFilter(None, re.compile(b"error|fine"), times)
    found = b""
    for begin in range(0, len(LOG), size):
        found += wanted.take(LOG[begin : begin + size], offset=begin)
    found += wanted.take(b"", is_last=True)
    assert found == b"  1:01.2 error: x\n  1:39.0 fine\n  1:39.0 error"
    behind = LogFilter(None, None, ((0, 0), (1000, 5_000)))
    assert behind.take(b"a\n", offset=1000) == b"  0:05.0 a\n"


def test_a_line_without_an_end_is_not_kept() -> None:
    wanted = LogFilter(None, re.compile(b"x"))
    assert wanted.take(b"x" * (LINE_BYTES_MAX + 1)) == b"x" * (LINE_BYTES_MAX + 1)
