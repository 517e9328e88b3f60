"""A copy of what is simulated that runs faster, for campaigns of many hours: compiled by mypyc.

The same runs come of the same seeds (`python -m simulator hash` shows it, and tells nothing of the
compiler), so what fails in the copy is replayed here. mypyc cannot compile the classes that
msgspec's metaclass makes: in the copy they, and what they need of their module, stand in a module
of their own beside it, and stay as they are.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pbft", "ci", "driver", "common", "simulator")
COMPILED_ROOMS = ("pbft", "ci", "driver", "simulator")
# Its class inherits from one that is written in C; the others run no seeds.
LEFT_AS_THEY_ARE = frozenset(
    f"simulator.{name}"
    for name in [
        "lab.bsmr",
        "campaigns.byzzfuzz",
        "campaigns.campaign",
        "world.seeded_random",
        "campaigns.compiled",
        "campaigns.cover",
        "lab.equivocation",
        "campaigns.explore",
        "lab.lab_commands",
        "main",
        "checkers.comparable_state",
        "lab.scenario_page",
        "lab.scenarios",
        "lab.show",
        "campaigns.shrink",
        "campaigns.source_commit",
        "campaigns.transcripts",
        "campaigns.twins",
    ]
)
STRUCT = "Struct"
LAST_LINES = 20
SUFFIX = "_structs"
SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify({modules!r}, opt_level="3", debug_level="0", multi_file=True)
setup(name="compiled", packages=[], py_modules=[], ext_modules=modules)
"""


class CompilerFailed(Exception):
    """mypyc or the C compiler ended with an error; the text is what they said last."""


def write_compiled(folder: Path) -> int:
    """Make the copy in a new folder and compile it; how many modules. Takes minutes.

    Raises OSError where the folder is there or cannot be written, CompilerFailed.
    """
    modules = write_copy(folder)
    compile_modules(folder, modules)
    return len(modules)


def compile_modules(folder: Path, modules: Sequence[Path]) -> None:
    """Compile these modules of a copy, in place. Raises OSError, CompilerFailed."""
    (folder / "setup.py").write_text(SETUP.format(modules=[str(path) for path in modules]))
    ended = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise CompilerFailed("\n".join(ended.stdout.splitlines()[-LAST_LINES:]))


def write_copy(folder: Path) -> list[Path]:
    """The rooms with their Structs moved; what is to be compiled, relative to the folder.

    Raises OSError.
    """
    folder.mkdir(parents=True)
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    trees = {
        path: ast.parse(path.read_text())
        for room in ROOMS
        for path in (folder / room).rglob("*.py")
    }
    structs = _struct_names(trees.values())
    compiled = []
    for path, tree in sorted(trees.items()):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts)
        if parts[0] not in COMPILED_ROOMS or path.stem.startswith("__"):
            continue
        if name not in LEFT_AS_THEY_ARE and _move_structs(path, name, tree, structs=structs):
            compiled.append(path.relative_to(folder))
    return compiled


def _struct_names(trees: Iterable[ast.Module]) -> set[str]:
    """The names of all classes that inherit from Struct, however far away."""
    bases = {
        node.name: {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases}
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    found = {STRUCT}
    while more := {name for name, names in bases.items() if names & found} - found:
        found |= more
    return found


def _move_structs(path: Path, name: str, tree: ast.Module, *, structs: set[str]) -> bool:
    """Move them out of this module; whether anything is left that can be compiled."""
    defined = _definitions(tree)
    moved = _needed(
        {n for n, d in defined.items() if isinstance(d, ast.ClassDef)} & structs, defined
    )
    if not moved:
        return True
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    leaving = [node for node in tree.body if any(defined[name] is node for name in moved)]
    staying = [node for node in tree.body if node not in leaving]
    if all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) for node in staying):
        return False
    names = ", ".join(f"{one} as {one}" for one in sorted(moved))
    (back,) = ast.parse(f"from {name}{SUFFIX} import {names}").body
    staying.insert(staying.index(imports[-1]) + 1, back)
    _write(path.with_name(f"{path.stem}{SUFFIX}.py"), [*imports, *leaving])
    _write(path, staying)
    return True


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """What defines each name of a module."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({t.id: node for t in targets if isinstance(t, ast.Name)})
    return found


def _needed(names: set[str], defined: Mapping[str, ast.stmt]) -> set[str]:
    """These names and all of the module that their definitions use."""
    found: set[str] = set()
    while names:
        found |= names
        used = {
            node.id
            for name in names
            for node in ast.walk(defined[name])
            if isinstance(node, ast.Name)
        }
        names = (used & defined.keys()) - found
    return found


def _write(path: Path, nodes: list[ast.stmt]) -> None:
    path.write_text("\n".join(ast.unparse(node) for node in nodes) + "\n")
