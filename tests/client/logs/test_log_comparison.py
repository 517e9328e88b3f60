"""client.logs.log_comparison: the first difference is the first one, and nothing is hidden."""

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.logs.log_comparison import (
    LINE_BYTES_MAX,
    LINES_BEFORE,
    Comparison,
    Found,
    KeptLog,
    RowKind,
    common_length,
    compare_logs,
)

LINES_MAX = 12
# Many of them are the same, so that logs are like each other and lines come again.
LINES = st.sampled_from(
    [b"a", b"b", b"", b"7", b"12", b"x 1 y", b"\xff", b"\x1b[31mred", b"c\r", b"184ee5b", b"f00ba4"]
)
NUMBERS = re.compile(rb"(?![a-f]+(?![0-9a-f]))[0-9a-f]{6,}|[0-9]+")


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    text = b"".join(line + b"\n" for line in draw(st.lists(LINES, max_size=60)))
    return text + draw(st.sampled_from([b"", b"end", b"7"]))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two logs that begin alike."""
    common = draw(logs())
    return common + draw(logs()), common + draw(logs())


def lines_of(data: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def first_differing_line(left: bytes, right: bytes) -> int | None:
    """The model: from 0; None: there is none."""
    ours, theirs = lines_of(left), lines_of(right)
    for index in range(max(len(ours), len(theirs))):
        if ours[index : index + 1] != theirs[index : index + 1]:
            return index
    return None


def numbers(comparison: Comparison, side: str) -> list[int]:
    cells = [getattr(row, side) for row in comparison.rows]
    return [cell.number for cell in cells if cell is not None]


def shown(comparison: Comparison, side: str) -> list[str]:
    cells = [getattr(row, side) for row in comparison.rows]
    return ["".join(cell.text) for cell in cells if cell is not None]


def compare(left: bytes, right: bytes, lines_max: int = LINES_MAX) -> Comparison:
    return compare_logs(KeptLog(left), KeptLog(right), lines_max=lines_max)


@given(pairs(), st.booleans())
@example((b"a\n", b"a"), False)
@example((b"", b"\n"), False)
@example((b"a", b"ab"), True)
@example((b"1\nx", b"22\ny"), True)
def test_the_first_difference_is_the_first_one(
    pair: tuple[bytes, bytes], are_numbers_ignored: bool
) -> None:
    left, right = pair
    comparison = compare_logs(
        KeptLog(left), KeptLog(right), lines_max=LINES_MAX, are_numbers_ignored=are_numbers_ignored
    )
    compared = [NUMBERS.sub(b"0", log) if are_numbers_ignored else log for log in pair]
    expected = first_differing_line(*compared)
    if expected is None:
        assert comparison == Comparison(Found.SAME)
        return
    assert comparison.found is Found.DIFFERENT
    first = comparison.first
    assert first is not None
    cells = [cell for cell in (first.left, first.right) if cell is not None]
    assert {cell.number for cell in cells} == {expected + 1}
    before = comparison.rows[: comparison.rows.index(first)]
    assert len(before) == min(expected, LINES_BEFORE)
    assert all(row.kind is RowKind.SAME for row in before)


@given(pairs(), st.integers(1, LINES_MAX))
def test_the_rows_hold_each_line_once_and_in_order(
    pair: tuple[bytes, bytes], lines_max: int
) -> None:
    comparison = compare(*pair, lines_max)
    if comparison.found is Found.SAME:
        return
    expected = first_differing_line(*pair)
    assert expected is not None
    begin = max(0, expected - LINES_BEFORE)
    for side, log, after in zip(
        ("left", "right"), pair, (comparison.left_after, comparison.right_after), strict=True
    ):
        lines = lines_of(log)
        end = min(len(lines), expected + lines_max)
        assert numbers(comparison, side) == list(range(begin + 1, end + 1))
        assert after == len(lines) - end
    assert sum(row.is_first for row in comparison.rows) == 1


@given(pairs())
def test_rows_say_what_they_are(pair: tuple[bytes, bytes]) -> None:
    lines = [lines_of(log) for log in pair]
    for row in compare(*pair).rows:
        if row.left is None or row.right is None:
            assert row.kind is (RowKind.LEFT if row.right is None else RowKind.RIGHT)
            continue
        is_same = lines[0][row.left.number - 1] == lines[1][row.right.number - 1]
        assert row.kind is (RowKind.SAME if is_same else RowKind.CHANGED)
        if not is_same:
            assert row.left.text != row.right.text, "a difference is seen"


@given(pairs(), st.integers(0, 40), st.integers(0, 40))
def test_what_is_missing_is_never_taken_for_the_same(
    pair: tuple[bytes, bytes], head: int, tail: int
) -> None:
    """Logs whose middle was not kept, against the model of what can be known."""
    kept = []
    for log in pair:
        missing = len(log) - head - tail
        kept.append(KeptLog(log[:head], missing, log[head + missing :]) if missing > 0
                    else KeptLog(log))  # fmt: skip
    comparison = compare_logs(*kept, lines_max=LINES_MAX)
    assert comparison.found is not Found.SAME or pair[0] == pair[1]
    if comparison.found is Found.SAME_AS_KEPT:
        assert (kept[0].head, kept[0].tail) == (kept[1].head, kept[1].tail)
        assert len(pair[0]) == len(pair[1])
    if comparison.found is Found.DIFFERENT_ENDS:
        assert len(pair[0]) != len(pair[1])
    if all(log.is_whole for log in kept):
        assert comparison == compare(*pair)


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_the_common_length(common: bytes, left: bytes, right: bytes) -> None:
    length = common_length(common + left, common + right)
    assert length >= len(common)
    assert (common + left)[:length] == (common + right)[:length]
    assert (common + left)[length : length + 1] != (common + right)[length : length + 1] or (
        common + left == common + right
    )


def test_lines_that_came_in_between_are_only_on_one_side() -> None:
    comparison = compare(b"1\n2\n3\n4\n", b"1\n2\nnew\n3\n5\n")
    kinds = [row.kind for row in comparison.rows]
    assert kinds == [
        RowKind.SAME, RowKind.SAME, RowKind.RIGHT, RowKind.SAME, RowKind.CHANGED,
    ]  # fmt: skip
    assert comparison.rows[2].is_first
    assert comparison.differing == 2
    assert numbers(comparison, "right") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        (b"Running in c29d506dd102\n", b"Running in aa93d894e066\n", True),
        (b"at 10:59:59.999\n", b"at 9:0:1.5\n", True),
        (b"decade\n", b"facade\n", False),
        (b"12ab\n", b"34cd\n", False),
        (b"1\n", b"one\n", False),
        (b"C29D506DD102\n", b"AA93D894E066\n", False),
    ],
)
def test_what_a_number_is(left: bytes, right: bytes, is_same: bool) -> None:
    comparison = compare_logs(KeptLog(left), KeptLog(right), lines_max=9, are_numbers_ignored=True)
    assert (comparison.found is Found.SAME) == is_same


def test_what_differs_within_a_line_is_marked() -> None:
    row = compare(b"took 12 s here\n", b"took 9 s here\n").first
    assert row is not None
    assert row.left is not None
    assert row.right is not None
    assert (row.left.text, row.right.text) == (
        ("took ", "12", " s here"),
        ("took ", "9", " s here"),
    )


def test_numbers_are_left_out_only_where_that_is_asked_for() -> None:
    left, right = KeptLog(b"in 12 s\n10 ok\nred\n"), KeptLog(b"in 9 s\n8 ok\ngreen\n")
    first = compare_logs(left, right, lines_max=9).first
    assert first is not None
    assert first.left is not None
    assert first.left.number == 1
    comparison = compare_logs(left, right, lines_max=9, are_numbers_ignored=True)
    assert shown(comparison, "left") == ["in 12 s", "10 ok", "red"]
    assert shown(comparison, "right") == ["in 9 s", "8 ok", "green"]
    assert comparison.differing == 1
    assert comparison.rows[2].is_first


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (b"a\n", b"a", ("a\\n", "a")),
        (b"a\x00b\n", b"ab\n", ("a\\x00b\\n", "ab\\n")),
        (b"\x1b[1mfat\n", b"fat\n", ("\\x1b[1mfat\\n", "fat\\n")),
        (b"\xff\n", b"\xfe\n", ("\\xff\\n", "\\xfe\\n")),
        (b"line\r\n", b"line\n", ("line\\r\\n", "line\\n")),
    ],
)
def test_a_difference_that_is_not_seen_is_spelled(
    left: bytes, right: bytes, expected: tuple[str, str]
) -> None:
    comparison = compare(left, right)
    assert comparison.rows[0].is_raw
    assert (shown(comparison, "left")[0], shown(comparison, "right")[0]) == expected


def test_nothing_that_a_log_holds_is_shown_as_it_is() -> None:
    hostile = "<script>\x1b]0;title\x07\x00\u202egnp\u2066".encode() + b"\xff\n"
    for text in shown(compare(hostile + b"1", hostile + b"2"), "left"):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", text)


def test_of_a_long_line_the_difference_is_shown() -> None:
    left, right = b"\xc3\xa4" * 500_000 + b"x\n", b"\xc3\xa4" * 500_000 + b"y\n"
    row = compare(left, right).first
    assert row is not None
    assert row.left is not None
    assert row.left.text[1] == "x"
    assert set(row.left.text[0]) == {"\u00e4"}, "cut between characters"
    assert row.left.before + len(row.left.text[0].encode()) == 1_000_000
    long = compare(b"z" * 1_000_000 + b"\n" + left, b"z" * 1_000_000 + b"\n" + right).rows[0]
    assert long.left is not None
    assert len("".join(long.left.text)) == LINE_BYTES_MAX
    assert long.left.after == 1_000_001 - LINE_BYTES_MAX


def cut(head: bytes, missing: int, tail: bytes) -> KeptLog:
    return KeptLog(head, missing, tail)


def test_logs_that_are_the_same_as_far_as_they_were_kept() -> None:
    log = cut(b"a\nb", 100, b"\nc\n")
    assert compare_logs(log, log, lines_max=9) == Comparison(Found.SAME_AS_KEPT)


def test_ends_that_begin_at_one_place_are_compared_from_there() -> None:
    comparison = compare_logs(
        cut(b"a\n", 100, b"1\n2\n3\n4\n"), cut(b"a\n", 100, b"1\n2\nx\n4\n"), lines_max=9
    )
    assert comparison.found is Found.DIFFERENT
    assert comparison.first is not None
    assert comparison.first.left is not None
    assert comparison.first.left.number == -2
    assert numbers(comparison, "right") == [-4, -3, -2, -1]


def test_ends_of_logs_of_different_lengths_are_put_beside_each_other() -> None:
    comparison = compare_logs(
        cut(b"a\n", 100, b"1\n2\n3\n"), cut(b"a\n", 102, b"2\n3\n"), lines_max=9
    )
    assert comparison.found is Found.DIFFERENT_ENDS
    assert numbers(comparison, "left") == [-3, -2, -1]
    assert [row.kind for row in comparison.rows] == [RowKind.LEFT, RowKind.SAME, RowKind.SAME]


def test_a_difference_before_what_is_missing_is_found() -> None:
    comparison = compare_logs(cut(b"a\nb", 5, b"z"), KeptLog(b"a\nc\n"), lines_max=9)
    assert comparison.found is Found.DIFFERENT
    assert comparison.first is not None
    assert comparison.first.right is not None
    assert comparison.first.right.number == 2


def test_a_log_that_ends_where_the_other_goes_on() -> None:
    comparison = compare_logs(KeptLog(b"a\n"), cut(b"a\nb", 5, b"z"), lines_max=9)
    assert comparison.found is Found.DIFFERENT
    assert [row.kind for row in comparison.rows] == [RowKind.SAME, RowKind.RIGHT]
    # the rest of the longer one is missing from just there
    comparison = compare_logs(KeptLog(b"a\n"), cut(b"a\n", 5, b"z\n"), lines_max=9)
    assert comparison.found is Found.DIFFERENT_ENDS


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b"\n" * 4_000_000, b"\n" * 4_000_000 + b"x"),
        (b"a\n" * 2_000_000, b"b\n" * 2_000_000),
        (b"x" * 4_000_000, b"x" * 3_999_999 + b"y"),
        (b"1 " * 2_000_000, b"22 " * 1_300_000),
        (b"12345a " * 600_000, b"abcde1 " * 600_000 + b"x"),
        (b"\x1b[" * 2_000_000, b"\x1b]" * 2_000_000),
        (bytes(range(256)) * 16_000, bytes(range(255, -1, -1)) * 16_000),
    ],
    ids=["line-ends", "all-lines", "one-line", "digits", "ids", "escapes", "bytes"],
)
def test_the_work_is_bounded_whatever_the_logs_are(left: bytes, right: bytes) -> None:
    """No time is asserted but for what would be wrong by orders (a quadratic walk takes hours)."""
    began = time.process_time()
    for are_numbers_ignored in (False, True):
        comparison = compare_logs(
            KeptLog(left), KeptLog(right), lines_max=400, are_numbers_ignored=are_numbers_ignored
        )
        assert len(comparison.rows) <= 2 * (400 + LINES_BEFORE)
        assert text_bytes(comparison.rows) <= 4 * 4 * LINE_BYTES_MAX * len(comparison.rows)
    assert time.process_time() - began < 60


def text_bytes(rows: Sequence[object]) -> int:
    return sum(len(repr(row)) for row in rows)
