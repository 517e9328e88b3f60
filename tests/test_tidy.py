"""Style that a machine can check and ruff does not: names, nothing secret in the checkout.

pyproject.toml has what ruff checks.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parent.parent
POSITIONAL_MAX = 3
# More of them, and why.
MORE_POSITIONAL = {
    "common/config_error.py: at": "the parts of an error's line, in the order of the line",
    "common/links/link.py: __init__": "aiohttp calls it",
}
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


def _sources() -> Iterator[tuple[str, ast.Module]]:
    """Every file of Python but the tests: its name and its tree."""
    for path in _tracked("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if "tests" not in path.relative_to(ROOT).parts:
            yield name, ast.parse(path.read_text(), name)


def test_public_methods_of_private_classes_have_a_docstring() -> None:
    """Ruff's D102 looks at public classes only."""
    offenders = [
        f"{name}:{method.lineno}: {owner.name}.{method.name}"
        for name, module in _sources()
        for owner in module.body
        if isinstance(owner, ast.ClassDef) and owner.name.startswith("_")
        for method in owner.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if not method.name.startswith("_") and not ast.get_docstring(method)
    ]
    assert not offenders, "\n".join(offenders)


def test_names_are_words() -> None:
    offenders = []
    for name, module in _sources():
        for node in ast.walk(module):
            word = getattr(node, "id", None) or getattr(node, "arg", None)
            if (
                isinstance(node, ast.Name | ast.arg)
                and isinstance(word, str)
                and ABBREVIATIONS & set(word.split("_"))
            ):
                offenders.append(f"{name}:{node.lineno}: {word}")
    assert not offenders, "\n".join(offenders)


def test_no_more_than_three_parameters_are_given_by_position() -> None:
    """A reader of a call cannot name the fourth; ruff's PLR0917 is no stable rule yet."""
    offenders = set()
    for name, module in _sources():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                positional = [
                    argument.arg for argument in (*node.args.posonlyargs, *node.args.args)
                ]
                if (
                    len([word for word in positional if word not in ("self", "cls")])
                    > POSITIONAL_MAX
                ):
                    offenders.add(f"{name}: {node.name}")
    assert offenders == MORE_POSITIONAL.keys()


def test_nothing_secret_or_generated_is_in_the_checkout() -> None:
    offenders = []
    for path in _tracked("."):
        name = path.relative_to(ROOT).as_posix()
        is_generated = name.startswith(("run/", ".venv/"))
        if is_generated or path.suffix in {".pem", ".sqlite3", ".log", ".pid", ".jsonl"}:
            offenders.append(name)
        elif path.stat().st_size < 1_000_000 and path.suffix in {".py", ".md", ".yml", ".sh", ""}:
            text = path.read_text(errors="replace")
            if re.search(r"BEGIN [A-Z ]*PRIVATE KEY-----\s+[\w+/=]{20}", text):
                offenders.append(f"{name}: a private key")
    assert not offenders, "\n".join(offenders)


def test_what_is_to_begin_first_is_there() -> None:
    """Else a file that was renamed would begin last."""
    missing = [scope for scope in LONGEST if not (ROOT / scope).exists()]
    assert not missing
