"""Runs that once broke an invariant, with all their parameters, whatever seeds stand for now."""

import msgspec
import pytest

from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import FaultPlan, Parameters, draw
from simulator.world.builds import BuildFaults
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults
from simulator.world.world import ProcessFaults

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
    # Invariant 26: r0 was killed after it had put its damaged store aside and before the new one
    # said that it recovers; the simulated disk had no marker for that, as the real one has.
    "killed between a damaged store and the recovery's first word": Parameters(
        seed=6000441,
        window=16,
        client_window=8,
        pipeline_depth=8,
        batch_bytes_max=2000,
        workload=Workload(requests=2, builds=0.2, spread_seconds=2.0, deliveries=0.5, waiting=0.3),
        links=LinkFaults(
            delay_mean_seconds=0.02,
            loss=0.23156587177823953,
            spikes=0.014480445506832052,
            corruption=0.021100469295395996,
            in_flight_max=2,
            on_the_wire=True,
        ),
        processes=ProcessFaults(slow_syncs=0.5, turn_seconds=0.002),
        builds=BuildFaults(flaky=0.3, weak=0.5, artifacts=0.5, abstentions=0.2),
        plan=FaultPlan(down_seconds=4.0, refusals=0.10386724946924819, recovery_crashes=3),
        rotten=(0,),
        left_out=(0,),
        newer=(0,),
        safety_seconds=5.0,
        deadline_seconds=3,
        open_builds_max=3,
        weak_agreement_allowed=True,
    ),
    # Invariant 30, by the checker's own fault: one turn proposed what r0 had kept, and kept what
    # had come while it was busy; the checker saw something kept all the time.
    "kept anew in the turn that proposed": Parameters(
        seed=9205839,
        checkpoint_interval=8,
        window=16,
        client_window=2,
        pipeline_depth=2,
        batch_bytes_max=2000,
        batch_delay_seconds=0.05,
        workload=Workload(requests=14, builds=0.2, spread_seconds=8.0, deliveries=0.0, waiting=0.0),
        processes=ProcessFaults(slow_syncs=0.0, slow_sync_seconds=0.2, turn_seconds=0.05),
        builds=BuildFaults(
            flaky=0.0, artifacts=0.0, unreproducible=0.0, abstentions=0.0, seconds_max=5.0
        ),
        left_out_one_way="mute",
        safety_seconds=5.0,
        healed_delay_seconds=0.1,
        deadline_seconds=8,
        open_builds_max=3,
        weak_agreement_allowed=True,
        only_faults=(),
    ),
    # Invariant 32: a mark that could be read no more, and then a misdirected write: r1 forgot,
    # unnoticed, that it had begun view 1. All was done, so nobody left that view for it.
    "a primary that forgot that it began its view": Parameters(
        seed=9302745,
        checkpoint_interval=2,
        window=4,
        client_window=2,
        pipeline_depth=1,
        status_seconds=0.3,
        view_change_seconds=4.0,
        workload=Workload(requests=16, builds=0.5),
        builds=BuildFaults(weak=0.5, artifacts=0.5, seconds_max=0.5),
        plan=FaultPlan(further_losses=2),
        rotten=(0,),
        left_out_one_way="deaf",
        safety_seconds=30.0,
        deadline_seconds=3,
        closing_builds_max=2,
        weak_agreement_allowed=True,
    ),
    # The simulator's own fault: a liar of the second epoch, which has fewer replicas, heard an old
    # FETCH-STATE of a replica whose number it does not know.
    "a liar hears of the epoch before": msgspec.structs.replace(
        draw(10100), limit_operations=4, next_sizes=(4,)
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_run_that_once_failed_breaks_no_invariant(name: str) -> None:
    result = Simulation(KEPT[name]).run()
    assert result.executed > 0
