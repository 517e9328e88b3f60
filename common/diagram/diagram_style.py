"""How a message diagram looks: the name and the colour of each kind, the style, the legend. Pure.

Nothing is told by colour alone: a kind stands in words beside its first arrows, a refusal has a
cross and its reason, what was lost is dashed.
"""

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

# kind of message -> colour on light paper, on dark paper; whatever is not listed is grey
COLOURS: dict[str, tuple[str, str]] = {
    "Request": ("#1d4ed8", "#7aa7ff"),
    "PrePrepare": ("#7c3aed", "#b79cff"),
    "Prepare": ("#0e7490", "#4fd1e8"),
    "Commit": ("#15803d", "#5bd68a"),
    "Reply": ("#a16207", "#f0c05b"),
    "Replies": ("#a16207", "#f0c05b"),
    "Ballot": ("#be185d", "#ff86b8"),
    "ViewChange": ("#c2410c", "#ff9a62"),
    "NewView": ("#9a3412", "#ffc49b"),
    # of BSMR, beside PBFT in the simulator
    "Value": ("#1d4ed8", "#7aa7ff"),
    "Announce": ("#7c3aed", "#b79cff"),
    "Recover": ("#a21caf", "#ee8bf7"),
}
OTHER_COLOUR = ("#64748b", "#9aa7b8")
WRONG = ("#c81e1e", "#ff7b72")
_NAMES = {"Ballot": "ballot", "Replies": "REPLY"}

# What a replica refuses because another one was quicker: no fault, and not shown as one.
NEEDLESS = frozenset(
    {
        "a body that nothing here waits for",
        "a message of our own, sent back to us",
        "a NEW-VIEW for a view that is left or entered already",
        "a VIEW-CHANGE for a view that is left or entered already",
        "at or below the stable checkpoint",
        "leaves of a state that is not being fetched",
        "parts of a state that is not being fetched",
    }
)

LEGEND_HEIGHT = 18.0
# A text of 11 pixels is about so wide per character; exact would need a font.
CHARACTER_WIDTH = 6.6
_SYMBOLS = (
    ("prepared", "prepared: quorum of PREPAREs"),
    ("executed", "executed: quorum of COMMITs"),
    ("accepted", "believed: f+1 equal REPLYs"),
    ("left", "leaves its view"),
    ("entered", "enters a view"),
    ("wrong", "proof of misbehaviour"),
    ("dissent", "a ballot that differs"),
    ("fork", "correct replicas fork"),
)


def name_of(kind: str) -> str:
    """What the paper calls a kind of message: PRE-PREPARE for PrePrepare."""
    return _NAMES.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind).upper()


def class_of(kind: str) -> str:
    """The class of everything that belongs to a kind of message."""
    return f"k-{kind.lower()}" if kind in COLOURS else "k-other"


def heads() -> str:
    """One arrow head per colour: a head does not inherit its line's colour everywhere."""
    classes = dict.fromkeys([*(class_of(kind) for kind in COLOURS), "k-other", "k-wrong"])
    markers = "".join(
        f'<marker id="head-{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        f' markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path class="head {name}" d="M0 0.5 8 4 0 7.5z"/></marker>'
        for name in classes
    )
    return f"<defs>{markers}</defs>"


def legend(
    kinds: Iterable[str], symbols: Iterable[str], others: Iterable[str], *, width: float
) -> tuple[str, float]:
    """The legend in rows of at most that width; its drawing, and how high it is.

    symbols: the kinds of marks; others: `build`, `refused` and so on, as far as they occur.
    """
    items = [
        (f'<line class="arrow {class_of(kind)}" x1="0" y1="0" x2="22" y2="0"'
         f' marker-end="url(#head-{class_of(kind)})"/>', name_of(kind))
        for kind in kinds
    ]  # fmt: skip
    shown = set(symbols)
    items += [(symbol(kind, 14, 0), text) for kind, text in _SYMBOLS if kind in shown]
    drawn = {
        "build": ('<rect class="bar build" x="8" y="-6" width="11" height="12" rx="3"/>', "build"),
        "down": ('<rect class="bar down" x="8" y="-6" width="11" height="12" rx="3"/>', "down"),
        "refused": (
            '<line class="arrow k-wrong" x1="0" y1="0" x2="22" y2="0"'
            ' marker-end="url(#head-k-wrong)"/>',
            "\u2715 refused",
        ),
        "lost": (
            '<line class="arrow k-other lost" x1="0" y1="0" x2="22" y2="0"/>',
            "lost on the way",
        ),
        "forged": (
            '<line class="arrow k-other forged" x1="0" y1="0" x2="22" y2="0"/>',
            "a lie, or an old message again",
        ),
        "needless": (
            '<line class="arrow k-other" x1="0" y1="0" x2="22" y2="0"'
            ' marker-end="url(#head-k-other)"/>',
            "\u2715 not needed any more",
        ),
    }
    items += [drawn[name] for name in others]
    parts: list[str] = []
    x, y = 8.0, LEGEND_HEIGHT
    for drawing, text in items:
        length = 30 + CHARACTER_WIDTH * len(text) + 14
        if x + length > width and x > 8:
            x, y = 8.0, y + LEGEND_HEIGHT
        parts.append(
            f'<g transform="translate({x:.0f} {y:.0f})">{drawing}'
            f'<text class="legend" x="30" y="4">{escape(text)}</text></g>'
        )
        x += length
    return "".join(parts), y + LEGEND_HEIGHT if items else 0.0


def symbol(kind: str, x: float, y: float) -> str:
    """The sign of a kind of mark."""
    if kind == "accepted":
        return f'<rect class="sign" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    if kind in ("left", "entered"):
        points = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        return f'<polygon class="sign {kind}" points="{points}"/>'
    if kind == "fork":
        points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
        return f'<polygon class="sign wrong k-wrong" points="{points}"/>'
    colour = " k-wrong" if kind in ("wrong", "dissent") else ""
    return f'<circle class="sign {kind}{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _colour_rules(index: int) -> str:
    rules = {class_of(kind): pair[index] for kind, pair in COLOURS.items()}
    rules |= {"k-other": OTHER_COLOUR[index], "k-wrong": WRONG[index]}
    return "".join(f".messages .{name}{{--c:{colour}}}" for name, colour in rules.items())


STYLE = f"""
.messages{{--mp:#fff;--mi:#16181d;--ms:#5b6470;--ml:#c9d0d8;--mb:#dbe7f5;--mw:#f6d5d2;
font:11px system-ui,sans-serif;background:var(--mp);color:var(--mi)}}
.messages text{{fill:var(--mi);paint-order:stroke;stroke:var(--mp);stroke-width:4px;
stroke-linejoin:round}}
.messages .name{{font-size:13px;font-weight:600}}.messages .soft,.messages .clock{{fill:var(--ms)}}
.messages .clock,.messages .small{{font-size:10px}}.messages .lane{{stroke:var(--ml)}}
.messages .arrow{{stroke:var(--c);stroke-width:1.2}}.messages .head{{fill:var(--c)}}
.messages .k-newview.arrow,.messages .k-viewchange.arrow{{stroke-width:2}}
.messages .kind{{fill:var(--c);font-weight:600}}.messages .lost{{stroke-dasharray:3 3}}
.messages .forged{{stroke-width:2;stroke-dasharray:8 3 2 3}}
.messages .hit{{stroke:transparent;stroke-width:9}}
.messages g:hover>.arrow{{stroke-width:3}}
.messages .note{{stroke:var(--ms);stroke-dasharray:2 4}}.messages .notetext{{font-style:italic;
font-size:12px}}.messages .gap{{fill:var(--ml);fill-opacity:.28}}
.messages .bar{{stroke:var(--ms)}}.messages .build{{fill:var(--mb)}}
.messages .down{{fill:var(--mw)}}
.messages .sign{{fill:var(--mi);stroke:var(--mi);stroke-width:1.5}}
.messages .sign.prepared,.messages .sign.left{{fill:var(--mp)}}
.messages .sign.wrong{{fill:var(--c);stroke:var(--c)}}
.messages .sign.dissent{{fill:var(--mp);stroke:var(--c)}}
{_colour_rules(0)}
@media (prefers-color-scheme:dark){{.messages{{--mp:#16181a;--mi:#e8eaed;--ms:#a3abb5;--ml:#3a4047;
--mb:#22384f;--mw:#552a28}}{_colour_rules(1)}}}
"""
