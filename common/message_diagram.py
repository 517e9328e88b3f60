"""A message diagram as SVG: a lane per participant, time downwards, an arrow per message. Pure.

The same drawing serves a real build (from the nodes' notices) and a simulated scenario. Time is
not drawn to scale: a pause of seconds beside steps of microseconds would leave one of them
invisible. Each gap between two events gets a height that grows with its logarithm, and the clock
stands at the side.
"""

import math
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

import msgspec

LANE_WIDTH = 150
LEFT = 90
TOP = 64
# Room for what is written beside the last lane.
RIGHT = 60
GAP_HEIGHT_MIN = 5.0
GAP_HEIGHT_MAX = 60.0
# A gap this short gets the least height, each tenfold one that much more.
GAP_SECONDS_MIN = 0.0005
HEIGHT_PER_TENFOLD = 14.0
# Beyond this many the picture is no picture any more; the first ones are drawn.
ARROWS_MAX = 3000
CLOCK_EVERY_PIXELS = 34
NOTE_HEIGHT = 30.0

# kind of message -> colour; whatever is not listed is grey
COLOURS: Mapping[str, str] = {
    "Request": "#2563eb",
    "PrePrepare": "#7c3aed",
    "Prepare": "#0891b2",
    "Commit": "#15803d",
    "Reply": "#b45309",
    "Replies": "#b45309",
    "Ballot": "#be185d",
    "Checkpoint": "#64748b",
    "ViewChange": "#c2410c",
    "NewView": "#9a3412",
    "Recover": "#a21caf",
}
OTHER_COLOUR = "#64748b"

STYLE = """
svg{font:12px system-ui,sans-serif;background:#fff;color:#111}
.lane{stroke:#cbd5e1}.name{font-weight:600;fill:currentColor}.clock{fill:#64748b;font-size:10px}
.mark{fill:currentColor;font-size:10px}.refused{stroke:#dc2626}.refusedtext{fill:#dc2626}
.note{stroke:#94a3b8;stroke-dasharray:2 4}.notetext{font-style:italic;fill:currentColor}
.lost{stroke-dasharray:3 3}.bar{fill:#94a3b8;fill-opacity:.35;stroke:#64748b}
@media (prefers-color-scheme:dark){svg{background:#0f172a;color:#e2e8f0}.lane{stroke:#334155}}
"""


class Arrow(msgspec.Struct, frozen=True, kw_only=True):
    """A message. Times in seconds; arrived: None where it was lost.

    kind: the type of message. text: the whole of it, shown on hovering. refused: why the
    receiver did not take it.
    """

    source: str
    target: str
    sent: float
    arrived: float | None
    kind: str
    text: str = ""
    refused: str | None = None


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Something that takes a while on a lane: a build, a time in which a replica is down."""

    lane: str
    began: float
    ended: float
    text: str


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment on a lane: a quorum was reached, a view was entered, a timer expired."""

    lane: str
    at: float
    text: str
    is_wrong: bool = False


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A line across all lanes: what happens from then on."""

    at: float
    text: str


class Diagram(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn. lanes: from left to right."""

    title: str
    lanes: tuple[str, ...]
    arrows: tuple[Arrow, ...] = ()
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    notes: tuple[Note, ...] = ()


def draw(diagram: Diagram) -> str:
    """The diagram as one SVG element, with its style inside."""
    arrows = diagram.arrows[:ARROWS_MAX]
    noted = [note.at for note in diagram.notes]
    marks = _together(diagram.marks)
    heights = _heights([*_times(arrows, diagram.bars, diagram.marks), *noted], set(noted))
    columns = {name: LEFT + LANE_WIDTH * (i + 0.5) for i, name in enumerate(diagram.lanes)}
    width = LEFT + LANE_WIDTH * len(diagram.lanes) + RIGHT
    bottom = max(heights.values(), default=TOP) + 30
    title = escape(diagram.title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {bottom:.0f}"'
        f' width="{width:.0f}" height="{bottom:.0f}" role="img" aria-label={quoteattr(title)}>',
        f"<title>{title}</title><style>{STYLE}</style>{_heads()}",
        *(_lane(name, column, bottom) for name, column in columns.items()),
        *_clock(heights),
        *(_note(note, heights, width) for note in diagram.notes),
        *(_bar(bar, columns, heights) for bar in diagram.bars if bar.lane in columns),
        *(
            _arrow(arrow, columns, heights)
            for arrow in arrows
            if arrow.source in columns and arrow.target in columns
        ),
        *(_mark(mark, columns, heights) for mark in marks if mark.lane in columns),
        "</svg>",
    ]
    return "\n".join(parts)


def kinds_in(diagram: Diagram) -> dict[str, str]:
    """The kinds of messages that are drawn, with their colours, for a legend."""
    return {arrow.kind: colour_of(arrow.kind) for arrow in diagram.arrows}


def colour_of(kind: str) -> str:
    """The colour of a kind of message."""
    return COLOURS.get(kind, OTHER_COLOUR)


def _times(arrows: Iterable[Arrow], bars: Iterable[Bar], marks: Iterable[Mark]) -> list[float]:
    times = {arrow.sent for arrow in arrows}
    times.update(arrow.arrived for arrow in arrows if arrow.arrived is not None)
    for bar in bars:
        times.update((bar.began, bar.ended))
    times.update(mark.at for mark in marks)
    return list(times)


def _together(marks: Iterable[Mark]) -> list[Mark]:
    """Marks of one lane and moment as one, so that their texts do not lie on each other."""
    texts: dict[tuple[str, float, bool], list[str]] = {}
    for mark in marks:
        texts.setdefault((mark.lane, mark.at, mark.is_wrong), []).append(mark.text)
    return [
        Mark(lane=lane, at=at, text=", ".join(dict.fromkeys(said)), is_wrong=is_wrong)
        for (lane, at, is_wrong), said in texts.items()
    ]


def _heights(times: Iterable[float], noted: set[float]) -> dict[float, float]:
    """Where each moment is, from the top; above a note is room for its text."""
    heights: dict[float, float] = {}
    height = float(TOP)
    before: float | None = None
    for time in sorted(set(times)):
        if time in noted:
            height += NOTE_HEIGHT
        if before is not None:
            tenfolds = math.log10(max(1.0, (time - before) / GAP_SECONDS_MIN))
            height += min(GAP_HEIGHT_MAX, GAP_HEIGHT_MIN + HEIGHT_PER_TENFOLD * tenfolds)
        heights[time] = height
        before = time
    return heights


def _heads() -> str:
    """One arrow head per colour: a head does not inherit its line's colour everywhere."""
    colours = dict.fromkeys((*COLOURS.values(), OTHER_COLOUR, "#dc2626"))
    heads = "".join(
        f'<marker id="head{colour[1:]}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
        for colour in colours
    )
    return f"<defs>{heads}</defs>"


def _lane(name: str, column: float, bottom: float) -> str:
    return (
        f'<line class="lane" x1="{column:.0f}" y1="{TOP - 20}" x2="{column:.0f}"'
        f' y2="{bottom:.0f}"/>'
        f'<text class="name" x="{column:.0f}" y="{TOP - 30}" text-anchor="middle">'
        f"{escape(name)}</text>"
    )


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


def clock_text(seconds: float) -> str:
    """A time since the start, in the unit that fits."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _note(note: Note, heights: Mapping[float, float], width: float) -> str:
    y = heights[note.at]
    return (
        f'<line class="note" x1="{LEFT}" y1="{y - 8:.0f}" x2="{width:.0f}" y2="{y - 8:.0f}"/>'
        f'<text class="notetext" x="{LEFT}" y="{y - 13:.0f}">{escape(note.text)}</text>'
    )


def _bar(bar: Bar, columns: Mapping[str, float], heights: Mapping[float, float]) -> str:
    top, bottom = heights[bar.began], heights[bar.ended]
    return (
        f'<rect class="bar" x="{columns[bar.lane] - 7:.0f}" y="{top:.0f}" width="14"'
        f' height="{max(2.0, bottom - top):.0f}" rx="3"><title>{escape(bar.text)}</title></rect>'
        f'<text class="mark" x="{columns[bar.lane] + 11:.0f}" y="{(top + bottom) / 2 + 3:.0f}">'
        f"{escape(bar.text)}</text>"
    )


def _arrow(arrow: Arrow, columns: Mapping[str, float], heights: Mapping[float, float]) -> str:
    x1, x2, y1 = columns[arrow.source], columns[arrow.target], heights[arrow.sent]
    end = ""
    if arrow.arrived is None:
        x2, y2 = (x1 + x2) / 2, y1 + 10
        end = f'<text class="refusedtext" x="{x2:.0f}" y="{y2 + 4:.0f}">\u2715</text>'
    else:
        y2 = heights[arrow.arrived]
    is_refused = arrow.refused is not None
    colour = "#dc2626" if is_refused else colour_of(arrow.kind)
    classes = " ".join(
        name for name, holds in (("refused", is_refused), ("lost", arrow.arrived is None)) if holds
    )
    hover = f"{arrow.kind} {arrow.source} \u2192 {arrow.target}"
    if arrow.text:
        hover += f"\n{arrow.text}"
    if arrow.arrived is None:
        hover += "\nlost on the way"
    if arrow.refused is not None:
        hover += f"\nrefused: {arrow.refused}"
    line = (
        f'<line x1="{x1:.0f}" y1="{y1:.1f}" x2="{x2:.0f}" y2="{y2:.1f}" stroke="{colour}"'
        f' class="{classes}" marker-end="url(#head{colour[1:]})"/>'
        # hovering over one pixel is hard
        f'<line x1="{x1:.0f}" y1="{y1:.1f}" x2="{x2:.0f}" y2="{y2:.1f}" stroke="transparent"'
        ' stroke-width="9"/>'
    )
    return f"<g><title>{escape(hover)}</title>{line}{end}</g>"


def _mark(mark: Mark, columns: Mapping[str, float], heights: Mapping[float, float]) -> str:
    x, y = columns[mark.lane], heights[mark.at]
    text = escape(mark.text)
    kind = "refusedtext" if mark.is_wrong else "mark"
    return (
        f'<g><title>{text}</title><circle cx="{x:.0f}" cy="{y:.1f}" r="3" class="{kind}"/>'
        f'<text class="{kind}" font-size="10" x="{x + 6:.0f}" y="{y - 3:.1f}">{text}</text></g>'
    )
