"""Cells of coverage: what is counted is what can be listed, and rules are not contradicted."""

from simulator.campaigns.coverage import all_cells
from simulator.campaigns.never_reached import NEVER_REACHED, contradicted, unexplained
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import draw


def test_every_cell_that_is_reached_is_a_listed_one() -> None:
    listed = dict.fromkeys(all_cells())
    for seed in (1, 2, 4, 7):
        cells = Simulation(draw(seed)).run().cells
        assert cells
        assert not cells.keys() - listed.keys()
        assert contradicted(cells) == []


def test_each_rule_says_why_and_explains_something() -> None:
    all_unreached = set(unexplained({}))
    for pattern, reason in NEVER_REACHED.items():
        assert len(reason.split()) > 5
        assert any(cell not in all_unreached for cell in all_cells()), pattern
