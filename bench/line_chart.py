"""A chart of a few lines as SVG, for the documents: values over a few places on one axis. Pure."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import msgspec

WIDTH, HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 200, 40, 50
_STEPS = 4
# Distinct in both colours of a page, and apart for people who see few colours.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#888888")
_STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.grid{stroke:#d0d7de}.back{fill:#ffffff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#444c56}.back{fill:#0d1117}}"
)


class Line(msgspec.Struct, frozen=True):
    """points: (place, value) in the order of the places. is_model: drawn as a dashed line.

    colour: which of five; what is measured and its model have the same.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    is_model: bool = False


def chart(title: str, places_of: str, lines: Sequence[Line]) -> str:
    """The SVG. places_of: what the places on the horizontal axis are. At least one line."""
    places = sorted({place for line in lines for place, _ in line.points})
    highest = _round_up(max(value for line in lines for _, value in line.points))
    across = WIDTH - _LEFT - _RIGHT
    upright = HEIGHT - _TOP - _BOTTOM
    span = places[-1] - places[0] or 1.0

    def x(place: float) -> float:
        return _LEFT + (place - places[0]) / span * across

    def y(value: float) -> float:
        return _TOP + (1 - value / highest) * upright

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text x="{_LEFT}" y="24" font-weight="bold">{escape(title)}</text>',
    ]
    for step in range(_STEPS + 1):
        value = highest * step / _STEPS
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}"'
            f' y2="{y(value):.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    parts += [
        f'<text x="{x(place):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{place:g}</text>'
        for place in places
    ]
    middle = _LEFT + across / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(places_of)}</text>'
    )
    for number, line in enumerate(lines):
        colour = _COLOURS[line.colour]
        drawn = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in line.points)
        dashes = ' stroke-dasharray="6 4"' if line.is_model else ""
        beside = _TOP + 10 + 22 * number
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
            f'<line x1="{WIDTH - _RIGHT + 12}" x2="{WIDTH - _RIGHT + 36}" y1="{beside}"'
            f' y2="{beside}" stroke="{colour}" stroke-width="2"{dashes}/>'
            f'<text x="{WIDTH - _RIGHT + 42}" y="{beside + 4}">{escape(line.name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten."""
    assert value > 0, "a chart shows something"
    power = 1.0
    while power * 10 < value:
        power *= 10
    while power >= value:
        power /= 10
    return next(power * step for step in (1, 2, 4, 6, 8, 10) if power * step >= value)
