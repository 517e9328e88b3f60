"""The gate of a short test run: three hundred seeds of all sizes, and how they are added up."""

import pytest

from simulator.campaign import (
    DIRECTED_SEEDS,
    Failure,
    Summary,
    Task,
    long_gate,
    run_seeds,
    run_task,
)
from simulator.directed import directed
from simulator.parameters import draw
from simulator.simulation import Result

SEEDS = 300


@pytest.mark.short
@pytest.mark.timeout(1800)
def test_seeds_of_all_sizes_break_no_invariant() -> None:
    summary = run_seeds(range(1, SEEDS + 1), processes=2)
    assert [str(failure) for failure in summary.failures] == []
    assert summary.seeds == SEEDS
    assert {4, 7, 10} <= summary.sizes.keys()
    assert summary.executed > 10 * SEEDS
    assert summary.views > SEEDS
    assert {"lost", "crash", "targeted forgeries", "equivocate"} <= summary.faults.keys()


def test_several_processes_add_up_to_the_same() -> None:
    alone = run_seeds(range(30, 36), replicas=4)
    together = run_seeds(range(30, 36), replicas=4, processes=2)
    for summary in (alone, together):
        summary.seconds = 0.0
        summary.virtual_seconds = round(summary.virtual_seconds, 6)
    assert alone == together


def test_a_failure_names_the_command_that_shows_it() -> None:
    failure = Failure(5, 7, 17, "1 agreement", "r1 at 3")
    assert str(failure).endswith("python -m simulator replay 5 --replicas 7")
    assert str(Failure(5, None, 17, "x", "y", True)).endswith("replay 5 --directed")
    summary = Summary()
    summary.add(failure)
    assert (summary.seeds, summary.failures, summary.events) == (1, [failure], 0)


def test_the_long_gate_has_what_it_promises() -> None:
    tasks = long_gate()
    assert len(dict.fromkeys(tasks)) == len(tasks)
    sizes = [task.replicas for task in tasks]
    assert [sizes.count(size) for size in (4, 7, 10)] == [2000, 200, 40]
    assert sum(task.is_directed for task in tasks) == DIRECTED_SEEDS


def test_a_task_is_drawn_or_directed() -> None:
    assert Task(3, 7).parameters == draw(3, 7)
    assert Task(3, is_directed=True).parameters == directed(3) != draw(3)
    result = run_task(Task(1, is_directed=True))
    assert isinstance(result, Result)
    assert result.executed > 0
