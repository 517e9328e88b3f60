"""The command line: what it runs, prints, writes, and when it fails."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from bench import main as program
from bench.benches import BENCHES, Bench
from bench.context import Context
from bench.figures import Spread
from bench.network import BenchFailed
from bench.rows import Row


async def _good(context: Context) -> list[Row]:
    with context.folder("good") as folder:
        (folder / "file").write_text("something")
        context.say("working")

        async def one() -> float:
            return 1.0

        ours, _ = await context.pairs(3, one, one)
    return [
        Row(bench="good", what="good", against="itself", ratio=Spread(1.0, 1.0, 1.0, len(ours)))
    ]


async def _bad(context: Context) -> list[Row]:
    raise BenchFailed("the reason")


async def _broken(context: Context) -> list[Row]:
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def benches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that take no time."""
    found = {
        name: Bench(name=name, what=name, run=run, needs_docker=name == "bad")
        for name, run in {"good": _good, "bad": _bad, "broken": _broken}.items()
    }
    monkeypatch.setattr(program, "BENCHES", found)
    # other tests may have benches in the checkout's
    monkeypatch.setattr(program, "RUN", tmp_path)


def test_a_good_run_prints_a_table_writes_json_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    assert program.main(["good", "--quick", "--json", str(file)]) == 0
    captured = capsys.readouterr()
    assert "| good " in captured.out
    assert "good: working" in captured.err
    assert "good: pair 3 of 3" in captured.err
    report = json.loads(file.read_bytes())
    assert report["is_quick"] is True
    assert report["command"] == f"python -m bench good --quick --json {file}"
    assert report["rows"][0]["ratio"]["median"] == 1.0
    assert not list(tmp_path.glob("bench-*"))


async def _waiting(context: Context) -> list[Row]:
    with context.folder("waiting"):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)
    raise AssertionError("it was not stopped")


def test_asked_to_stop_it_cleans_up_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = Bench(name="waiting", what="waiting", run=_waiting)
    monkeypatch.setattr(program, "BENCHES", {"waiting": waiting})
    assert program.main(["waiting", "--quick"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(tmp_path.glob("bench-*"))


def test_one_that_fails_is_named_and_the_others_are_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["all", "--quick"]) == 1
    captured = capsys.readouterr()
    assert "BenchFailed: the reason" in captured.out
    assert "ZeroDivisionError" in captured.err
    assert "| good " in captured.out


def test_without_docker_what_needs_it_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["good", "bad", "--quick", "--without-docker"]) == 0
    assert "left out" in capsys.readouterr().out


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["god"]) == 2
    assert "no such bench: god; there are good, bad, broken, and all" in capsys.readouterr().out


def test_the_list_has_every_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "good",
        "bad",
        "broken",
    ]


def test_the_names_are_those_of_the_benches() -> None:
    assert all(name == bench.name for name, bench in BENCHES.items())
