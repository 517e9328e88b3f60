"""A message diagram as SVG: a lane per participant, time downwards, an arrow per message. Pure.

The same drawing serves a real build (from the nodes' log events) and a simulated scenario. Time is
not drawn to scale: a pause of seconds beside steps of microseconds would leave one of them
invisible. Each gap between two events gets a height that grows with its logarithm, the clock
stands at the side, and a long gap is a band that says how long it is.
"""

import math
import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

import msgspec

from common.diagram.diagram_style import NEEDLESS, STYLE, class_of, heads, legend, name_of, symbol

# The more lanes, the narrower each.
LANE_WIDTH_MAX, LANE_WIDTH_MIN, LANES_WIDTH = 150.0, 100.0, 800.0
LEFT = 84
# Room beside the last lane: for the texts of its marks, and then for the names of messages.
RIGHT = 230
KINDS_WIDTH = 106
HEADER_HEIGHT = 46.0
TEXT_HEIGHT = 12
GAP_HEIGHT_MIN = 5.0
# A gap this short gets the least height, each tenfold one that much more.
GAP_SECONDS_MIN = 0.0005
HEIGHT_PER_TENFOLD = 14.0
# From here on a gap is a band with its length in words, all of one height.
PAUSE_SECONDS = 0.2
PAUSE_HEIGHT = 40.0
GAP_HEIGHT_MAX = PAUSE_HEIGHT
# Beyond this many the picture is no picture any more; the first ones are drawn.
ARROWS_MAX = 3000
CLOCK_EVERY_PIXELS = 34
NOTE_HEIGHT = 30.0
# The names of the lanes stand there again, where the first ones are out of sight.
NAMES_EVERY_PIXELS = 720.0
KIND_EVERY_PIXELS = 46.0
# Marks of something that should not be.
WRONG_KINDS = ("wrong", "fork", "dissent")
REASON_EVERY_PIXELS = 26.0
# What XML has no way to write (XML 1.0, 2.2): with one of them the file could not be opened.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Arrow(msgspec.Struct, frozen=True, kw_only=True):
    """A message. Times in seconds."""

    # the names of two lanes
    source: str
    target: str
    sent: float
    # None if it was lost
    arrived: float | None
    # the type of message
    kind: str
    # the whole of it, shown on hovering
    text: str = ""
    # why the receiver did not take it
    refused: str | None = None
    # an attacker of the script made it, or sent it again
    is_forged: bool = False

    @property
    def look(self) -> str:
        """`refused`, `needless` (refused because another was quicker), `lost`, or empty."""
        if self.arrived is None:
            return "lost"
        if self.refused is None:
            return ""
        return "needless" if self.refused in NEEDLESS else "refused"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Something that takes a while on a lane. kind: `build`, or `down`."""

    lane: str
    began: float
    ended: float
    text: str
    kind: str = "build"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment on a lane. more: shown on hovering.

    kind: `prepared` and `executed` (quorum points), `accepted`, `left` and `entered` (views),
    `wrong` (proof of misbehaviour), `fork` (of correct replicas),
    `dissent` (a ballot that differs), or `told`.
    """

    lane: str
    at: float
    text: str
    kind: str = "told"
    more: str = ""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A line across all lanes: what happens from then on."""

    at: float
    text: str


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """A time of which nothing is drawn, because it is like what was drawn before."""

    began: float
    ended: float
    text: str


class Diagram(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn."""

    title: str
    # from left to right
    lanes: tuple[str, ...]
    # what stands under a lane's name
    roles: Mapping[str, str] = {}
    arrows: tuple[Arrow, ...] = ()
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    notes: tuple[Note, ...] = ()
    folds: tuple[Fold, ...] = ()


class _TextPlaces:
    """Where texts stand beside the lanes, so that none lies on another of the same lane."""

    def __init__(self) -> None:
        # Per lane the heights, in whole pixels, at which a text would touch another, each with one
        # further down up to which all are such: looked at one by one, many texts took minutes.
        self._blocked: dict[str, dict[int, int]] = {}

    def free(self, y: float, *lanes: str) -> int:
        """That height, or the next one below it where there is room on all of these lanes."""
        blocked = [self._blocked.setdefault(lane, {}) for lane in lanes]
        place, tried = round(y), None
        while place != tried:
            tried = place
            for rows in blocked:
                place = _below(rows, place)
        touched = range(place - TEXT_HEIGHT + 1, place + TEXT_HEIGHT)
        for rows in blocked:
            for row in touched:
                rows[row] = max(rows.get(row, 0), touched.stop)
        return place


def draw(diagram: Diagram) -> str:
    """The diagram as one SVG element, with its style inside."""
    shown = _unfolded(diagram)
    lanes = len(diagram.lanes)
    lane_width = max(LANE_WIDTH_MIN, min(LANE_WIDTH_MAX, LANES_WIDTH / max(1, lanes)))
    columns = {name: LEFT + lane_width * (i + 0.5) for i, name in enumerate(diagram.lanes)}
    width = LEFT + lane_width * lanes + RIGHT
    signs, top = legend(
        kinds_in(shown), {mark.kind for mark in shown.marks}, _others(shown), width=width
    )
    heights, bands = _heights(shown, top + HEADER_HEIGHT)
    bottom = max(heights.values(), default=top + HEADER_HEIGHT) + 30
    title = escape(diagram.title)
    places = _TextPlaces()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {bottom:.0f}"'
        f' width="{width:.0f}" height="{bottom:.0f}" class="messages" role="img"'
        f" aria-label={quoteattr(title)}>",
        f"<title>{title}</title><style>{STYLE}</style>{heads()}{signs}",
        *(_band(y, text, width) for y, text in bands),
        *(
            _lane(name, column, top, bottom=bottom, roles=diagram.roles)
            for name, column in columns.items()
        ),
        *_clock(heights),
        *(_note(note, heights, width) for note in shown.notes),
        *(_bar(bar, columns, heights, places=places) for bar in shown.bars if bar.lane in columns),
        *(
            _arrow(arrow, columns, heights)
            for arrow in shown.arrows
            if arrow.source in columns and arrow.target in columns
        ),
        *_kinds(shown, columns, heights, width=width),
        *(
            _mark(mark, columns, heights, places=places)
            for mark in _together(shown.marks)
            if mark.lane in columns
        ),
        *_names(columns, top, bottom, places=places),
        *_reasons(shown, columns, heights, places=places),
        "</svg>",
    ]
    return _NOT_XML.sub("\ufffd", "\n".join(parts))


def kinds_in(diagram: Diagram) -> dict[str, str]:
    """The kinds of messages that are drawn, with what the paper calls them, for a legend."""
    return {arrow.kind: name_of(arrow.kind) for arrow in diagram.arrows}


def clock_text(seconds: float) -> str:
    """A time since the start, in the unit that fits."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


# --- what is drawn, and where ---------------------------------------------------------------------


def _unfolded(diagram: Diagram) -> Diagram:
    """Without what lies in a fold, and without more arrows than anybody can look at."""

    def is_out(at: float) -> bool:
        return not any(fold.began <= at < fold.ended for fold in diagram.folds)

    arrows = tuple(arrow for arrow in diagram.arrows if is_out(arrow.sent))
    notes = tuple(note for note in diagram.notes if is_out(note.at))
    if len(arrows) > ARROWS_MAX:
        text = f"{len(arrows) - ARROWS_MAX} more messages are not drawn"
        notes = (*notes, Note(at=arrows[ARROWS_MAX].sent, text=text))
    return msgspec.structs.replace(
        diagram,
        arrows=arrows[:ARROWS_MAX],
        marks=tuple(mark for mark in diagram.marks if is_out(mark.at)),
        notes=notes,
    )


def _others(diagram: Diagram) -> list[str]:
    """What else the legend explains: only what is there."""
    kinds = {bar.kind for bar in diagram.bars}
    found = {
        "forged": any(arrow.is_forged for arrow in diagram.arrows),
        "build": "build" in kinds,
        "down": "down" in kinds,
        **{
            look: any(arrow.look == look for arrow in diagram.arrows)
            for look in ("refused", "needless", "lost")
        },
    }
    return [name for name, is_there in found.items() if is_there]


def _times(diagram: Diagram) -> list[float]:
    times = {arrow.sent for arrow in diagram.arrows}
    times.update(arrow.arrived for arrow in diagram.arrows if arrow.arrived is not None)
    for bar in diagram.bars:
        times.update((bar.began, bar.ended))
    for fold in diagram.folds:
        times.update((fold.began, fold.ended))
    times.update(mark.at for mark in diagram.marks)
    times.update(note.at for note in diagram.notes)
    return sorted(times)


def _together(marks: Iterable[Mark]) -> list[Mark]:
    """Marks of one lane and moment as one, so that their texts do not lie on each other."""
    alike: dict[tuple[str, float, str], list[Mark]] = {}
    for mark in marks:
        alike.setdefault((mark.lane, mark.at, mark.kind), []).append(mark)
    return [
        Mark(
            lane=lane,
            at=at,
            kind=kind,
            text=_in_one([mark.text for mark in same]),
            more="\n".join(dict.fromkeys(mark.more for mark in same if mark.more)),
        )
        for (lane, at, kind), same in alike.items()
    ]


def _in_one(texts: list[str]) -> str:
    """`prepared 1` and `prepared 2` as `prepared 1, 2`."""
    numbers: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        words, _, number = text.rpartition(" ")
        if number.isdigit():
            numbers.setdefault(words, []).append(number)
        else:
            numbers.setdefault(text, [])
    return ", ".join(f"{words} {', '.join(of)}".strip() for words, of in numbers.items())


def _heights(diagram: Diagram, top: float) -> tuple[dict[float, float], list[tuple[float, str]]]:
    """Where each moment is, with room above a note; and the bands with their texts."""
    heights: dict[float, float] = {}
    bands: list[tuple[float, str]] = []
    noted = {note.at for note in diagram.notes}
    folds = {fold.began: fold for fold in diagram.folds}
    height = top
    before: float | None = None
    for time in _times(diagram):
        if before is not None:
            fold = folds.get(before)
            if fold is not None or time - before >= PAUSE_SECONDS:
                pause = f"{_pause_text(time - before)} later"
                bands.append((height, fold.text if fold is not None else pause))
                height += PAUSE_HEIGHT
            else:
                tenfolds = math.log10(max(1.0, (time - before) / GAP_SECONDS_MIN))
                height += min(GAP_HEIGHT_MAX, GAP_HEIGHT_MIN + HEIGHT_PER_TENFOLD * tenfolds)
        if time in noted:
            height += NOTE_HEIGHT
        heights[time] = height
        before = time
    return heights, bands


def _pause_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"


# --- the parts of the picture ---------------------------------------------------------------------


def _lane(name: str, column: float, top: float, *, bottom: float, roles: Mapping[str, str]) -> str:
    line = (
        f'<line class="lane" x1="{column:.0f}" y1="{top + HEADER_HEIGHT - 14:.0f}"'
        f' x2="{column:.0f}" y2="{bottom:.0f}"/>'
    )
    role = roles.get(name)
    if role is None:
        return line
    return (
        f'{line}<text class="soft" x="{column:.0f}" y="{top + 28:.0f}" text-anchor="middle">'
        f"{escape(role)}</text>"
    )


def _names(
    columns: Mapping[str, float], top: float, bottom: float, *, places: _TextPlaces
) -> list[str]:
    """Whose lane it is: above, and further down again."""
    texts = []
    y = top + 14
    while y < max(bottom - NAMES_EVERY_PIXELS / 3, top + 15):
        place = places.free(y, *columns)
        texts += [
            f'<text class="name" x="{column:.0f}" y="{place}" text-anchor="middle">'
            f"{escape(name)}</text>"
            for name, column in columns.items()
        ]
        y += NAMES_EVERY_PIXELS
    return texts


def _clock(heights: Mapping[float, float]) -> list[str]:
    """The time at the side, not more often than it can be read."""
    texts: list[str] = []
    last = -math.inf
    start = min(heights, default=0.0)
    for time, height in heights.items():
        if height - last >= CLOCK_EVERY_PIXELS:
            last = height
            texts.append(
                f'<text class="clock" x="{LEFT - 12}" y="{height + 3:.0f}" text-anchor="end">'
                f"{escape(clock_text(time - start))}</text>"
            )
    return texts


def _band(y: float, text: str, width: float) -> str:
    top, height = y + 8, PAUSE_HEIGHT - 16
    return (
        f'<rect class="gap" x="{LEFT}" y="{top:.0f}" width="{width - LEFT - 8:.0f}"'
        f' height="{height:.0f}"/>'
        f'<text class="soft" x="{LEFT + 6}" y="{top + height / 2 + 4:.0f}">'
        f"\u22ee {escape(text)}</text>"
    )


def _note(note: Note, heights: Mapping[float, float], width: float) -> str:
    y = heights[note.at]
    return (
        f'<line class="note" x1="{LEFT}" y1="{y - 8:.0f}" x2="{width:.0f}" y2="{y - 8:.0f}"/>'
        f'<text class="notetext" x="{LEFT}" y="{y - 13:.0f}">{escape(note.text)}</text>'
    )


def _bar(
    bar: Bar, columns: Mapping[str, float], heights: Mapping[float, float], *, places: _TextPlaces
) -> str:
    top, bottom = heights[bar.began], heights[bar.ended]
    x = columns[bar.lane]
    place = places.free(top + TEXT_HEIGHT, bar.lane)
    text = escape(bar.text)
    return (
        f'<g><title>{text}</title><rect class="bar {bar.kind}" x="{x - 7:.0f}" y="{top:.0f}"'
        f' width="14" height="{max(2.0, bottom - top):.0f}" rx="3"/></g>'
        f'<text x="{x + 11:.0f}" y="{place}">{text}</text>'
    )


def _reasons(
    diagram: Diagram,
    columns: Mapping[str, float],
    heights: Mapping[float, float],
    *,
    places: _TextPlaces,
) -> list[str]:
    """Why messages were refused, each as often as it can be read."""
    drawn = []
    said: dict[tuple[str, str], float] = {}
    for arrow in diagram.arrows:
        if arrow.refused is None or arrow.arrived is None or arrow.target not in columns:
            continue
        key, y = (arrow.target, arrow.refused), heights[arrow.arrived]
        x = columns[arrow.target] + 6
        colour = "k-wrong" if arrow.look == "refused" else "k-other"
        if y - said.get(key, -math.inf) < REASON_EVERY_PIXELS:
            continue
        said[key] = y
        place = places.free(y + 11, arrow.target)
        drawn.append(
            f'<text class="kind {colour}" x="{x:.0f}" y="{place}">'
            f"\u2715 {escape(arrow.refused)}</text>"
        )
    return drawn


def _arrow(arrow: Arrow, columns: Mapping[str, float], heights: Mapping[float, float]) -> str:
    x1, x2, y1 = columns[arrow.source], columns[arrow.target], heights[arrow.sent]
    is_lost = arrow.arrived is None
    name = {"refused": "k-wrong", "needless": "k-other"}.get(arrow.look, class_of(arrow.kind))
    end = f' marker-end="url(#head-{name})"'
    cross = ""
    if arrow.arrived is None:
        x2, y2 = (x1 + x2) / 2, y1 + 10
        end = ""
        cross = f'<text class="kind k-other" x="{x2 - 3:.0f}" y="{y2 + 4:.0f}">\u2715</text>'
    else:
        y2 = heights[arrow.arrived]
    hover = f"{name_of(arrow.kind)} {arrow.source} \u2192 {arrow.target}"
    if arrow.text:
        hover += f"\n{arrow.text}"
    if arrow.is_forged:
        hover += "\na lie, or an old message again"
    if is_lost:
        hover += "\nlost on the way"
    if arrow.refused is not None:
        hover += f"\nrefused: {arrow.refused}"
    place = f'x1="{x1:.0f}" y1="{y1:.1f}" x2="{x2:.0f}" y2="{y2:.1f}"'
    lost = " lost" if is_lost else " forged" if arrow.is_forged else ""
    # hovering over one pixel is hard: the second line is wide, and not seen
    return (
        f'<g><title>{escape(hover)}</title><line class="arrow {name}{lost}" {place}{end}/>'
        f'<line class="hit" {place}/>{cross}</g>'
    )


def _kinds(
    diagram: Diagram, columns: Mapping[str, float], heights: Mapping[float, float], *, width: float
) -> list[str]:
    """What each burst of messages is called, at the right where it begins."""
    texts: list[str] = []
    said: dict[str, float] = {}
    free = -math.inf
    x = width - KINDS_WIDTH
    for arrow in sorted(diagram.arrows, key=lambda arrow: arrow.sent):
        if arrow.source not in columns or arrow.target not in columns:
            continue
        y = heights[arrow.sent]
        if y - said.get(arrow.kind, -math.inf) >= KIND_EVERY_PIXELS:
            free = max(free + TEXT_HEIGHT, y)
            texts.append(
                f'<text class="kind {class_of(arrow.kind)}" x="{x:.0f}" y="{free + 4:.0f}">'
                f"{escape(name_of(arrow.kind))}</text>"
            )
        said[arrow.kind] = y
    return texts


def _mark(
    mark: Mark, columns: Mapping[str, float], heights: Mapping[float, float], *, places: _TextPlaces
) -> str:
    x, y = columns[mark.lane], heights[mark.at]
    text = escape(mark.text)
    hover = escape(f"{mark.text}\n{mark.more}" if mark.more else mark.text)
    place = places.free(y - 4, mark.lane)
    style = "kind k-wrong" if mark.kind in WRONG_KINDS else "small"
    return (
        f"<g><title>{hover}</title>{symbol(mark.kind, x, y)}"
        f'<text class="{style}" x="{x + 8:.0f}" y="{place}">{text}</text></g>'
    )


def _below(rows: dict[int, int], place: int) -> int:
    """The first height from that one on that is not among the rows; what they say is renewed."""
    free = place
    while free in rows:
        free = rows[free]
    while place != free:
        rows[place], place = free, rows[place]
    return free
