"""A branch's state as a picture for a README: the flat style that people know. Pure.

Sizes and colours as in the flat badges of shields.io and Woodpecker; the text is measured with a
table of DejaVu Sans at 11 px, so no font is needed here and the picture is the same everywhere.
"""

import hashlib
from collections.abc import Mapping
from xml.sax.saxutils import escape

from ci.operations import Outcome

LABEL = "build"
GREEN, RED, YELLOW, ORANGE, GREY = "#44cc11", "#e05d44", "#dfb317", "#fe7d37", "#9f9f9f"

# word, colour; None: no build of that branch has a verdict
STATES: Mapping[Outcome | None, tuple[str, str]] = {
    None: ("none", GREY),
    Outcome.PASSED: ("passing", GREEN),
    Outcome.FAILED: ("failing", RED),
    Outcome.TIMED_OUT: ("timed out", RED),
    Outcome.OUT_OF_MEMORY: ("out of memory", RED),
    Outcome.CHECKOUT_FAILED: ("no commit", RED),
    Outcome.PIPELINE_INVALID: ("invalid pipeline", RED),
    Outcome.IMAGE_UNAVAILABLE: ("no image", RED),
    Outcome.DEPENDENCIES_UNAVAILABLE: ("no dependencies", RED),
    Outcome.SKIPPED: ("skipped", GREY),
    Outcome.DISPUTED: ("disputed", ORANGE),
    Outcome.CANCELLED: ("cancelled", GREY),
}
BUILDING = ("building", YELLOW)

# Advance widths of DejaVu Sans at 11 px, in tenths of a pixel; letters of the words above.
_WIDTHS = {
    " ": 35, "a": 67, "b": 70, "c": 60, "d": 70, "e": 68, "f": 39, "g": 70, "h": 70, "i": 31,
    "j": 31, "k": 64, "l": 31, "m": 107, "n": 70, "o": 67, "p": 70, "q": 70, "r": 45, "s": 57,
    "t": 43, "u": 70, "v": 65, "w": 90, "x": 65, "y": 65, "z": 58,
}  # fmt: skip
_PADDING = 5


def badge(word: str, colour: str) -> bytes:
    """The SVG of `build | word`, 20 pixels high."""
    left, right = _width(LABEL), _width(word)
    whole = left + right
    title = escape(f"{LABEL}: {word}", {'"': "&quot;"})
    texts = "".join(
        f'<text x="{x}" y="15" fill="#010101" fill-opacity=".3">{escape(text)}</text>'
        f'<text x="{x}" y="14">{escape(text)}</text>'
        for x, text in ((left / 2, LABEL), (left + right / 2, word))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img"'
        f' aria-label="{title}"><title>{title}</title>'
        '<linearGradient id="s" x2="0" y2="100%"><stop offset="0" stop-color="#bbb"'
        ' stop-opacity=".1"/><stop offset="1" stop-opacity=".1"/></linearGradient>'
        f'<clipPath id="r"><rect width="{whole}" height="20" rx="3" fill="#fff"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#555"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        f'<rect width="{whole}" height="20" fill="url(#s)"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="DejaVu Sans,Verdana,Geneva,sans-serif"'
        f' font-size="11">{texts}</g></svg>'
    ).encode()


def etag(picture: bytes) -> str:
    """For If-None-Match; the caches of forges ask often."""
    return hashlib.sha256(picture).hexdigest()[:32]


def _width(text: str) -> int:
    return round(sum(_WIDTHS.get(letter, 70) for letter in text) / 10) + 2 * _PADDING
