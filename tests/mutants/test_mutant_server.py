"""Trials of mutants: each has the broken code, and leaves nothing to the next."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.folders import ROOT
from simulator.campaigns.campaign import Task
from tests.mutants.mutant_server import MutantServer, ServerEnded, Trial
from tests.waiting import block_until

SECONDS_MAX = 100
# a file, a text in it, and a text that breaks it
WEAK = ("pbft/quorums.py", "weak = faults_max + 1", "weak = faults_max + 2")
DECIDED = ("pbft/log.py", "len(matching) >= quorums.strong:", "len(matching) >= quorums.weak:")
TEXT = """
import os, subprocess, sys, time
from pathlib import Path

import pytest
from pbft.quorums import quorums_for

HERE = Path(__file__).parent

def test_quorum():
    assert quorums_for(4).weak == 2

@pytest.mark.parametrize("size", [4, 7])
def test_sizes(size):
    assert quorums_for(size).weak == {4: 2, 7: 3}[size]

def test_that_exits():
    print("the last words", flush=True)
    os._exit(3)

def test_that_is_endless():
    child = subprocess.Popen(["sleep", "1000"])
    (HERE / "draft").write_text(str(child.pid))
    (HERE / "draft").rename(HERE / "child")
    while True:
        time.sleep(1)
"""
TESTS = ("test_quorum", "test_sizes", "test_that_exits", "test_that_is_endless")


def named(test: str) -> str:
    return f"test_subject.py::{test}"


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subject")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (folder / "test_subject.py").write_text(TEXT)
    return folder


@pytest.fixture(name="server", scope="module")
def fixture_server(folder: Path) -> Iterator[MutantServer]:
    with MutantServer([named(test) for test in TESTS], folder) as server:
        yield server


def broken(file: str, old: str, new: str) -> tuple[str, str]:
    """The file and its broken text."""
    text = (ROOT / file).read_text()
    assert text.count(old) == 1
    return file, text.replace(old, new)


@pytest.mark.parametrize("test", ["test_quorum", "test_sizes"])
def test_a_broken_function_is_noticed_and_is_whole_in_the_next_trial(
    server: MutantServer, test: str
) -> None:
    name = named(test)
    assert server.noticed(Trial(*broken(*WEAK), name), SECONDS_MAX) == f"test {name}"
    assert server.noticed(Trial(test=name), SECONDS_MAX) is None


def test_seeds_run_until_one_notices_it(server: MutantServer) -> None:
    tasks = (Task(1, 4), Task(2, 4))
    killer = server.noticed(Trial(*broken(*DECIDED), tasks=tasks), SECONDS_MAX)
    assert str(killer).startswith(("seed 1, step ", "seed 2, step "))
    assert server.noticed(Trial(tasks=(Task(1, 4),)), SECONDS_MAX) is None


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (Trial(test=named("test_that_exits")), "ended with 3: the last words"),
        (Trial(test=named("test_gone")), "there is no test test_subject.py::test_gone"),
        (Trial(WEAK[0], "LIMIT = 1\n", named("test_quorum")), "NotOfFunctions"),
    ],
)
def test_a_trial_that_does_not_run_is_told(server: MutantServer, trial: Trial, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        server.noticed(trial, SECONDS_MAX)
    assert server.noticed(Trial(test=named("test_quorum")), SECONDS_MAX) is None, (
        "the next one runs"
    )


@pytest.mark.parametrize("test", ["test_nothing.py", "test_subject.py::test_gone"])
def test_what_pytest_cannot_collect_is_told(folder: Path, test: str) -> None:
    with MutantServer([test], folder) as server, pytest.raises(ServerEnded, match=test):
        server.noticed(Trial(test=test), SECONDS_MAX)


ENDLESS = Trial(test=named("test_that_is_endless"))


def test_what_takes_too_long_is_killed_with_all_that_it_started(
    server: MutantServer, folder: Path
) -> None:
    seconds = 0.5
    # A busy machine may not have begun within the first.
    while not (folder / "child").exists():
        seconds *= 2
        with pytest.raises(subprocess.TimeoutExpired):
            server.noticed(ENDLESS, seconds)
    expect_its_end(folder)
    assert server.noticed(Trial(test=named("test_quorum")), SECONDS_MAX) is None, (
        "the next one runs"
    )


def test_what_runs_is_killed_when_nobody_waits_for_it_any_more(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with MutantServer([ENDLESS.test], folder) as server:
            running = pool.submit(server.noticed, ENDLESS, SECONDS_MAX)
            block_until((folder / "child").exists, "it runs")
        expect_its_end(folder)
        assert running.exception() is not None


def expect_its_end(folder: Path) -> None:
    """The endless trial's own child ends."""
    file = folder / "child"
    child = int(file.read_text())
    block_until(lambda: not is_alive(child), "the child of what was killed ends")
    file.unlink()


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody has reaped does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
