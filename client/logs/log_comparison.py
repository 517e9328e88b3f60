"""Where two logs differ: the first difference, and both sides from there on. Pure.

Every byte of what was kept is compared, or all but numbers where that is asked for; nothing else is
left out, and what was not kept is said to be missing. The work is linear in the logs (the
first difference is found by comparing bytes) and quadratic in the lines shown alone, which are few.
"""

import enum
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from client.logs.build_output import BuildOutput

LINES_BEFORE = 5
# What is shown of one line, in bytes: around its first difference, or from its beginning.
LINE_BYTES_MAX = 480
LINE_BYTES_BEFORE = 80
_BLOCK_BYTES = 64 * 1024

_Squeeze = Callable[[bytes], bytes]
_IDS = re.compile(rb"[0-9a-f]{6,}")
_ONE_DIGIT = bytes.maketrans(b"123456789", b"000000000")
# Of UTF-8, what cannot begin a character.
_CONTINUATIONS = re.compile(rb"[\x80-\xbf]{0,3}")


class KeptLog(msgspec.Struct, frozen=True):
    """What there is of a log. missing_bytes: between head and tail; 0: the head is all of it."""

    head: bytes
    missing_bytes: int = 0
    tail: bytes = b""

    @property
    def is_whole(self) -> bool:
        """Is nothing missing?"""
        return not self.missing_bytes

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of head, gap and tail, in bytes."""
        return len(self.head), self.missing_bytes, len(self.tail)


class Found(enum.StrEnum):
    """What came out of a comparison.

    same: all of both. same_as_kept: all that can be compared. different: from a line on.
    different_ends: as far as both beginnings go they are the same; then something is missing, and
    not as much in both, so the ends are put beside each other as they are.
    """

    SAME = "same"
    SAME_AS_KEPT = "same_as_kept"
    DIFFERENT = "different"
    DIFFERENT_ENDS = "different_ends"


class RowKind(enum.StrEnum):
    """Whether both have this line, have another one, or only one has it."""

    SAME = "same"
    CHANGED = "changed"
    LEFT = "left"
    RIGHT = "right"


class Cell(msgspec.Struct, frozen=True):
    """One line of one log, as text that is safe to show.

    number: from 1; below 0, from the end (-1 is the last). before, after: bytes not shown.
    text: as much of it as is the same; what differs; the rest.
    """

    number: int
    before: int
    text: tuple[str, str, str]
    after: int


class Row(msgspec.Struct, frozen=True):
    """A line of each side. is_raw: they differ in what is not seen, so all signs are spelled."""

    kind: RowKind
    left: Cell | None
    right: Cell | None
    is_first: bool = False
    is_raw: bool = False


class Comparison(msgspec.Struct, frozen=True):
    """Two logs side by side, from a little before the first difference on.

    left_after, right_after: lines below the rows, which were not put beside each other.
    """

    found: Found
    rows: tuple[Row, ...] = ()
    left_after: int = 0
    right_after: int = 0

    @property
    def first(self) -> Row | None:
        """The first row that differs."""
        return next((row for row in self.rows if row.is_first), None)

    @property
    def differing(self) -> int:
        """How many of the rows differ."""
        return sum(row.kind is not RowKind.SAME for row in self.rows)


class _Window(msgspec.Struct, frozen=True):
    """Lines of one log with their line ends. number: of the first; after: lines below."""

    lines: list[bytes]
    number: int
    after: int


def compare_logs(
    left: KeptLog, right: KeptLog, *, lines_max: int, are_numbers_ignored: bool = False
) -> Comparison:
    """The comparison, with at most `lines_max` lines of each from the first difference on.

    are_numbers_ignored: a run of digits is like any other one, and so is an id (six or more
        hexadecimal digits, not all of them letters).
    """
    squeeze = without_numbers if are_numbers_ignored else bytes
    heads = squeeze(left.head), squeeze(right.head)
    if left.is_whole and right.is_whole and heads[0] == heads[1]:
        return Comparison(Found.SAME)
    length = common_length(*heads)
    goes_on = length < len(heads[0]), length < len(heads[1])
    # One head may end where it does because the rest is missing; then nothing differs there yet.
    is_known = all(goes_on) or (left.is_whole and goes_on[1]) or (right.is_whole and goes_on[0])
    if not is_known:
        return _compare_ends(left, right, lines_max, squeeze=squeeze)
    line = heads[0].count(b"\n", 0, length)
    return _beside(
        Found.DIFFERENT,
        _window(left.head, line, lines_max, is_counted_back=False),
        _window(right.head, line, lines_max, is_counted_back=False),
        squeeze=squeeze,
    )


def common_length(left: bytes, right: bytes) -> int:
    """How many bytes both begin with. Linear."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    # the first `low` bytes are the same, and the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _compare_ends(
    left: KeptLog, right: KeptLog, lines_max: int, *, squeeze: _Squeeze
) -> Comparison:
    """The heads say nothing more: the tails, from where they differ if they begin at one place."""
    tails = [log.head if log.is_whole else log.tail for log in (left, right)]
    is_one_place = left.sizes == right.sizes
    if is_one_place:
        squeezed = squeeze(tails[0]), squeeze(tails[1])
        if squeezed[0] == squeezed[1]:
            return Comparison(Found.SAME_AS_KEPT)
        first = squeezed[0].count(b"\n", 0, common_length(*squeezed))
        firsts = [first, first]
    else:
        firsts = [max(0, _count_lines(tail) - lines_max) for tail in tails]
    return _beside(
        Found.DIFFERENT if is_one_place else Found.DIFFERENT_ENDS,
        _window(tails[0], firsts[0], lines_max, is_counted_back=True),
        _window(tails[1], firsts[1], lines_max, is_counted_back=True),
        squeeze=squeeze,
    )


def without_numbers(data: bytes) -> bytes:
    """The same with every number, and every id of hexadecimal digits, as one 0."""
    data = _IDS.sub(lambda found: found[0] if found[0].isalpha() else b"0", data)
    # not by a regular expression: that would hold up all else for a second, of a log of digits
    data = data.translate(_ONE_DIGIT)
    while b"00" in data:
        data = data.replace(b"00", b"0")
    return data


def _window(data: bytes, line: int, lines_max: int, *, is_counted_back: bool) -> _Window:
    """Lines from `line` (from 0) on, and a few before it."""
    first = max(0, line - LINES_BEFORE)
    count = line - first + lines_max
    pieces = data[_offset_of_line(data, first) :].split(b"\n", count)
    rest = pieces.pop()
    lines = [piece + b"\n" for piece in pieces]
    if len(pieces) < count and rest:
        lines.append(rest)
        rest = b""
    after = _count_lines(rest)
    number = -len(lines) - after if is_counted_back else first + 1
    return _Window(lines, number, after)


def _offset_of_line(data: bytes, line: int) -> int:
    """Where that line (from 0) begins; the end, if there are fewer."""
    offset = 0
    while line and offset < len(data):
        in_block = data.count(b"\n", offset, offset + _BLOCK_BYTES)
        if in_block < line:
            line -= in_block
            offset += _BLOCK_BYTES
            continue
        for _ in range(line):
            offset = data.index(b"\n", offset) + 1
        return offset
    return min(offset, len(data))


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))


def _beside(found: Found, left: _Window, right: _Window, *, squeeze: _Squeeze) -> Comparison:
    """The rows of two windows."""
    ids: dict[bytes, int] = {}
    numbered = [
        [ids.setdefault(squeeze(line), len(ids)) for line in window.lines]
        for window in (left, right)
    ]
    rows: list[Row] = []
    is_first_to_come = True
    for left_index, right_index in _aligned(*numbered):
        is_same = (
            left_index is not None
            and right_index is not None
            and numbered[0][left_index] == numbered[1][right_index]
        )
        row = _row(left, left_index, right, right_index=right_index, is_same=is_same)
        if row.kind is not RowKind.SAME and is_first_to_come:
            row = msgspec.structs.replace(row, is_first=True)
            is_first_to_come = False
        rows.append(row)
    return Comparison(found, tuple(rows), left.after, right.after)


def _aligned(left: Sequence[int], right: Sequence[int]) -> Iterator[tuple[int | None, int | None]]:
    """Pairs of places: a longest common subsequence, and what is between beside each other."""
    # Not difflib's matcher: it is cubic for hostile logs (405 lines, every second one equal: 0.36 s
    # instead of 0.013 s), and it may not match what both begin with.
    # lengths[i][j]: of the longest one of left[i:] and right[j:]
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        row, below, wanted = lengths[i], lengths[i + 1], left[i]
        for j in range(len(right) - 1, -1, -1):
            if wanted == right[j]:
                row[j] = below[j + 1] + 1
            else:
                row[j] = below[j] if below[j] >= row[j + 1] else row[j + 1]
    i = j = 0
    gap_left, gap_right = 0, 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            yield from _gap(gap_left, i, gap_right, right_end=j)
            yield i, j
            i, j = i + 1, j + 1
            gap_left, gap_right = i, j
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    yield from _gap(gap_left, len(left), gap_right, right_end=len(right))


def _gap(
    left: int, left_end: int, right: int, *, right_end: int
) -> Iterator[tuple[int | None, int | None]]:
    """Lines without a like on the other side."""
    both = min(left_end - left, right_end - right)
    yield from zip(range(left, left + both), range(right, right + both), strict=True)
    yield from ((place, None) for place in range(left + both, left_end))
    yield from ((None, place) for place in range(right + both, right_end))


def _row(
    left: _Window, left_index: int | None, right: _Window, *, right_index: int | None, is_same: bool
) -> Row:
    if right_index is None:
        assert left_index is not None, "a row has a line"
        return Row(RowKind.LEFT, _cell(left, left_index), None)
    if left_index is None:
        return Row(RowKind.RIGHT, None, _cell(right, right_index))
    lines = left.lines[left_index], right.lines[right_index]
    if is_same:
        return Row(RowKind.SAME, _cell(left, left_index), _cell(right, right_index))
    begin = 0
    if max(map(len, lines)) > LINE_BYTES_MAX:
        begin = max(0, common_length(*lines) - LINE_BYTES_BEFORE)
    cuts = _cut(lines[0], begin), _cut(lines[1], begin)
    texts = _shown(cuts[0][1]), _shown(cuts[1][1])
    is_raw = texts[0] == texts[1]
    if is_raw:
        texts = _spelled(cuts[0][1]), _spelled(cuts[1][1])
    are_whole = not (cuts[0][2] or cuts[1][2])
    marked = _marked(*texts, are_whole=are_whole)
    numbers = left.number + left_index, right.number + right_index
    cells = [
        Cell(number, before, text, after)
        for number, (before, _, after), text in zip(numbers, cuts, marked, strict=True)
    ]
    return Row(RowKind.CHANGED, cells[0], cells[1], is_raw=is_raw)


def _cell(window: _Window, index: int) -> Cell:
    """A line that is not set against another one."""
    before, data, after = _cut(window.lines[index], 0)
    return Cell(window.number + index, before, (_shown(data), "", ""), after)


def _cut(line: bytes, begin: int) -> tuple[int, bytes, int]:
    """(bytes before, what is shown of a line, bytes after), cut between characters."""
    if begin:
        continued = _CONTINUATIONS.match(line, begin)
        assert continued is not None, "it matches nothing too"
        begin = continued.end()
    end = min(len(line), begin + LINE_BYTES_MAX)
    if end < len(line):
        while end > begin and 0x80 <= line[end] < 0xC0 and begin + LINE_BYTES_MAX - end < 3:
            end -= 1
    return begin, line[begin:end], len(line) - end


def _shown(data: bytes) -> str:
    """A piece of a line as it is shown in a log, without its end."""
    spans = BuildOutput().take(data, is_last=True)
    return "".join(span.text for span in spans).removesuffix("\n")


def _spelled(data: bytes) -> str:
    """The same with every sign that is not printed by its number."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _marked(
    left: str, right: str, *, are_whole: bool
) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Each text in three: what both begin with, what differs, what both end with."""
    begin = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    end = 0
    if are_whole:
        most = min(len(left), len(right)) - begin
        pairs = zip(reversed(left), reversed(right), strict=False)
        end = next((i for i, (a, b) in enumerate(pairs) if a != b or i == most), most)
    return (
        (left[:begin], left[begin : len(left) - end], left[len(left) - end :]),
        (right[:begin], right[begin : len(right) - end], right[len(right) - end :]),
    )
