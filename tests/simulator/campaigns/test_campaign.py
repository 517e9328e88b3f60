"""The gate of a short test run: a hundred fresh seeds of all sizes, and how runs are added up."""

from collections import Counter
from collections.abc import Sequence

import pytest

from scripts.folders import ROOT
from simulator.campaigns.campaign import (
    DIRECTED_SEEDS,
    Failure,
    Summary,
    Task,
    fresh_tasks,
    long_gate,
    run_seeds,
    run_task,
    run_tasks,
)
from simulator.campaigns.directed import directed
from simulator.campaigns.simulation import Result
from simulator.campaigns.source_commit import commit_hash
from simulator.faults.parameters import draw

# One of each usual size, which takes few seconds.
FIXED_SEEDS = range(547, 550)


@pytest.mark.short
@pytest.mark.timeout(1800)
def test_fresh_seeds_break_no_invariant() -> None:
    """A commit tries its own seeds, as often as it is tested.

    So a failure here is a finding and never chance: it fails again at this commit, with the command
    that it names. It may be older than the commit. It becomes a kept seed (docs/SIMULATION.md).
    """
    tasks = fresh_tasks(1, commit_hash(ROOT))
    print(told(tasks))  # noqa: T201 - shown if this fails
    summary = run_tasks(tasks, processes=2)
    assert [str(failure) for failure in summary.failures] == []
    assert summary.seeds == len(tasks)


def told(tasks: Sequence[Task]) -> str:
    """Which seeds are tried, and by which commit, as a failing test shows it."""
    commit = commit_hash(ROOT) or "not known, as without git, so the first seed is 1"
    return f"{len(tasks)} seeds from {tasks[0].seed}, of commit {commit}"


def test_fresh_seeds_follow_from_the_commit() -> None:
    one, other = "00c0ffee" + 32 * "0", "00c0ffef" + 32 * "0"
    assert [task.seed for task in fresh_tasks(1, one)] == [*range(0xC0FFEE, 0xC0FFEE + 100)]
    assert fresh_tasks(3, other)[0].seed == 0xC0FFEF
    assert [task.seed for task in fresh_tasks(1, "")] == [*range(1, 101)]


def test_fresh_runs_are_of_all_sizes_whatever_the_commit() -> None:
    for hundreds in (1, 3):
        sizes = Counter(task.replicas for task in fresh_tasks(hundreds, ""))
        assert sizes == {13: hundreds, 10: 4 * hundreds, 7: 15 * hundreds, 4: 80 * hundreds}


def test_what_runs_do_is_added_up() -> None:
    summary = run_seeds(FIXED_SEEDS)
    assert summary.failures == []
    assert summary.sizes == {4: 1, 7: 1, 10: 1}
    assert summary.executed > 10 * len(FIXED_SEEDS)
    assert summary.views > len(FIXED_SEEDS)
    assert {"lost", "crash", "targeted forgeries", "equivocate"} <= summary.faults.keys()


def test_several_processes_add_up_to_the_same() -> None:
    alone = run_seeds(range(30, 36), replicas=4)
    together = run_seeds(range(30, 36), replicas=4, processes=2)
    for summary in (alone, together):
        summary.seconds = 0.0
        summary.virtual_seconds = round(summary.virtual_seconds, 6)
    assert alone == together


@pytest.mark.parametrize("processes", [1, 2])
def test_each_result_is_told_with_its_task(processes: int) -> None:
    tasks = [Task(3, 4), Task(1, is_directed=True), Task(30, 4)]
    results: dict[Task, Result | Failure] = {}
    run_tasks(tasks, processes=processes, on_result=results.__setitem__)
    assert results.keys() == set(tasks)
    assert results[Task(3, 4)] == run_task(Task(3, 4))


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
