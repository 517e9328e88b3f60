"""The long gate: thousands of seeds, every cell and mark, every mutant, equal traces everywhere."""

import pytest

from simulator import marks
from simulator.campaign import Summary, Task, long_gate, run_tasks
from simulator.mutants import failing_tests, run_mutants
from simulator.mutation import MUTANTS
from simulator.never_reached import contradicted, unexplained
from tests.simulator.test_simulation import hashes

pytestmark = pytest.mark.long
# One in a hundred of the long gate's seeds.
TRACED_SEEDS = 24
MUTANT_SEEDS = range(1, 121)


@pytest.fixture(name="summary", scope="module")
def fixture_summary() -> Summary:
    return run_tasks(long_gate(), processes=2)


@pytest.mark.timeout(7200)
def test_no_seed_breaks_an_invariant(summary: Summary) -> None:
    assert [str(failure) for failure in summary.failures] == []
    assert summary.seeds == len(long_gate())


@pytest.mark.timeout(7200)
def test_every_cell_is_reached_or_has_a_rule_that_holds(summary: Summary) -> None:
    assert unexplained(summary.cells) == []
    assert contradicted(summary.cells) == []


@pytest.mark.timeout(7200)
def test_every_mark_is_hit(summary: Summary) -> None:
    assert marks.unseen(summary.marks) == []


@pytest.mark.timeout(7200)
def test_every_kind_of_fault_is_injected(summary: Summary) -> None:
    assert marks.never_injected(summary.faults) == []
    assert sorted(summary.faults) == sorted(marks.FAULTS), "a kind that nobody has listed"


@pytest.mark.timeout(1800)
def test_traces_are_equal_in_processes_with_other_hash_seeds() -> None:
    first = hashes("1", TRACED_SEEDS)
    assert first.count("\n") == TRACED_SEEDS
    assert first == hashes("2", TRACED_SEEDS)


@pytest.mark.timeout(7200)
def test_every_mutant_is_noticed(summary: Summary) -> None:
    # A seed or a test that fails without any mutant would prove nothing.
    known = {seed for mutant in MUTANTS for seed in mutant.seeds}
    assert {Task(seed, 4) for seed in known.union(MUTANT_SEEDS)} <= set(long_gate())
    assert summary.failures == []
    assert failing_tests(MUTANTS) == []
    survivors = [
        mutant.name
        for mutant, killer in run_mutants(MUTANTS, MUTANT_SEEDS, processes=2)
        if killer is None and not mutant.equivalent
    ]
    assert survivors == []
