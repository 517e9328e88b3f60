"""A scenario as people see it: lines in the terminal, or a page with the message diagram."""

from collections.abc import Iterator

from common.diagram.diagram_marks import mark_of
from common.diagram.message_diagram import Arrow, Bar, Diagram, Fold, Mark, Note, clock_text
from simulator.lab.scenario_page import Shown, render
from simulator.lab.scenarios import Scenario
from simulator.lab.scripted_cluster import CLIENT, LogEntry, ScriptedCluster
from simulator.world.run_trace import in_words
from simulator.world.scheduler import SECOND

# Kinds that a picture leaves out: they say that all is as it was.
QUIET_KINDS = frozenset({"Status", "Hello"})
HEADINGS = ("replica", "status", "view", "executed", "journal", "proof against")


def verdict_of(scripted: ScriptedCluster) -> str:
    """`agreed` or `forked`, over the correct replicas."""
    return "forked" if scripted.forks() else "agreed"


def state_lines(scripted: ScriptedCluster) -> list[str]:
    """Where each replica stands, a line each below a line of headings."""
    rows = [HEADINGS, *_rows(scripted)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def diagram_of(title: str, scripted: ScriptedCluster) -> Diagram:
    """The diagram of a scenario that was played."""
    arrows = tuple(
        Arrow(
            source=transit.sender,
            target=transit.receiver,
            sent=transit.sent / SECOND,
            arrived=None if transit.arrived is None else transit.arrived / SECOND,
            kind=transit.kind,
            text=in_words(transit.envelope),
            # what a silenced replica's own code makes of it is nothing that anybody sees
            refused=None if transit.receiver in scripted.muted else transit.refused,
            is_forged=transit.is_forged,
        )
        for transit in scripted.transits
        if transit.kind not in QUIET_KINDS
    )
    return Diagram(
        title=title,
        lanes=(CLIENT, *scripted.names),
        roles=_roles(scripted),
        arrows=arrows,
        bars=tuple(_times_down(scripted)),
        marks=tuple(_marks(scripted)),
        notes=tuple(
            Note(at=entry.at / SECOND, text=str(entry.details["text"]))
            for entry in scripted.log
            if entry.event == "script"
        ),
        folds=tuple(
            Fold(began=began / SECOND, ended=ended / SECOND, text=text)
            for began, ended, text in scripted.folds
        ),
    )


def _marks(scripted: ScriptedCluster) -> Iterator[Mark]:
    """The signs on the lanes; where correct replicas executed different things, that is said."""
    quorums, forks = scripted.cluster.quorums, scripted.forks()
    for entry in scripted.log:
        if entry.lane in scripted.muted:
            continue
        mark = mark_of(
            entry.lane,
            entry.at / SECOND,
            entry.event,
            details=entry.details,
            replicas=scripted.names,
            quorums=quorums,
        )
        if mark is None:
            continue
        yield mark
        sequence = entry.details.get("sequence")
        if entry.event == "executed" and isinstance(sequence, int) and sequence in forks:
            digest = scripted.executed[entry.lane][sequence]
            more = "another correct replica executed something else under this number"
            yield Mark(lane=entry.lane, at=mark.at, text=f"FORK: {digest}", kind="fork", more=more)


def _roles(scripted: ScriptedCluster) -> dict[str, str]:
    """What stands under the names of the first primary and of the faulty ones."""
    primary = scripted.names[0]
    roles = {primary: "primary of view 0", **dict.fromkeys(scripted.faulty, "faulty")}
    return roles | ({primary: "primary of view 0, faulty"} if primary in scripted.faulty else {})


def page(scenario: Scenario, scripted: ScriptedCluster, trace: list[str]) -> str:
    """A scenario that was played, as a page."""
    return render(
        Shown(
            look=scenario.look,
            diagram=diagram_of(scenario.title, scripted),
            verdict=f"{verdict_of(scripted)}, after {clock_text(scripted.scheduler.seconds)}",
            headings=HEADINGS,
            states=_rows(scripted),
            trace=trace,
        )
    )


def _rows(scripted: ScriptedCluster) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in scripted.names:
        label = f"{name} (faulty)" if name in scripted.faulty else name
        if not scripted.processes[name].is_up:
            rows.append((label, "down", "-", "-", "-", "-"))
            continue
        core = scripted.core(name)
        length, digest = scripted.journal_of(name)
        against = ", ".join(sorted(scripted.evidence[name])) or "-"
        journal = f"{length} string{'' if length == 1 else 's'}, {digest}"
        rows.append(
            (label, core.status.value, str(core.view), str(core.executed), journal, against)
        )
    return rows


def _times_down(scripted: ScriptedCluster) -> list[Bar]:
    """From each kill to the next start of that replica, or to the end."""
    bars = []
    for index, entry in enumerate(scripted.log):
        if entry.event == "killed":
            began = entry.at
            later = scripted.log[index + 1 :]
            ended = next((t.at for t in later if _is_start(t, entry.lane)), scripted.scheduler.now)
            bars.append(
                Bar(
                    lane=entry.lane,
                    began=began / SECOND,
                    ended=ended / SECOND,
                    text="down",
                    kind="down",
                )
            )
    return bars


def _is_start(entry: LogEntry, lane: str) -> bool:
    return entry.lane == lane and entry.event == "started"
