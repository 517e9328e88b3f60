"""The rows as a table for people and as JSON for programs."""

import msgspec

from bench.machine import Machine
from bench.rows import Row, State

FORMAT_VERSION = 1
_HEADINGS = ("what", "against", "target", "ratio (lowest - highest, count)", "met", "figures")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. command: as it was typed. began_at: ISO 8601, UTC."""

    command: str
    began_at: str
    seconds: float
    is_quick: bool
    machine: Machine
    rows: list[Row]
    format_version: int = FORMAT_VERSION


def as_json(report: Report) -> bytes:
    """The report as an indented JSON object."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def from_json(data: bytes) -> Report:
    """The inverse of as_json. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(data, type=Report)


def as_table(rows: list[Row]) -> str:
    """The rows as a Markdown table, aligned so that it reads well as plain text too."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    texts = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def in_words(row: Row) -> str:
    """One row on one line, for the progress."""
    target = "" if row.target is None else f" (target {row.target}: {_met(row)})"
    figures = "" if not row.figures else f"; {_figures(row)}"
    note = f"; {row.note}" if row.note else ""
    return f"{row.what}: {_ratio(row)} x {row.against}{target}{figures}{note}"


def number(value: float) -> str:
    """Three digits that count; all of them before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cells(row: Row) -> tuple[str, ...]:
    target = "-" if row.target is None else str(row.target)
    remarks = "; ".join(text for text in (_figures(row), row.note) if text)
    cells = (row.what, row.against, target, _ratio(row), _met(row), remarks)
    return tuple(cell.replace("|", "/").replace("\n", " ") for cell in cells)


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return str(row.state)
    low, high = number(row.ratio.lowest), number(row.ratio.highest)
    return f"{number(row.ratio.median)} ({low} - {high}, {row.ratio.count})"


def _met(row: Row) -> str:
    if row.state is not State.MEASURED or row.is_met is None:
        return "-"
    return "yes" if row.is_met else "NO"


def _figures(row: Row) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in row.figures.items())
