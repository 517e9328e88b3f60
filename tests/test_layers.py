"""The import tables of docs/ARCHITECTURE.md hold.

A room is a package: `node/storage` is one, and so is `node` with the modules beside its rooms.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
# Modules of the standard library without IO, clock or chance: all that pure modules may use.
PURE_STANDARD = {
    "base64", "binascii", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib",
    "heapq", "itertools",
    "json", "operator", "re", "types", "typing",
}  # fmt: skip
# Beside them, for the pure modules of the shells, which read and write text.
PURE_FOR_TEXT = {
    "codecs", "contextlib", "copy", "datetime", "difflib", "email.utils", "html", "ipaddress",
    "math", "statistics", "unicodedata", "urllib.parse", "xml.parsers", "xml.sax.saxutils",
}  # fmt: skip
# PyYAML is given text, never a file.
PURE_PACKAGES = {"msgspec", "yaml"}
# In the first paragraph of a module's docstring: it claims to be pure.
CLAIM = re.compile(r"\bPure\b")


def _rows(title: str) -> list[list[str]]:
    """The cells of the table that starts with this header cell."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", ARCHITECTURE, re.MULTILINE)
    assert table, f"docs/ARCHITECTURE.md has no table '{title}'"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split(",")} - {"-", ""}


ROOMS = {room: (_names(rooms), _names(packages)) for room, rooms, packages, _ in _rows("room")}
PURE_ROOMS = {room for room, _, _, is_pure in _rows("room") if is_pure == "pure"}
TOP_FOLDERS = {room.split("/")[0] for room in ROOMS}


def _modules() -> dict[str, Path]:
    """Every module of the rooms by its dotted name; a package is its `__init__`."""
    found = {}
    for top_folder in TOP_FOLDERS:
        for path in sorted((ROOT / top_folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _room(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


@functools.cache
def _imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Each line that imports, with the module: as long a name as there is a module for."""
    return tuple(_each_import(path))


def _each_import(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno}: imports are absolute"
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield node.lineno, longer if longer in MODULES else node.module


@functools.cache
def _is_claimed_pure(path: Path) -> bool:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return _room(path) in PURE_ROOMS or bool(CLAIM.search(docstring.split("\n\n")[0]))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_the_table_allows(room: str) -> None:
    rooms, packages = ROOMS[room]
    breaches = []
    files = sorted((ROOT / room).glob("*.py"))
    assert files, f"the room {room} is empty"
    for path in files:
        for line, name in _imports(path):
            place = f"{path.relative_to(ROOT)}:{line}"
            if name in MODULES:
                other = _room(MODULES[name])
                if other not in {room, *rooms}:
                    breaches.append(f"{place}: {room} may not import {other}")
            elif (top := name.split(".")[0]) not in {*packages, *sys.stdlib_module_names}:
                breaches.append(f"{place}: {room} may not import {top}")
    assert not breaches, "\n".join(breaches)


def test_the_table_allows_nothing_that_nobody_needs() -> None:
    """A row that allows more than is used hides the next breach."""
    needless = []
    for room, (rooms, packages) in ROOMS.items():
        names = {name for path in (ROOT / room).glob("*.py") for _, name in _imports(path)}
        used_rooms = {_room(MODULES[name]) for name in names if name in MODULES}
        used_packages = {name.split(".")[0] for name in names if name not in MODULES}
        needless += [f"{room}: {name}" for name in sorted(rooms - used_rooms)]
        needless += [f"{room}: {name}" for name in sorted(packages - used_packages)]
    assert not needless, "nothing imports this:\n" + "\n".join(needless)


def test_every_room_is_in_the_table() -> None:
    # Not below `run/` and `.venv/`: files come and go there while tests run.
    top_folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    packages = [
        path.parent for folder in top_folders for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert {package.relative_to(ROOT).as_posix() for package in packages} == set(ROOMS)


def _cycle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_rooms_import_each_other_in_a_circle() -> None:
    assert _cycle({"a": ["b"], "b": ["c"], "c": ["a"]}), "a circle is found"
    cycle = _cycle({room: rooms for room, (rooms, _) in ROOMS.items()})
    assert cycle is None, " -> ".join(cycle or [])


def test_what_is_called_pure_imports_nothing_with_io() -> None:
    """Also not by way of another module of ours: what it imports has to be pure as well.

    One test, for every worker would have to read all modules to collect a test for each.
    """
    pure = sorted(name for name, path in MODULES.items() if _is_claimed_pure(path))
    assert "pbft.core" in pure
    breaches = [breach for module in pure for breach in _impure_imports(module)]
    assert not breaches, "called pure:\n" + "\n".join(breaches)


def _impure_imports(module: str) -> Iterator[str]:
    allowed = PURE_STANDARD | PURE_PACKAGES
    if _room(MODULES[module]) not in PURE_ROOMS:
        allowed |= PURE_FOR_TEXT
    for line, name in _imports(MODULES[module]):
        place = f"{MODULES[module].relative_to(ROOT)}:{line}"
        if name in MODULES:
            if not _is_claimed_pure(MODULES[name]):
                yield f"{place}: {name} does not say that it is pure"
        elif not {name, name.split(".")[0]} & allowed:
            yield f"{place}: {name} does IO, or reads a clock or chance"


def test_pbft_imports_downward_only() -> None:
    level = {module: int(line) for line, modules in _rows("line") for module in _names(modules)}
    modules = {path.stem for path in (ROOT / "pbft").glob("*.py")} - {"__init__"}
    assert modules == set(level), "docs/ARCHITECTURE.md lists each module of pbft once"
    breaches = []
    for module in sorted(modules):
        for line, name in _imports(ROOT / "pbft" / f"{module}.py"):
            parts = name.split(".")
            if parts[0] == "pbft" and len(parts) > 1 and level[parts[1]] >= level[module]:
                breaches.append(f"pbft/{module}.py:{line}: {module} may not import {parts[1]}")
    assert not breaches, "\n".join(breaches)
