"""Cells of coverage that a run never comes to, each with the rule that makes it so.

A cell is `type status role view region`. Whatever else has no hits in a long campaign is a hole
in the simulator or in the core, and fails.
"""

import fnmatch

from simulator.campaigns.coverage import all_cells

ONLY_IN_VIEW_0 = (
    "who lost its words begins in view 0, asks for no view (view_change.view_to_join) and monitors"
    " no primary (timers._monitors_primary), so it enters views by others' NEW-VIEWs only (its own,"
    " sent back, is refused): it is primary in view 0 alone"
)

# pattern -> the rule
NEVER_REACHED: dict[str, str] = {
    "* diverged *": "a correct replica's state is never wrong: invariant 18 ends the run first",
    "* recovering primary view< *": ONLY_IN_VIEW_0,
    "NewView recovering primary view= *": ONLY_IN_VIEW_0 + "; this type begins at view 1",
    "ViewChange recovering primary view= *": ONLY_IN_VIEW_0 + "; this type begins at view 1",
}


def unexplained(cells: dict[str, int]) -> list[str]:
    """The cells that were not reached and for which no rule says why."""
    return [
        cell
        for cell in all_cells()
        if cell not in cells
        and not any(fnmatch.fnmatchcase(cell, pattern) for pattern in NEVER_REACHED)
    ]


def contradicted(cells: dict[str, int]) -> list[str]:
    """The cells that were reached although a rule says that they cannot be."""
    return [
        cell
        for cell in sorted(cells)
        if any(fnmatch.fnmatchcase(cell, pattern) for pattern in NEVER_REACHED)
    ]
