"""The import tables of docs/ARCHITECTURE.md hold."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
PURE_ROOMS = {"pbft", "ci"}
# Modules of the standard library without IO, clock or chance: all that the pure rooms may use.
PURE_STANDARD = {
    "base64", "binascii", "collections", "dataclasses", "enum", "functools", "hashlib", "itertools",
    "json", "operator", "re", "types", "typing",
}  # fmt: skip


def _rows(title: str) -> list[list[str]]:
    """The cells of the table that starts with this header cell."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", ARCHITECTURE, re.MULTILINE)
    assert table, f"docs/ARCHITECTURE.md has no table '{title}'"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split(",")} - {"-", ""}


ROOMS = {room: (_names(rooms), _names(packages)) for room, rooms, packages in _rows("room")}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_the_table_allows(room: str) -> None:
    rooms, packages = ROOMS[room]
    breaches = []
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"the room {room} is empty"
    for path in files:
        for line, name in _imports(path):
            top = name.split(".")[0]
            if top == room or top in rooms or top in packages:
                continue
            if top in sys.stdlib_module_names and (room not in PURE_ROOMS or top in PURE_STANDARD):
                continue
            breaches.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {top}")
    assert not breaches, "\n".join(breaches)


def test_every_room_is_in_the_table() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(ROOMS)


def test_pbft_imports_downward_only() -> None:
    level = {module: int(line) for line, modules in _rows("line") for module in _names(modules)}
    modules = {path.stem for path in (ROOT / "pbft").glob("*.py")} - {"__init__"}
    assert modules == set(level), "docs/ARCHITECTURE.md lists each module of pbft once"
    breaches = []
    for module in sorted(modules):
        path = ROOT / "pbft" / f"{module}.py"
        for line, name in _imports(path):
            parts = name.split(".")
            # `from pbft import x` is an import of pbft.x
            if parts[0] == "pbft" and len(parts) > 1 and level[parts[1]] >= level[module]:
                breaches.append(f"pbft/{module}.py:{line}: {module} may not import {parts[1]}")
    assert not breaches, "\n".join(breaches)
