"""Style that a machine can check: openings, lengths, names, marks left behind, nothing secret."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DOCKER, LONGEST

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 480
ABBREVIATIONS = {"cfg", "ctx", "msg", "req", "resp", "tmp", "num", "cnt", "idx", "mgr", "conf"}


def _tracked(pattern: str) -> list[Path]:
    """Files of the checkout: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


FILES = _tracked("*.py")
SOURCES = [path for path in FILES if "tests" not in path.relative_to(ROOT).parts]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_a_sentence_that_says_what_it_holds(path: Path) -> None:
    if path.read_text().strip():
        assert ast.get_docstring(_parse(path)), "no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert path.read_text().count("\n") <= FILE_LINES_MAX
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name}: {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(path: Path) -> None:
    module = _parse(path)
    for node in [
        *module.body,
        *(n for c in module.body if isinstance(c, ast.ClassDef) for n in c.body),
    ]:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} (line {node.lineno})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_words(path: Path) -> None:
    for node in ast.walk(_parse(path)):
        name = getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(node, ast.Name | ast.arg) and isinstance(name, str):
            assert not ABBREVIATIONS & set(name.split("_")), f"{name} (line {node.lineno})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_marks_are_left_behind(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not re.search(r"#.*\b(TO" "DO|FIX" "ME|XX" "X|HA" "CK)\b", line), f"line {number}"


def test_no_module_is_named_after_the_standard_library() -> None:
    for path in SOURCES:
        if path.stem not in {"__init__", "__main__"}:
            assert path.stem not in sys.stdlib_module_names, path


def test_nothing_secret_or_generated_is_in_the_checkout() -> None:
    for path in _tracked("."):
        name = path.relative_to(ROOT).as_posix()
        assert not name.startswith(("run/", ".venv/")), name
        assert path.suffix not in {".pem", ".sqlite3", ".log", ".pid", ".jsonl"}, name
        if path.stat().st_size < 1_000_000 and path.suffix in {".py", ".md", ".yml", ".sh", ""}:
            text = path.read_text(errors="replace")
            assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY-----\s+[\w+/=]{20}", text), name


def test_each_test_folder_is_a_package() -> None:
    for folder in {path.parent for path in _tracked("tests/*.py")}:
        assert (folder / "__init__.py").is_file(), folder


def test_what_is_to_begin_first_is_there() -> None:
    """Else a file that was renamed would begin last."""
    assert all((ROOT / scope).exists() for scope in LONGEST if scope != DOCKER)
