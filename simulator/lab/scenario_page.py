"""What was played, as one page of HTML that needs nothing from elsewhere. Pure."""

from collections.abc import Iterable, Sequence
from html import escape

import msgspec

from common.diagram.diagram_rows import rows_of
from common.diagram.message_diagram import Diagram, draw


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on the page: what to look at, the picture, how it ended, each node's state."""

    look: str
    diagram: Diagram
    verdict: str
    headings: tuple[str, ...]
    states: Sequence[tuple[str, ...]]
    trace: Sequence[str]


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
<table><thead>{headings}</thead><tbody>{states}</tbody></table>
<details><summary>The picture as a table ({count})</summary><div class="scroll" tabindex="0">
<table class="rows"><thead><tr><th>when</th><th>who</th><th>what</th><th>more</th></tr></thead>
<tbody>{lines}</tbody></table></div></details>
<details><summary>Every message and every word of a replica</summary>
<div class="scroll" tabindex="0"><pre>{trace}</pre></div></details>
</main></body></html>
"""


def render(shown: Shown) -> str:
    """The page."""
    lines, total = rows_of(shown.diagram)
    of = "" if total == len(lines) else f"the first {len(lines)} of "
    headings = "".join(f"<th>{escape(heading)}</th>" for heading in shown.headings)
    return _PAGE.format(
        title=escape(shown.diagram.title),
        look=escape(shown.look),
        picture=draw(shown.diagram),
        verdict=escape(shown.verdict),
        headings=f"<tr>{headings}</tr>",
        states="".join(_row(row) for row in shown.states),
        count=f"{of}{total} lines",
        lines="".join(
            _row((line.when, line.who, line.what, line.more), line.is_wrong) for line in lines
        ),
        trace=escape("\n".join(shown.trace)),
    )


def _row(cells: Iterable[str], is_wrong: bool = False) -> str:
    start = '<tr class="wrong">' if is_wrong else "<tr>"
    return start + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
