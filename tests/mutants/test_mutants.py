"""The mutants: each applies to the source as it is, and the whole of them is noticed."""

import pytest

from scripts.folders import ROOT
from tests.mutants.mutants import MUTANTS
from tests.mutants.mutation_runner import Mutant, failing_without, patched, run_mutants

SEARCHED_SEEDS = range(1, 121)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_applies_to_the_source(mutant: Mutant) -> None:
    broken = patched(mutant)
    compile(broken, mutant.file, "exec")
    assert broken != (ROOT / mutant.file).read_text()


def test_a_broken_core_is_caught() -> None:
    broken = [mutant for mutant in MUTANTS if mutant.name.startswith(("01 ", "03 ", "24 "))]
    assert len(broken) == 3
    for mutant, killer in run_mutants(broken, range(1, 41), processes=1):
        assert killer is not None, mutant.name
        assert killer.startswith("seed "), mutant.name


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.test], ids=lambda mutant: mutant.name
)
def test_each_mutant_names_one_test_that_is_there(mutant: Mutant) -> None:
    """One test, for a whole file of them costs seconds for each mutant."""
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_mutant_is_noticed() -> None:
    # A seed or a test that fails without any mutant would prove nothing.
    assert failing_without(MUTANTS) == []
    survivors = [
        mutant.name
        for mutant, killer in run_mutants(MUTANTS, SEARCHED_SEEDS, processes=1)
        if killer is None and not mutant.equivalent
    ]
    assert survivors == []
