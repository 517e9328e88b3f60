"""A scenario as people see it: lines in the terminal, or a page with the message diagram."""

from collections.abc import Iterable, Iterator
from html import escape

from common.diagram_marks import mark_of
from common.diagram_rows import rows_of
from common.message_diagram import Arrow, Bar, Diagram, Fold, Mark, Note, clock_text, draw
from simulator.run_trace import in_words
from simulator.scenarios import Scenario
from simulator.scheduler import SECOND
from simulator.stage import CLIENT, Stage, Told

# Kinds that a picture leaves out: they say that all is as it was.
QUIET_KINDS = frozenset({"Status", "Hello"})
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root{{color-scheme:light dark;--paper:#fff;--ink:#16181d;--line:#c9d0d8;--bad:#c81e1e}}
@media (prefers-color-scheme:dark){{
:root{{--paper:#16181a;--ink:#e8eaed;--line:#3a4047;--bad:#ff7b72}} }}
body{{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;
background:var(--paper);color:var(--ink)}}
.picture,.scroll{{overflow:auto;max-height:85vh}} .picture svg{{display:block}}
.picture{{border:1px solid var(--line);border-radius:4px;margin:1.5rem 0}}
.look{{max-width:60rem}} table{{border-collapse:collapse}}
th,td{{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;
border-bottom:1px solid var(--line)}}
pre,.rows{{font-size:.8rem}} .wrong{{color:var(--bad)}} summary{{margin-top:1rem}}
</style></head><body><main>
<h1>{title}</h1>
<p class="look">{look}</p>
<div class="picture" tabindex="0" role="group" aria-label="The messages, as a picture">
{picture}</div>
<p>Time runs downwards and is not drawn to scale: the clock is at the left, and what lies long
apart is a grey band. Hover over an arrow for the whole message, over a sign for what it means.
The STATUS that each replica tells the others every second is left out.</p>
<h2>Afterwards: {verdict}</h2>
<table><thead><tr><th>replica</th><th>status</th><th>view</th><th>executed</th>
<th>journal</th><th>proof against</th></tr></thead><tbody>{rows}</tbody></table>
<details><summary>The picture as a table ({count})</summary><div class="scroll" tabindex="0">
<table class="rows"><thead><tr><th>when</th><th>who</th><th>what</th><th>more</th></tr></thead>
<tbody>{lines}</tbody></table></div></details>
<details><summary>Every message and every word of a replica</summary>
<div class="scroll" tabindex="0"><pre>{trace}</pre></div></details>
</main></body></html>
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
            is_forged=letter.is_forged,
        )
        for letter in stage.letters
        if letter.kind not in QUIET_KINDS
    )
    return Diagram(
        title=scenario.title,
        lanes=(CLIENT, *stage.names),
        roles={
            stage.names[0]: "primary of view 0",
            **dict.fromkeys(stage.faulty, "faulty"),
            **(
                {stage.names[0]: "primary of view 0, faulty"}
                if stage.names[0] in stage.faulty
                else {}
            ),
        },
        arrows=arrows,
        bars=tuple(_times_down(stage)),
        marks=tuple(_marks(stage)),
        notes=tuple(
            Note(at=told.at / SECOND, text=str(told.details["text"]))
            for told in stage.told
            if told.event == "script"
        ),
        folds=tuple(
            Fold(began=began / SECOND, ended=ended / SECOND, text=text)
            for began, ended, text in stage.folds
        ),
    )


def _marks(stage: Stage) -> Iterator[Mark]:
    """The signs on the lanes; where correct replicas executed different things, that is said."""
    quorums, forks = stage.cluster.quorums, stage.forks()
    for told in stage.told:
        # what a silenced replica's own code thinks is nothing that anybody sees
        if told.lane in stage.muted:
            continue
        mark = mark_of(told.lane, told.at / SECOND, told.event, told.details, stage.names, quorums)
        if mark is None:
            continue
        yield mark
        sequence = told.details.get("sequence")
        if told.event == "executed" and isinstance(sequence, int) and sequence in forks:
            digest = stage.executed[told.lane][sequence]
            more = "another correct replica executed something else under this number"
            yield Mark(lane=told.lane, at=mark.at, text=f"FORK: {digest}", kind="fork", more=more)


def _roles(stage: Stage) -> dict[str, str]:
    """What stands under the names of the first primary and of the faulty ones."""
    primary = stage.names[0]
    roles = {primary: "primary of view 0", **dict.fromkeys(stage.faulty, "faulty")}
    return roles | ({primary: "primary of view 0, faulty"} if primary in stage.faulty else {})


def page(scenario: Scenario, stage: Stage, trace: list[str]) -> str:
    """The whole page, without anything from elsewhere."""
    diagram = diagram_of(scenario, stage)
    lines, total = rows_of(diagram)
    end = clock_text(stage.scheduler.seconds)
    return _PAGE.format(
        title=escape(scenario.title),
        look=escape(scenario.look),
        picture=draw(diagram),
        verdict=f"{verdict_of(stage)}, after {end}",
        rows="".join(_row(row) for row in _rows(stage)),
        count=f"{total} lines"
        if total == len(lines)
        else f"the first {len(lines)} of {total} lines",
        lines="".join(
            _row((line.when, line.who, line.what, line.more), line.is_wrong) for line in lines
        ),
        trace=escape("\n".join(trace)),
    )


def _row(cells: Iterable[str], is_wrong: bool = False) -> str:
    start = '<tr class="wrong">' if is_wrong else "<tr>"
    return start + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


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
        journal = f"{length} string{'' if length == 1 else 's'}, {digest}"
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
                Bar(
                    lane=told.lane,
                    began=began / SECOND,
                    ended=ended / SECOND,
                    text="down",
                    kind="down",
                )
            )
    return bars


def _is_start(told: Told, lane: str) -> bool:
    return told.lane == lane and told.event == "started"
