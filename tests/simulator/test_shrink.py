"""A failing run is made small by taking away what it does not need to fail."""

import pytest

from simulator import shrink
from simulator.parameters import Parameters, draw
from simulator.violation import Violation


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
        return Violation(parameters.seed, 1, "1 agreement", "") if is_broken else None

    monkeypatch.setattr(shrink, "fails", fails)
    shrunk = shrink.shrink(failing_seed())
    assert shrunk is not None
    small = shrunk.parameters
    assert list(small.byzantine.values()) == [("omit",)]
    assert (small.plan.crashes, small.links.loss, small.rotten, small.wiped) == (0.0, 0.0, (), ())
    assert (small.workload.requests, small.gateways) == (1, 1)


def test_a_run_that_does_not_fail_is_not_shrunk() -> None:
    assert shrink.shrink(Parameters(seed=1, gateways=1)) is None
