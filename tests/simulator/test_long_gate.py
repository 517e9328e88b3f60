"""The long gate: a cover of the whole one, fresh seeds, every mutant, equal traces everywhere."""

import pytest

from scripts.folders import ROOT
from simulator import marks
from simulator.campaign import Summary, fresh_tasks, run_tasks
from simulator.cover import read_cover
from simulator.mutants import failing_without, run_mutants
from simulator.mutation import MUTANTS
from simulator.never_reached import contradicted, unexplained
from simulator.source_commit import commit_hash
from tests.simulator.test_campaign import told
from tests.simulator.test_simulation import hashes

pytestmark = pytest.mark.long
FRESH_HUNDREDS = 3
# One in a hundred of the whole gate's seeds.
TRACED_SEEDS = 24
MUTANT_SEEDS = range(1, 121)
STALE = (
    "A change of the source draws other runs from the same seeds, so the cover may be stale:"
    " `python -m simulator cover` runs the whole gate and writes simulator/cover.json anew. If that"
    " fails for the same reason, the change is at fault."
)


@pytest.fixture(name="summary", scope="module")
def fixture_summary() -> Summary:
    """What the cover comes to; its runs are the same at each commit."""
    return run_tasks(read_cover(), processes=2)


@pytest.fixture(name="fresh", scope="module")
def fixture_fresh() -> Summary:
    """What seeds come to that no other commit tried; nothing may depend on what they reach."""
    tasks = fresh_tasks(FRESH_HUNDREDS, commit_hash(ROOT))
    print(told(tasks))  # noqa: T201 - shown if a test fails
    return run_tasks(tasks, processes=2)


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
    assert marks.unseen(summary.marks) == [], STALE


@pytest.mark.timeout(7200)
def test_every_kind_of_fault_is_injected(summary: Summary, fresh: Summary) -> None:
    assert marks.never_injected(summary.faults) == [], STALE
    found = sorted(summary.faults | fresh.faults)
    assert found == sorted(marks.FAULTS), "a kind that nobody has listed"


@pytest.mark.timeout(1800)
def test_traces_are_equal_in_processes_with_other_hash_seeds() -> None:
    first = hashes("1", TRACED_SEEDS)
    assert first.count("\n") == TRACED_SEEDS
    assert first == hashes("2", TRACED_SEEDS)


@pytest.mark.timeout(7200)
def test_every_mutant_is_noticed() -> None:
    # A seed or a test that fails without any mutant would prove nothing.
    assert failing_without(MUTANTS) == []
    survivors = [
        mutant.name
        for mutant, killer in run_mutants(MUTANTS, MUTANT_SEEDS, processes=2)
        if killer is None and not mutant.equivalent
    ]
    assert survivors == []
