"""A function that is in use gets other code, however it is held; anything else is refused."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.mutants.code_patch import NotOfFunctions, all_functions, changed_code, give_code

TEXT = """
import contextlib
import functools

LIMIT = 2

def plain(value, factor=3):
    return value * factor

def wrap(function):
    @functools.wraps(function)
    def wrapped(*arguments):
        return [function(*arguments)]
    return wrapped

@wrap
def decorated(value):
    return value + 1

@contextlib.contextmanager
def managed():
    yield "held"

class Thing:
    kept = plain

    @property
    def name(self):
        return "thing"

    @staticmethod
    def made():
        return [number for number in range(LIMIT)]

SQUARES = [number * number for number in range(LIMIT)]
"""
FILE = "a_subject.py"


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("value * factor", "value + factor", "plain(4) == Thing.kept(4) == 7"),
        ("return value * factor", "\n    # lines move\n    return 0", "plain(4) == 0"),
        ("value + 1", "value + 2", "decorated(1) == [3]"),
        ("[function(*arguments)]", "function(*arguments)", "decorated(1) == 2"),
        ('"held"', '"other"', "managed().__enter__() == 'other'"),
        ('"thing"', '"other"', "Thing().name == 'other'"),
        ("[number for number", "[-number for number", "Thing.made() == [0, -1]"),
    ],
)
def test_who_holds_a_function_has_its_new_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, changed: str
) -> None:
    file = tmp_path / FILE
    file.write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    # one that another case imported is another file's
    monkeypatch.delitem(sys.modules, "a_subject", raising=False)
    names = vars(importlib.import_module("a_subject"))
    assert not eval(changed, names)
    broken = TEXT.replace(old, new, 1)
    assert give_code(all_functions(), str(file), changed_code(TEXT, broken, str(file)))
    assert eval(changed, names)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 2", "LIMIT = 3"),
        ("factor=3", "factor=4"),
        ("@wrap", "@functools.cache"),
        ("kept = plain", "kept = wrap"),
        ("[number * number", "[number + number"),
        ("def made():", "def other():"),
        ("@property\n", "@property\n    def more(self): return 1\n    @property\n"),
    ],
)
def test_what_runs_while_a_module_is_imported_is_refused(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(NotOfFunctions, match=FILE):
        changed_code(TEXT, TEXT.replace(old, new), FILE)


def test_lines_and_comments_change_nothing() -> None:
    assert changed_code(TEXT, TEXT.replace("LIMIT = 2", "# two\nLIMIT = 2"), FILE) == {}
