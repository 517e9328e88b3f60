"""Small plots as plain values, which templates draw as SVG: a line, and a bar for each week. Pure.

Each says in words what it shows, for readers who do not see it.
"""

from collections.abc import Callable, Sequence

import msgspec

# A line's picture: as wide as high it is drawn on, with a margin so that its stroke is not cut.
LINE_WIDTH = 100.0
LINE_HEIGHT = 20.0
_MARGIN = 1.5
# A bar's place is this wide, and the bar itself less.
BAR_PLACE = 10.0
_BAR_WIDTH = 7.0
BARS_HEIGHT = 60.0
# The bars of a run: how far apart, and how wide and high.
RUN_PLACE, _RUN_WIDTH = 6, 5
RUN_HEIGHT = 16
# So low a bar is still seen.
_BAR_HEIGHT_MIN = 0.75


class Line(msgspec.Struct, frozen=True):
    """points: as a polyline has them. last: where the newest value is. text: in words."""

    points: str
    last: tuple[float, float]
    text: str


class Bar(msgspec.Struct, frozen=True):
    """One bar of a plot. text: what it stands for, in words."""

    x: float
    y: float
    width: float
    height: float
    text: str


class Run(msgspec.Struct, frozen=True):
    """A bar for each build, as two paths: a high one if it passed, a low one if it did not."""

    passed: str
    not_passed: str
    width: int


class Bars(msgspec.Struct, frozen=True):
    """A bar per value, the oldest first; a value that is not known has none.

    top: what the upper edge stands for, in words.
    """

    width: float
    height: float
    top: str
    bars: tuple[Bar, ...]


def line(values: Sequence[float], said: Callable[[float], str]) -> Line | None:
    """A line through these values, the oldest first. None: there are too few for one.

    Its lower edge is 0, so a step looks as large as it is. said: a value in words.
    """
    if len(values) < 2:
        return None
    highest = max(values) or 1.0
    step = (LINE_WIDTH - 2 * _MARGIN) / (len(values) - 1)
    places = [
        (_MARGIN + index * step, LINE_HEIGHT - _MARGIN - part * (LINE_HEIGHT - 2 * _MARGIN))
        for index, part in enumerate(value / highest for value in values)
    ]
    low, high = said(min(values)), said(max(values))
    between = f"all {low}" if low == high else f"from {low} to {high}"
    text = f"{len(values)} builds, {between}, the newest {said(values[-1])}"
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Line(points, (round(places[-1][0], 1), round(places[-1][1], 1)), text)


def run(passed: Sequence[bool]) -> Run:
    """The run of these builds, the oldest first."""
    paths = {True: "", False: ""}
    for index, is_passed in enumerate(passed):
        height = RUN_HEIGHT if is_passed else RUN_HEIGHT // 2
        paths[is_passed] += (
            f"M{index * RUN_PLACE} {RUN_HEIGHT - height}h{_RUN_WIDTH}v{height}h-{_RUN_WIDTH}z"
        )
    return Run(paths[True], paths[False], RUN_PLACE * len(passed))


def bars(
    values: Sequence[float | None],
    names: Sequence[str],
    *,
    said: Callable[[float], str],
    highest: float | None = None,
) -> Bars:
    """A bar for each value. names: of the values. highest: the upper edge; None: the largest."""
    top = highest or max((value for value in values if value is not None), default=0.0) or 1.0
    drawn = []
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        if value is None:
            continue
        height = max(_BAR_HEIGHT_MIN, BARS_HEIGHT * min(value, top) / top)
        x = index * BAR_PLACE + (BAR_PLACE - _BAR_WIDTH) / 2
        text = f"{name}: {said(value)}"
        drawn.append(Bar(x, round(BARS_HEIGHT - height, 2), _BAR_WIDTH, round(height, 2), text))
    return Bars(BAR_PLACE * len(values), BARS_HEIGHT, said(top), tuple(drawn))
