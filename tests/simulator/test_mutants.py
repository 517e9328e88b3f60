"""A test that fails by itself notices no mutant: those that are named are run without one first."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from simulator import main, mutants
from simulator.mutants import Mutant, failing_tests

GREEN, RED = "tests/test_green.py", "tests/test_red.py"
# as a test that reads a document, which is in no mutant's copy
NEEDS_DOCUMENT = 'from pathlib import Path\n\n\ndef test_it(): assert Path("docs/A.md").exists()\n'


@pytest.fixture(name="source")
def fixture_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source with a test that passes everywhere, and one that passes only in the checkout."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "A.md").touch()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / GREEN).write_text("def test_it(): pass\n")
    (tmp_path / RED).write_text(f"{NEEDS_DOCUMENT}\n\ndef test_other(): pass\n")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return tmp_path


def named(*tests: str) -> list[Mutant]:
    """A mutant for each of these tests; an empty one is noticed by seeds."""
    return [Mutant(name=test, file="", old="", new="", test=test) for test in tests]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("tests", [(GREEN, GREEN, ""), (GREEN, f"{RED}::test_other")])
def test_tests_that_pass_without_a_mutant_are_not_told(tests: Sequence[str]) -> None:
    assert failing_tests(named(*tests)) == []


@pytest.mark.usefixtures("source")
def test_a_test_that_fails_without_a_mutant_is_told() -> None:
    (told,) = failing_tests(named(GREEN, RED))
    assert told.startswith(f"FAILED {RED}::test_it")


@pytest.mark.parametrize("text", ["", "import nothing_of_this_name\n"])
def test_what_pytest_cannot_run_is_told(source: Path, text: str) -> None:
    (source / RED).write_text(text)
    assert failing_tests(named(RED)) != []


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("test", ["tests/test_gone.py", f"{GREEN}::test_gone"])
def test_a_test_that_is_not_there_is_told(test: str) -> None:
    told = failing_tests(named(f"{RED}::test_other", test))
    assert any(test.rpartition("/")[2] in line for line in told)


def test_where_seeds_are_all_no_test_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr(mutants, "_run", run)
    assert failing_tests(named("", "")) == []


@pytest.mark.usefixtures("source")
def test_the_command_ends_where_a_named_test_fails_without_its_mutant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_mutants(*_: object) -> list[tuple[Mutant, str | None]]:
        return [(mutant, f"test {mutant.test}") for mutant in named(RED)]

    monkeypatch.setattr(main, "MUTANTS", named(RED, GREEN))
    monkeypatch.setattr(main, "unbroken", lambda *_: None)
    monkeypatch.setattr(main, "run_mutants", run_mutants)
    assert main.main(["mutants"]) == 1
    printed = capsys.readouterr().out
    assert f"{RED}::test_it" in printed
    assert "survived" not in printed
    assert main.main(["mutants", "--only", GREEN]) == 0, "only of those that are to be tried"
