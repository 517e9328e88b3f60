"""Runs for states that chance comes to too rarely: a primary that recovers, or fetches a state.

Each seed is a run of its own; together they reach the cells of coverage that drawn runs miss.
"""

from simulator.faults.parameters import FaultPlan, Parameters
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults


def directed(seed: int) -> Parameters:
    """The run of that seed."""
    return _behind(seed) if seed % 2 else _forgetful(seed)


def _forgetful(seed: int) -> Parameters:
    """Of seven replicas one lies, and a first or second primary loses its disk."""
    # The first primary lies and orders nothing for long, so that the next view's primary is r1,
    # who has just lost its disk; or the first primary loses its own.
    forgets, lies = (1, 0) if seed % 8 == 0 else (0, 6)
    return Parameters(
        seed=seed,
        replicas=7,
        checkpoint_interval=2,
        window=4,
        workload=Workload(requests=16, builds=0.1, spread_seconds=12.0),
        links=LinkFaults(delay_mean_seconds=0.005),
        plan=FaultPlan(crashes=0.3, crash_points=0.0, partitions=0.2, down_seconds=2.0),
        byzantine={lies: ("omit", "mute") if lies == 0 else ("omit",)},
        adaptive=True,
        rotten=(forgets,) if seed % 4 else (),
        wiped=() if seed % 4 else (forgets,),
        safety_seconds=16.0,
        view_change_seconds=3.0,
    )


def _behind(seed: int) -> Parameters:
    """Small windows, cut links and views that follow each other: primaries that are behind."""
    return Parameters(
        seed=seed,
        checkpoint_interval=2,
        window=4,
        workload=Workload(requests=24, builds=0.0, spread_seconds=16.0),
        links=LinkFaults(delay_mean_seconds=0.01, loss=0.1),
        plan=FaultPlan(crashes=0.4, partitions=0.6, down_seconds=4.0),
        byzantine={seed // 2 % 4: ("omit",)},
        adaptive=True,
        safety_seconds=20.0,
        view_change_seconds=1.0,
    )
