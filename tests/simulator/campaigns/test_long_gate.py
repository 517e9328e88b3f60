"""The long gate: a cover of the whole one, fresh seeds, equal traces everywhere."""

import os
import subprocess
import sys

import pytest

from scripts.folders import ROOT
from simulator.campaigns.campaign import Failure, Summary, Task, fresh_tasks, run_tasks
from simulator.campaigns.cover import read_cover
from simulator.campaigns.never_reached import contradicted, unexplained
from simulator.campaigns.simulation import Result
from simulator.campaigns.source_commit import commit_hash
from simulator.world import coverage_goals
from tests.simulator.campaigns.test_campaign import told
from tests.thoroughness import times

pytestmark = pytest.mark.long
FRESH_HUNDREDS = times(1)
TRACED_SEEDS = times(12)
# SEED:REPLICAS ...
TRACE_RUNS = """
import sys
from simulator.campaigns.campaign import run_seed

for run in sys.argv[1:]:
    print(run_seed(*map(int, run.split(":"))).trace)
"""
STALE = (
    "A change of the source draws other runs from the same seeds, so the cover may be stale:"
    " `python -m simulator cover` runs the whole gate and writes"
    " simulator/campaigns/cover.json anew. If that fails for the same reason, the change"
    " is at fault."
)


@pytest.fixture(name="summary", scope="module")
def fixture_summary() -> Summary:
    """What the cover comes to; its runs are the same at each commit."""
    return run_tasks(read_cover(), processes=2)


@pytest.fixture(name="traces", scope="module")
def fixture_traces() -> dict[Task, str]:
    """The trace of each fresh run, once there is the fixture of those."""
    return {}


@pytest.fixture(name="fresh", scope="module")
def fixture_fresh(traces: dict[Task, str]) -> Summary:
    """What seeds come to that no other commit tried; nothing may depend on what they reach."""
    tasks = fresh_tasks(FRESH_HUNDREDS, commit_hash(ROOT))
    print(told(tasks))  # noqa: T201 - shown if a test fails

    def keep(task: Task, result: Result | Failure) -> None:
        if isinstance(result, Result):
            traces[task] = result.trace

    return run_tasks(tasks, processes=2, on_result=keep)


@pytest.mark.timeout(7200)
def test_no_seed_breaks_an_invariant(summary: Summary, fresh: Summary) -> None:
    """One of the fresh seeds that fails is a finding, see test_campaign."""
    assert [str(failure) for failure in summary.failures + fresh.failures] == []
    assert summary.seeds == len(read_cover())
    assert fresh.seeds == 100 * FRESH_HUNDREDS


@pytest.mark.timeout(7200)
def test_every_cell_is_reached_or_has_a_rule_that_holds(summary: Summary, fresh: Summary) -> None:
    assert unexplained(summary.cells) == [], STALE
    assert contradicted(summary.cells | fresh.cells) == []


@pytest.mark.timeout(7200)
def test_every_mark_is_hit(summary: Summary) -> None:
    assert coverage_goals.unseen(summary.goals) == [], STALE


@pytest.mark.timeout(7200)
def test_every_kind_of_fault_is_injected(summary: Summary, fresh: Summary) -> None:
    assert coverage_goals.never_injected(summary.faults) == [], STALE
    found = sorted(summary.faults | fresh.faults)
    assert found == sorted(coverage_goals.FAULTS), "a kind that nobody has listed"


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("fresh")
def test_traces_are_equal_in_processes_with_other_hash_seeds(traces: dict[Task, str]) -> None:
    """Once more some runs of seven and of four replicas."""
    sevens, fours = ([task for task in traces if task.replicas == size] for size in (7, 4))
    tasks = [*sevens[: times(2)], *fours[: times(10)]]
    assert len(tasks) == TRACED_SEEDS
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", TRACE_RUNS, *(f"{task.seed}:{task.replicas}" for task in tasks)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [traces[task] for task in tasks]
