"""simulator.campaigns.compiled: the copy runs the same, and what can be compiled in it is."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from simulator.campaigns.compiled import CompilerFailed, compile_modules, write_copy
from simulator.main import main

SEEDS = ("--first", "1040000", "--seeds", "2")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The folder of a copy, and what is to be compiled in it."""
    folder = tmp_path_factory.mktemp("compiled") / "copy"
    return folder, write_copy(folder)


def _hashes(folder: Path) -> str:
    """What `hash` prints there."""
    return subprocess.run(
        [sys.executable, "-m", "simulator", "hash", *SEEDS],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": ""},
    ).stdout


@pytest.fixture(scope="module")
def hashes_of_copy(copy: tuple[Path, list[Path]]) -> str:
    """What `hash` prints in the copy before anything of it is compiled."""
    return _hashes(copy[0])


def _need_compiler() -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    has_setuptools = importlib.util.find_spec("setuptools") is not None
    if shutil.which("gcc") is None or not header.exists() or not has_setuptools:
        pytest.skip("gcc, setuptools or the header files of this Python are not here")


def test_the_copy_runs_the_same(hashes_of_copy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hash", *SEEDS]) == 0
    assert hashes_of_copy == capsys.readouterr().out


def test_no_struct_is_left_where_the_compiler_comes(copy: tuple[Path, list[Path]]) -> None:
    folder, modules = copy
    expected = ("pbft/core.py", "ci/application.py", "simulator/machine/process.py")
    assert set(map(Path, expected)) <= set(modules)
    for module in modules:
        for node in ast.walk(ast.parse((folder / module).read_text())):
            if isinstance(node, ast.ClassDef):
                assert "Struct" not in ast.unparse(ast.Tuple(node.bases, ast.Load())), module
    assert "class Settings(msgspec.Struct" in (folder / "pbft/core_structs.py").read_text()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_some_of_it_compiled_runs_the_same(
    copy: tuple[Path, list[Path]], hashes_of_copy: str
) -> None:
    """All of it takes minutes."""
    _need_compiler()
    folder, modules = copy
    compile_modules(folder, [path for path in modules if path.stem in ("timers", "scheduler")])
    assert (
        len([*folder.glob("pbft/timers.*.so"), *folder.glob("simulator/world/scheduler.*.so")]) == 2
    )
    assert _hashes(folder) == hashes_of_copy


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    _need_compiler()
    (tmp_path / "wrong.py").write_text("x: int = 'no number'\n")
    with pytest.raises(CompilerFailed, match="Incompatible types"):
        compile_modules(tmp_path, [Path("wrong.py")])


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
