"""The command line says what happened, and fails where an invariant was broken."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.version import VERSION
from scripts.folders import ROOT
from simulator import main
from simulator.campaigns import campaign, cover
from simulator.campaigns.campaign import Failure, Task
from simulator.campaigns.shrink import Shrunk
from simulator.faults.parameters import Parameters


def test_run_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["run", "--first", "2", "--seeds", "2", "--replicas", "4"]) == 0
    printed = capsys.readouterr().out
    for name in ("seeds", "events per second", "views changed", "coverage cells", "fault: "):
        assert name in printed


def test_a_violation_prints_the_command_that_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_task(task: Task) -> Failure:
        return Failure(task.seed, task.replicas, 17, "1 agreement", "r1 at 3", task.is_directed)

    monkeypatch.setattr(campaign, "run_task", run_task)
    assert main.main(["run", "--first", "5", "--seeds", "1", "--replicas", "7"]) == 1
    printed = capsys.readouterr().out
    assert "seed 5, step 17: invariant 1 agreement: r1 at 3" in printed
    assert "python -m simulator replay 5 --replicas 7" in printed
    assert f"these are of version {VERSION}" in printed
    monkeypatch.setattr("simulator.main.long_gate", lambda: [Task(8, is_directed=True)])
    assert main.main(["gate", "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "python -m simulator replay 8 --directed" in printed
    assert "cells that were never reached, without a reason:" in printed
    assert "goals that were never reached:" in printed


@pytest.fixture(name="cover_file")
def fixture_cover_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gate of three runs, of which one reaches nothing of its own, and a file for its cover."""
    tasks = [Task(3, 4), Task(3, 4), Task(1, is_directed=True)]
    monkeypatch.setattr(main, "long_gate", lambda: tasks)
    monkeypatch.setattr(cover, "FILE", tmp_path / "cover.json")
    return tmp_path / "cover.json"


def test_cover_writes_runs_that_reach_what_the_gate_does(
    cover_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main.main(["cover", "--processes", "1"]) == 1
    assert not cover_file.exists(), "these reach too little"
    monkeypatch.setattr(main, "_is_covered", lambda summary: True)
    assert main.main(["gate", "--processes", "1"]) == 0
    assert not cover_file.exists()
    assert main.main(["cover", "--processes", "1"]) == 0
    assert cover.read_cover(cover_file) == [Task(3, 4), Task(1, is_directed=True)]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{cover_file}: 2 of 3 runs, ")


def test_a_gate_that_breaks_an_invariant_writes_no_cover(
    cover_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(3, 4, 17, "1 agreement", "r1 at 3")
    monkeypatch.setattr(campaign, "run_task", lambda task: failure)
    monkeypatch.setattr(main, "_is_covered", lambda summary: True)
    assert main.main(["cover", "--processes", "1"]) == 1
    assert not cover_file.exists()


def test_replay_prints_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["replay", "4", "--replicas", "4"]) == 0
    printed = capsys.readouterr().out
    assert "r0 starts, executed 0" in printed
    assert "no violation" in printed.splitlines()[-1]


def test_what_shrink_prints_is_replayed_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shrunk(parameters: Parameters, **_: object) -> Shrunk:
        small = msgspec.structs.replace(
            parameters, gateways=1, only_faults=("crash #1", "lost r0>r1 #3")
        )
        return Shrunk(small, "invariant 1 agreement: r1 at 3", 17, 40)

    monkeypatch.setattr(main, "shrink", shrunk)
    assert main.main(["shrink", "4", "--replicas", "4"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "invariant 1 agreement: r1 at 3"
    file = tmp_path / "small.json"
    file.write_text(printed[-1])
    assert main.main(["replay", "4", "--parameters", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "only_faults=('crash #1', 'lost r0>r1 #3')" in printed[0]
    assert "no violation" in printed[-1]


def test_a_file_that_holds_no_parameters_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text('{"replicas": "four"}')
    assert main.main(["replay", "4", "--parameters", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m simulator show state-transfer --all | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("A replica that was away")
    assert done.stderr == ""
