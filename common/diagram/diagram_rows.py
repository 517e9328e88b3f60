"""A message diagram as lines of text, for people who cannot see the picture. Pure."""

from collections.abc import Iterator

import msgspec

from common.diagram.diagram_style import name_of
from common.diagram.message_diagram import WRONG_KINDS, Arrow, Diagram, clock_text

ROWS_MAX = 1000


class DiagramRow(msgspec.Struct, frozen=True):
    """One line. when: since the first; who: a lane, or sender and receivers; is_wrong: refused."""

    when: str
    who: str
    what: str
    more: str
    is_wrong: bool = False


def rows_of(diagram: Diagram) -> tuple[list[DiagramRow], int]:
    """The first ROWS_MAX lines in the order of time, and how many there are in all."""
    found = sorted(_all(diagram), key=lambda item: item[0])
    began = found[0][0] if found else 0.0
    rows = [
        DiagramRow(clock_text(at - began), who, what, more, is_wrong)
        for at, who, what, more, is_wrong in found[:ROWS_MAX]
    ]
    return rows, len(found)


_Line = tuple[float, str, str, str, bool]


def _all(diagram: Diagram) -> Iterator[_Line]:
    yield from _messages(diagram)
    for mark in diagram.marks:
        yield mark.at, mark.lane, mark.text, mark.more, mark.kind in WRONG_KINDS
    for bar in diagram.bars:
        yield bar.began, bar.lane, f"{bar.text}: begins", "", False
        yield bar.ended, bar.lane, f"{bar.text}: ends", "", False
    for note in diagram.notes:
        yield note.at, "", note.text, "", False


def _messages(diagram: Diagram) -> Iterator[_Line]:
    """A line for each message, and one for all that were sent at once and fared alike."""
    alike: dict[tuple[float, str, str, str, str], list[str]] = {}
    for arrow in diagram.arrows:
        key = (arrow.sent, arrow.source, arrow.kind, arrow.text, _fate(arrow))
        alike.setdefault(key, []).append(arrow.target)
    for (sent, source, kind, text, fate), targets in alike.items():
        who = f"{source} \u2192 {', '.join(dict.fromkeys(targets))}"
        is_wrong = fate.startswith("refused")
        yield (
            sent,
            who,
            name_of(kind),
            f"{fate}; {text}" if fate and text else fate + text,
            is_wrong,
        )


def _fate(arrow: Arrow) -> str:
    words = (_answer(arrow), "a lie, or an old message again" if arrow.is_forged else "")
    return ", ".join(word for word in words if word)


def _answer(arrow: Arrow) -> str:
    match arrow.look:
        case "lost":
            return "lost on the way"
        case "refused":
            return f"refused: {arrow.refused}"
        case "needless":
            return f"not needed any more: {arrow.refused}"
        case _:
            return ""
