"""The checker of the timer: a replica that waits for nobody, too long or anew is noticed."""

from collections.abc import Callable

import pytest

from pbft import timers
from pbft.core import Core, PendingRequests
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import FaultPlan, Parameters
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults
from simulator.world.violation import Violation

BUSY = Workload(requests=12, builds=0.2, spread_seconds=6.0)


def world() -> Simulation:
    """A slow network, a primary that is silent at times, and kills: timers run and expire."""
    return Simulation(
        Parameters(
            seed=1,
            workload=BUSY,
            links=LinkFaults(delay_mean_seconds=0.1, loss=0.1),
            plan=FaultPlan(crashes=0.3, partitions=0.2),
            byzantine={0: ("omit",)},
            view_change_seconds=1.0,
            batch_delay_seconds=0.25,
            safety_seconds=10.0,
        )
    )


def test_timers_run_and_expire_there() -> None:
    result = world().run()
    assert result.event_counts["view_change"] > 3
    assert result.event_counts["new_view"] > 3


def only_the_status(core: Core) -> float:
    """No deadline but that of the next STATUS."""
    return core.peers.status_due


def never_for_a_view(core: Core, now: float) -> None:
    """That `strong` replicas have left arms nothing."""


def again_and_again(core: Core, now: float) -> None:
    """Each further VIEW-CHANGE gives the view its full time again."""
    core.timers.view_change_due = now + core.timers.timeout


UPDATE = timers.update


def anew_with_each_batch(core: Core, now: float, are_nulls_owed: bool) -> None:
    """Whatever is executed, all waits begin anew: who serves others may censor one for ever."""
    known = core.timers.timed
    UPDATE(core, now, are_nulls_owed)
    if core.timers.timed is not known:
        timers.on_state_adopted(core, now)


def kept_for_ever(core: Core, now: float) -> bool:
    """What nobody waits for is kept until somebody waits for something, and no alarm is set."""
    return True


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("deadline", only_the_status),
        ("on_view_wanted", never_for_a_view),
        ("on_view_wanted", again_and_again),
        ("update", anew_with_each_batch),
        ("may_delay_longer", kept_for_ever),
    ],
    ids=[
        "only the STATUS",
        "none for a view",
        "one that moves on",
        "waits that begin anew",
        "kept for ever",
    ],
)
def test_a_timer_that_is_not_armed_in_time_is_a_violation(
    name: str, fault: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, name, fault)
    with pytest.raises(Violation, match="30 a timer is armed"):
        world().run()


def test_a_lowest_number_that_stays_behind_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is then that of a number which is executed, or of none."""
    add = PendingRequests.add

    def add_but_keep_lowest(pending: PendingRequests, *given: object) -> bool:
        lowest = dict(pending.lowest)
        added = add(pending, *given)  # type: ignore[arg-type]
        pending.lowest.update(lowest)
        return added

    monkeypatch.setattr(PendingRequests, "add", add_but_keep_lowest)
    with pytest.raises(Violation, match=r"30 a timer is armed: .* times"):
        world().run()
