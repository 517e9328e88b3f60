"""Every row of the five systems has exactly one test, which begins with the row's words."""

import ast
from pathlib import Path

import pytest

from scripts.folders import ROOT
from tests.seeds.rows import ELSEWHERE, ROWS

FOLDER = Path(__file__).parent


def functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


def test_every_module_of_a_seed_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("test_s[0-9]*.py")} == set(ROWS)


@pytest.mark.parametrize("module", ROWS)
def test_every_row_has_one_test_that_quotes_it(module: str) -> None:
    found = functions(module)
    assert sorted(function.name for function in found) == sorted(ROWS[module])
    for function in found:
        said = (ast.get_docstring(function) or "").splitlines()[0]
        assert said.rstrip(".") == ROWS[module][function.name], function.name


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_what_is_proved_elsewhere_is_there(place: str) -> None:
    file, _, function = place.partition("::")
    assert (ROOT / file).exists()
    assert not function or f"def {function}(" in (ROOT / file).read_text()
