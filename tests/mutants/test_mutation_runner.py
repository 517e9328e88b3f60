"""Mutants: who fails by itself notices none, so all are run without one; what is recorded is tried.

A search finds a seed where the recorded one no longer notices its mutant.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from simulator.campaigns.campaign import Failure, Task
from tests.mutants import __main__ as command
from tests.mutants import mutation_runner
from tests.mutants.mutants import MUTANTS
from tests.mutants.mutation_runner import Mutant, failing_without, is_unrecorded, run_mutants

GREEN, RED = "tests/test_green.py", "tests/test_red.py"


@pytest.fixture(name="source")
def fixture_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source with a file whose test passes, and one in which one of two fails."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / GREEN).write_text("def test_it(): pass\n")
    (tmp_path / RED).write_text("def test_it(): assert False\n\n\ndef test_other(): pass\n")
    monkeypatch.setattr(mutation_runner, "ROOT", tmp_path)
    return tmp_path


def named(*tests: str) -> list[Mutant]:
    """A mutant for each of these tests; an empty one is noticed by seeds."""
    return [Mutant(name=test, file="", old="", new="", test=test) for test in tests]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("tests", [(GREEN, GREEN, ""), (GREEN, f"{RED}::test_other")])
def test_tests_that_pass_without_a_mutant_are_not_told(tests: Sequence[str]) -> None:
    assert failing_without(named(*tests)) == []


@pytest.mark.usefixtures("source")
def test_a_test_that_fails_without_a_mutant_is_told() -> None:
    (told,) = failing_without(named(GREEN, RED))
    assert told == f"test {RED}"


@pytest.mark.parametrize("text", ["", "import nothing_of_this_name\n"])
def test_what_pytest_cannot_run_is_told(source: Path, text: str) -> None:
    (source / RED).write_text(text)
    assert failing_without(named(RED)) != []


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("test", ["tests/test_gone.py", f"{GREEN}::test_gone"])
def test_a_test_that_is_not_there_is_told(test: str) -> None:
    told = failing_without(named(f"{RED}::test_other", test))
    assert any(test.rpartition("/")[2] in line for line in told)


def test_where_seeds_are_all_no_test_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr(mutation_runner, "MutantServer", run)
    assert failing_without(named("", "")) == []


def test_a_seed_that_fails_without_a_mutant_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fail_at(monkeypatch, Task(4, 7))
    good = Mutant(name="good", file="", old="", new="", seeds=(3, 5))
    bad = Mutant(name="bad", file="", old="", new="", replicas=7, seeds=(4, 3))
    (told,) = failing_without([good, bad])
    assert told.startswith("seed 4, step 17: invariant 1 agreement")
    assert tried == [Task(3, 4), Task(5, 4), Task(4, 7), Task(3, 7)]


def fail_at(monkeypatch: pytest.MonkeyPatch, *failing: Task) -> list[Task]:
    """Let these runs fail without any mutant; gives all that are tried, as they are."""
    tried = []

    def run_task(task: Task) -> Failure | None:
        tried.append(task)
        is_failing = task in failing
        return Failure(task.seed, task.replicas, 17, "1 agreement", "r1") if is_failing else None

    monkeypatch.setattr(mutation_runner, "run_task", run_task)
    return tried


BROKEN = Mutant(
    name="f+1 commits decide",
    file="pbft/log.py",
    old="if len(matching) >= quorums.strong:",
    new="if len(matching) >= quorums.weak:",
)


def test_a_seed_that_is_recorded_needs_no_search() -> None:
    recorded = msgspec.structs.replace(BROKEN, seeds=(2,))
    # A search would find nothing here.
    ((_, killer),) = run_mutants([recorded], range(0), processes=1)
    assert killer is not None
    assert killer.startswith("seed 2, ")
    assert not is_unrecorded(recorded, killer)


def test_a_search_finds_a_seed_that_fails_only_with_the_mutant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Seed 1 is the first that notices it.
    (late,) = run_mutants([BROKEN], range(1, 5), processes=1)
    assert str(late[1]).startswith("seed 1, ")
    tried = fail_at(monkeypatch, Task(1, 4))
    ((_, killer),) = run_mutants([BROKEN], range(1, 5), processes=1)
    assert killer is not None
    assert killer.startswith("seed 2, ")
    assert is_unrecorded(BROKEN, killer)
    assert tried == [Task(1, 4), Task(2, 4)]


def test_a_search_follows_a_recorded_seed_that_no_longer_notices_it() -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name.startswith("01 "))
    assert mutant.seeds == (2,)
    stale = msgspec.structs.replace(mutant, seeds=(1,))
    nothing = msgspec.structs.replace(stale, new=f"{stale.old}  # the same")
    ((_, killer), (_, none)) = run_mutants([stale, nothing], range(1, 5), processes=2)
    assert killer is not None
    assert killer.startswith("seed 2, ")
    assert is_unrecorded(stale, killer)
    assert none is None


def test_each_mutant_that_names_no_test_has_a_seed() -> None:
    assert [mutant.name for mutant in MUTANTS if bool(mutant.test) == bool(mutant.seeds)] == []


@pytest.mark.usefixtures("source")
def test_the_command_ends_where_a_named_test_fails_without_its_mutant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_mutants(*_: object) -> list[tuple[Mutant, str | None]]:
        return [(mutant, f"test {mutant.test}") for mutant in named(RED)]

    monkeypatch.setattr(command, "MUTANTS", named(RED, GREEN))
    monkeypatch.setattr(command, "run_mutants", run_mutants)
    assert command.main([]) == 1
    printed = capsys.readouterr().out
    assert f"test {RED}" in printed
    assert "survived" not in printed
    assert command.main(["--only", GREEN]) == 0, "only of those that are to be tried"
