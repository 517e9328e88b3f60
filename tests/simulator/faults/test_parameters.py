"""What seeds stand for: every kind of fault is drawn, about as often as it should be."""

import functools
from collections.abc import Callable

import pytest

from simulator.faults.adversary import BALLOT_BEHAVIOURS, BEHAVIOURS
from simulator.faults.floods import FLOODS
from simulator.faults.parameters import Parameters, decode_parameters, draw, encode_parameters


@functools.cache
def drawn() -> tuple[Parameters, ...]:
    """The parameters of 3,000 runs; drawn by the first test, not by every worker that collects."""
    return tuple(draw(seed) for seed in range(3000))


def share(holds: Callable[[Parameters], object]) -> float:
    """Of how many of the runs that is true."""
    return sum(bool(holds(parameters)) for parameters in drawn()) / len(drawn())


def test_sizes_have_their_shares() -> None:
    replicas = [parameters.replicas for parameters in drawn()]
    sizes = {n: replicas.count(n) / len(replicas) for n in (4, 7, 10, 13)}
    assert 0.65 < sizes[4] < 0.75
    assert 0.15 < sizes[7] < 0.25
    assert sizes[10] > 0.05
    assert sizes[13] > 0.01


def test_at_most_f_replicas_are_faulty() -> None:
    assert all(len(p.faulty) <= (p.replicas - 1) // 3 for p in drawn())
    assert all(set(p.left_out) <= set(p.faulty) for p in drawn())


@pytest.mark.parametrize(
    ("holds", "least", "most"),
    [
        (lambda p: p.byzantine, 0.4, 0.8),
        (lambda p: p.rotten or p.wiped, 0.2, 0.6),
        (lambda p: p.plan.crashes, 0.4, 0.6),
        (lambda p: p.plan.partitions, 0.4, 0.6),
        (lambda p: p.plan.pauses, 0.25, 0.35),
        (lambda p: p.plan.refusals, 0.4, 0.6),
        (lambda p: p.plan.clock_skew, 0.25, 0.35),
        (lambda p: p.plan.recovery_crashes, 0.4, 0.6),
        (lambda p: p.plan.further_losses, 0.03, 0.15),
        (lambda p: p.links.on_the_wire, 0.05, 0.15),
        (lambda p: p.newer, 0.2, 0.35),
        (lambda p: p.cheats, 0.4, 0.6),
        (lambda p: p.left_out and p.left_out_one_way, 0.05, 0.3),
        (lambda p: p.executors == "minimal", 0.35, 0.45),
    ],
    ids=[
        "lies", "bad disks", "kills", "partitions", "pauses", "full disks", "clocks",
        "kills again", "one after the other", "wire", "newer versions", "cheats",
        "cut off one way", "not all build",
    ],
)  # fmt: skip
def test_a_kind_of_fault_has_its_share(
    holds: Callable[[Parameters], object], least: float, most: float
) -> None:
    assert least < share(holds) < most


def test_of_the_runs_with_liars_a_third_has_twins_and_each_way_is_there() -> None:
    lying = [p for p in drawn() if p.byzantine]
    ways = [dict.fromkeys(way for w in p.byzantine.values() for way in w) for p in lying]
    assert 0.25 < sum("twin" in way for way in ways) / len(lying) < 0.45
    for wanted in (*BEHAVIOURS, *FLOODS):
        assert sum(wanted in way for way in ways) > len(lying) / 25, wanted


def test_liars_misuse_that_others_wait_where_not_all_build() -> None:
    minimal = [p for p in drawn() if p.byzantine and p.executors == "minimal"]
    for wanted in BALLOT_BEHAVIOURS:
        having = [p for p in drawn() if any(wanted in ways for ways in p.byzantine.values())]
        assert len(having) > len(minimal) / 20, wanted
        assert all(p in minimal for p in having)


def test_parameters_come_back_from_their_text() -> None:
    for parameters in drawn()[:50]:
        assert decode_parameters(encode_parameters(parameters)) == parameters
