"""Runs that once broke an invariant, with all their parameters, whatever seeds stand for now."""

import pytest

from simulator.builds import BuildFaults
from simulator.gateways import Workload
from simulator.network import LinkFaults
from simulator.parameters import FaultPlan, Parameters
from simulator.process import ProcessFaults
from simulator.simulation import Simulation

KEPT = {
    # Invariant 31: r1 had left for view 4, r2 and r3 were the primaries of the views 2 and 3 and
    # judged nobody; r2 refused to enter view 3, for a recovery had made a VIEW-CHANGE for it void.
    "primaries of two views wait for ever": Parameters(
        seed=100795,
        pipeline_depth=1,
        batch_bytes_max=600,
        gateways=3,
        workload=Workload(requests=8, builds=0.0, spread_seconds=0.5),
        links=LinkFaults(loss=0.18765505333861154, in_flight_max=2),
        processes=ProcessFaults(turn_seconds=0.05),
        builds=BuildFaults(flaky=0.3, seconds_max=0.5),
        plan=FaultPlan(crash_points=0.0, down_seconds=4.0, pauses=0.4275933698267963),
        byzantine={0: ("replay", "false content", "twin")},
        adaptive=True,
        left_out=(0,),
        healed_delay_seconds=2.4,
        deadline_seconds=3,
        is_deep=True,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_run_that_once_failed_breaks_no_invariant(name: str) -> None:
    result = Simulation(KEPT[name]).run()
    assert result.executed > 0
