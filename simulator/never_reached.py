"""Cells of coverage that a run never comes to, each with the rule that makes it so.

A cell is `type status role view region`. Whatever else has no hits in a long campaign is a hole
in the simulator or in the core, and fails.
"""

import fnmatch

from simulator.coverage import all_cells

# pattern -> the rule
NEVER_REACHED: dict[str, str] = {
    "* diverged *": "a correct replica's state is never wrong: invariant 18 ends the run first",
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
