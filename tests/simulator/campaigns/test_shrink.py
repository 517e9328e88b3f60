"""A failing run is made small by taking away what it does not need to fail."""

from collections.abc import Sequence

import msgspec
import pytest

from pbft import view_change
from pbft.core import Core
from simulator.campaigns import shrink
from simulator.campaigns.shrink import ddmin, injected_faults
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import FaultPlan, Parameters, draw
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults
from simulator.world.violation import Violation


def failing_seed() -> Parameters:
    """A run in which many things go wrong, among them one liar that leaves out messages."""
    for seed in range(1, 500):
        parameters = draw(seed, 7)
        if (
            any("omit" in ways for ways in parameters.byzantine.values())
            and parameters.plan.crashes
        ):
            return parameters
    raise AssertionError("no such seed")


def test_only_what_is_needed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(parameters: Parameters, invariant: str | None = None) -> Violation | None:
        is_broken = any("omit" in ways for ways in parameters.byzantine.values())
        return Violation("1 agreement", "", seed=parameters.seed, step=1) if is_broken else None

    monkeypatch.setattr(shrink, "fails", fails)
    shrunk = shrink.shrink(failing_seed())
    assert shrunk is not None
    small = shrunk.parameters
    assert list(small.byzantine.values()) == [("omit",)]
    assert (small.plan.crashes, small.links.loss, small.rotten, small.wiped) == (0.0, 0.0, (), ())
    assert (small.workload.requests, small.gateways) == (1, 1)


def test_ddmin_finds_the_two_items_that_are_needed_together() -> None:
    tried: list[int] = []

    def still_fails(kept: Sequence[str]) -> bool:
        tried.append(len(kept))
        return {"17", "80"} <= set(kept)

    assert ddmin([str(number) for number in range(100)], still_fails) == ["17", "80"]
    assert len(tried) < 60


def test_ddmin_needs_nothing_where_nothing_is_needed() -> None:
    assert ddmin(["a", "b"], lambda kept: True) == []


def test_single_faults_are_left_out_of_a_run_as_told() -> None:
    plan = FaultPlan(crashes=0.5, pauses=0.5, partitions=0.3)
    links = LinkFaults(loss=0.1, repetition=0.1)
    byzantine: dict[int, tuple[str, ...]] = {3: ("omit", "wrong digest")}
    parameters = Parameters(seed=4, plan=plan, links=links, byzantine=byzantine)
    faults = injected_faults(parameters)
    kinds = {name.split(" #")[0].split()[0] for name in faults}
    assert {"crash", "pause", "partition", "lost", "repeated", "omit", "wrong"} <= kinds
    assert len(faults) == len(set(faults))
    all_of_them = msgspec.structs.replace(parameters, only_faults=tuple(faults))
    assert Simulation(all_of_them).run().trace == Simulation(parameters).run().trace
    some = [name for name in faults if name.startswith(("crash", "lost"))][:7]
    simulation = Simulation(
        msgspec.structs.replace(parameters, only_faults=tuple(some)), keeps_faults=True
    )
    result = simulation.run()
    assert set(simulation.record.injected) <= set(some)
    assert not {"omit", "wrong digest", "repeated", "pause"} & result.faults.keys()


def test_a_failing_run_is_left_with_few_single_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a core that forgets what it prepared when it leaves a view."""
    leave = view_change.start

    def forgetful(core: Core, view: int, reason: str) -> None:
        for slot in core.log.above(core.low):
            slot.prepared = None
        leave(core, view, reason)

    monkeypatch.setattr(view_change, "start", forgetful)
    parameters = Parameters(
        seed=1,
        workload=Workload(requests=3, builds=0.0, spread_seconds=2.0),
        links=LinkFaults(loss=0.2, delay_mean_seconds=0.02),
        plan=FaultPlan(crashes=0.5, pauses=0.3),
        view_change_seconds=1.0,
        safety_seconds=6.0,
    )
    violation = shrink.fails(parameters)
    assert violation is not None
    smaller, still, runs = shrink._without_single_faults(parameters, violation)
    assert smaller.only_faults is not None
    assert len(smaller.only_faults) < len(injected_faults(parameters)) / 4
    assert runs <= shrink.DDMIN_RUNS_MAX
    again = shrink.fails(smaller)
    assert str(again) == str(still)
    assert still.invariant == violation.invariant


def test_a_run_that_does_not_fail_is_not_shrunk() -> None:
    assert shrink.shrink(Parameters(seed=1, gateways=1)) is None
