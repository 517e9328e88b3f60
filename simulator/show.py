"""A scenario as people see it: lines in the terminal, or a page with the message diagram."""

from html import escape

from common.message_diagram import Arrow, Bar, Diagram, Mark, Note, clock_text, draw, kinds_in
from simulator.run_trace import in_words
from simulator.scenarios import Scenario
from simulator.scheduler import SECOND
from simulator.stage import CLIENT, Stage, Told

# Kinds that a picture leaves out: they say that all is as it was.
QUIET_KINDS = frozenset({"Status", "Hello"})
# What a replica tells that is worth a mark on its lane, and in which words.
MARKS = {
    "prepared": "prepared {sequence}",
    "executed": "executed {sequence}",
    "view_change": "leaves for view {view}",
    "new_view": "enters view {view}",
    "stable": "stable {sequence}",
    "state_transfer": "fetches the state at {sequence}",
    "state_transferred": "has the state at {sequence}",
    "equivocation": "proof against replica {replica}",
    "started": "starts again",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
figure{{margin:1.5rem 0;overflow-x:auto}} table{{border-collapse:collapse}}
th,td{{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}}
code,pre{{font-size:.8rem}} pre{{overflow-x:auto}} .key span{{margin-right:1rem}}
</style></head><body>
<h1>{title}</h1>
<p>{look}</p>
<p class="key">{key}</p>
<figure>{picture}</figure>
<h2>Afterwards: {verdict}</h2>
<table><thead><tr><th>replica</th><th>status</th><th>view</th><th>executed</th>
<th>journal</th><th>proof against</th></tr></thead><tbody>{rows}</tbody></table>
<details><summary>Every message</summary><pre>{trace}</pre></details>
</body></html>
"""


def verdict_of(stage: Stage) -> str:
    """`agreed` or `forked`, over the correct replicas."""
    return "forked" if stage.forks() else "agreed"


def state_lines(stage: Stage) -> list[str]:
    """Where each replica stands, a line each."""
    return ["  ".join((name, *cells)) for name, *cells in _rows(stage)]


def diagram_of(scenario: Scenario, stage: Stage) -> Diagram:
    """The picture of a scenario that was played."""
    arrows = tuple(
        Arrow(
            source=letter.sender,
            target=letter.receiver,
            sent=letter.sent / SECOND,
            arrived=None if letter.arrived is None else letter.arrived / SECOND,
            kind=letter.kind,
            text=in_words(letter.envelope),
            refused=letter.refused,
        )
        for letter in stage.letters
        if letter.kind not in QUIET_KINDS
    )
    marks = tuple(
        Mark(
            lane=told.lane,
            at=told.at / SECOND,
            text=MARKS[told.event].format(**told.details),
            is_wrong=told.event == "equivocation",
        )
        for told in stage.told
        if told.event in MARKS
    )
    return Diagram(
        title=scenario.title,
        lanes=(CLIENT, *stage.names),
        arrows=arrows,
        bars=tuple(_times_down(stage)),
        marks=marks,
        notes=tuple(
            Note(at=told.at / SECOND, text=str(told.details["text"]))
            for told in stage.told
            if told.event == "script"
        ),
    )


def page(scenario: Scenario, stage: Stage, trace: list[str]) -> str:
    """The whole page, without anything from elsewhere."""
    diagram = diagram_of(scenario, stage)
    key = "".join(
        f'<span style="color:{colour}">\u2192 {escape(kind)}</span>'
        for kind, colour in kinds_in(diagram).items()
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(stage)
    )
    end = clock_text(stage.scheduler.seconds)
    return _PAGE.format(
        title=escape(scenario.title),
        look=escape(scenario.look),
        key=key,
        picture=draw(diagram),
        verdict=f"{verdict_of(stage)}, after {end}",
        rows=rows,
        trace=escape("\n".join(trace)),
    )


def _rows(stage: Stage) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in stage.names:
        label = f"{name} (faulty)" if name in stage.faulty else name
        if not stage.processes[name].is_up:
            rows.append((label, "down", "-", "-", "-", "-"))
            continue
        core = stage.core(name)
        length, digest = stage.journal_of(name)
        against = ", ".join(sorted(stage.evidence[name])) or "-"
        journal = f"{length} strings, {digest}"
        rows.append(
            (label, core.status.value, str(core.view), str(core.executed), journal, against)
        )
    return rows


def _times_down(stage: Stage) -> list[Bar]:
    """From each kill to the next start of that replica, or to the end."""
    bars = []
    for index, told in enumerate(stage.told):
        if told.event == "killed":
            began = told.at
            later = stage.told[index + 1 :]
            ended = next((t.at for t in later if _is_start(t, told.lane)), stage.scheduler.now)
            bars.append(
                Bar(lane=told.lane, began=began / SECOND, ended=ended / SECOND, text="down")
            )
    return bars


def _is_start(told: Told, lane: str) -> bool:
    return told.lane == lane and told.event == "started"
