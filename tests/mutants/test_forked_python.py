"""Forks of one Python: they run as a new one would, import anew, and leave nothing behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mutants.forked_python import ForkedPython, main
from tests.waiting import block_until

SECONDS_MAX = 100


@pytest.fixture(name="python", scope="module")
def fixture_python() -> Iterator[ForkedPython]:
    with ForkedPython(["json", "msgspec"]) as python:
        yield python


def run(
    python: ForkedPython, folder: Path, text: str, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a module with this text in that folder."""
    (folder / "subject.py").write_text(text)
    return python.run("subject", arguments, folder, {**os.environ, **variables}, SECONDS_MAX)


def test_it_has_the_arguments_environment_folder_and_output_of_a_new_one(
    python: ForkedPython, tmp_path: Path
) -> None:
    text = (
        "import os, sys\n"
        "print(__name__, sys.argv[1:], os.getcwd(), os.environ['ONE'], sys.dont_write_bytecode)\n"
        "print('aside', repr(sys.stdin.read()), file=sys.stderr)\n"
    )
    done = run(python, tmp_path, text, "a", "b c", ONE="1", PYTHONDONTWRITEBYTECODE="")
    assert done.stdout == f"__main__ ['a', 'b c'] {tmp_path} 1 False\n"
    assert done.stderr == "aside ''\n"
    done = run(python, tmp_path, text, ONE="2", PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout == f"__main__ [] {tmp_path} 2 True\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise OSError('no')", 1, "OSError: no\n"),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'last')", 0, "last"),
    ],
)
def test_it_ends_as_a_new_one_does(
    python: ForkedPython, tmp_path: Path, text: str, code: int, said: str
) -> None:
    done = run(python, tmp_path, text)
    assert done.returncode == code
    assert done.stderr.endswith(said)


def test_each_imports_anew_from_its_own_folder(python: ForkedPython, tmp_path: Path) -> None:
    """A package of the same name as one of ours, once broken and once not."""
    for number in range(3):
        folder = tmp_path / str(number)
        (folder / "pbft").mkdir(parents=True)
        (folder / "pbft" / "__init__.py").write_text(f"NUMBER = {number}\n")
        done = run(python, folder, "import msgspec, pbft; print(pbft.NUMBER, pbft.__file__)")
        assert done.stdout == f"{number} {folder}/pbft/__init__.py\n"


def test_a_module_of_ours_that_it_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"could not import these anew: .*tests"):
        main(["json"])


def test_a_library_that_is_not_there_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        ForkedPython(["nothing_of_this_name"]) as python,
        pytest.raises(RuntimeError, match="what forks has ended, exit code 1"),
    ):
        run(python, tmp_path, "")
    assert "No module named 'nothing_of_this_name'" in capfd.readouterr().err


ENDLESS = """
import subprocess, time
from pathlib import Path

child = subprocess.Popen(["sleep", "1000"])
Path("draft").write_text(str(child.pid))
Path("draft").rename("child")
while True:
    time.sleep(1)
"""


def test_what_takes_too_long_is_killed_with_all_that_it_started(
    python: ForkedPython, tmp_path: Path
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    seconds = 0.5
    # A busy machine may not have begun within the first.
    while not (tmp_path / "child").exists():
        seconds *= 2
        with pytest.raises(subprocess.TimeoutExpired):
            python.run("endless", [], tmp_path, os.environ, seconds)
    child = int((tmp_path / "child").read_text())
    block_until(lambda: not is_alive(child), "the child of what was killed ends")
    assert run(python, tmp_path, "print(1)").stdout == "1\n", "the next one runs"


def test_what_runs_is_killed_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    with ThreadPoolExecutor(1) as pool:
        with ForkedPython([]) as python:
            running = pool.submit(python.run, "endless", [], tmp_path, os.environ, SECONDS_MAX)
            block_until((tmp_path / "child").exists, "it runs")
        child = int((tmp_path / "child").read_text())
        block_until(lambda: not is_alive(child), "the child of what was killed ends")
        assert running.exception() is not None


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody has reaped does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
