"""A scenario as people see it: lines in the terminal, or a page with the message diagram."""

from collections.abc import Iterator

from common.diagram_marks import mark_of
from common.message_diagram import Arrow, Bar, Diagram, Fold, Mark, Note, clock_text
from simulator.run_trace import in_words
from simulator.scenario_page import Shown, render
from simulator.scenarios import Scenario
from simulator.scheduler import SECOND
from simulator.stage import CLIENT, Stage, Told

# Kinds that a picture leaves out: they say that all is as it was.
QUIET_KINDS = frozenset({"Status", "Hello"})
HEADINGS = ("replica", "status", "view", "executed", "journal", "proof against")


def verdict_of(stage: Stage) -> str:
    """`agreed` or `forked`, over the correct replicas."""
    return "forked" if stage.forks() else "agreed"


def state_lines(stage: Stage) -> list[str]:
    """Where each replica stands, a line each below a line of headings."""
    rows = [HEADINGS, *_rows(stage)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def diagram_of(title: str, stage: Stage) -> Diagram:
    """The picture of what was played on a stage."""
    arrows = tuple(
        Arrow(
            source=letter.sender,
            target=letter.receiver,
            sent=letter.sent / SECOND,
            arrived=None if letter.arrived is None else letter.arrived / SECOND,
            kind=letter.kind,
            text=in_words(letter.envelope),
            # what a silenced replica's own code makes of it is nothing that anybody sees
            refused=None if letter.receiver in stage.muted else letter.refused,
            is_forged=letter.is_forged,
        )
        for letter in stage.letters
        if letter.kind not in QUIET_KINDS
    )
    return Diagram(
        title=title,
        lanes=(CLIENT, *stage.names),
        roles=_roles(stage),
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
    """A scenario that was played, as a page."""
    return render(
        Shown(
            look=scenario.look,
            diagram=diagram_of(scenario.title, stage),
            verdict=f"{verdict_of(stage)}, after {clock_text(stage.scheduler.seconds)}",
            headings=HEADINGS,
            states=_rows(stage),
            trace=trace,
        )
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
