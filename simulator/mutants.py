"""Does anybody notice? Breaks a copy of the source on purpose and lets the simulator look for it.

Each mutant is a textual patch of a real source file. It is applied to a copy in a temporary
folder; there, seeds are run in another process until one breaks an invariant, or the directed
test that is named is run. What nobody notices is a hole in the checkers, or an equivalent.
A seed or a test that fails in a copy without any mutant proves nothing: those are looked for first.
Mutants are tried side by side, each in one process, with the seeds first that noticed it before.
Their copies are links to one copy that has Python's bytecode: to make that anew for each was most
of their time.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
# What seeds need, and what directed tests need too.
FOR_SEEDS = ("pbft", "ci", "common", "simulator")
FOR_TESTS = ("node", "client", "scripts", "tests", "example-config", "pyproject.toml")
TIMEOUT_SECONDS = 1800
# With the plugins alone that tests use: to load all that are installed takes longer than a test.
PLUGINS = ("pytest_asyncio.plugin", "pytest_aiohttp.plugin", "pytest_timeout", "xdist.plugin")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"-p{name}" for name in PLUGINS))


class PatchDoesNotApply(Exception):
    """The old text is not exactly once in the file: the source has changed."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. old must be in `file` exactly once, and becomes new.

    replicas: the size of the network; None: of any size, as drawn.
    seeds: those that noticed it when this was written, where few do: they are tried first.
    test: a directed test that notices it, where seeds do so too rarely or cannot: a file of them,
        or one of a file, where the others take long; as an argument of pytest.
    equivalent: the proof that it changes nothing that matters; then nobody need notice.
    """

    name: str
    file: str
    old: str
    new: str
    replicas: int | None = 4
    seeds: tuple[int, ...] = ()
    test: str = ""
    equivalent: str = ""


def patched(mutant: Mutant) -> str:
    """The text of the mutant's file, broken. Raises PatchDoesNotApply."""
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise PatchDoesNotApply(f"{mutant.name}: {text.count(mutant.old)} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


def run_mutants(
    mutants: Sequence[Mutant], seeds: range, processes: int
) -> Iterator[tuple[Mutant, str | None]]:
    """Each mutant with who noticed it (a seed and its invariant, or a test); None: nobody.

    processes: how many mutants are tried at a time. They come in their order.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pbft-ci-mutants-") as folder,
        ThreadPoolExecutor(processes) as pool,
    ):
        source = _copied(Path(folder), (*FOR_SEEDS, *FOR_TESTS))
        _write_bytecode(source, mutants)
        killers = pool.map(partial(_killer, source=source, seeds=seeds), mutants)
        yield from zip(mutants, killers, strict=True)


def unbroken(seeds: range, processes: int) -> str | None:
    """What the source as it is breaks in these seeds: then they prove nothing about a mutant."""
    with tempfile.TemporaryDirectory(prefix="pbft-ci-mutant-") as folder:
        copy = _copied(Path(folder), FOR_SEEDS)
        return _killing_seed("the source", 4, copy, seeds, processes)


def failing_tests(mutants: Sequence[Mutant]) -> list[str]:
    """Of the tests that these name, those that fail without any mutant, as pytest tells them.

    In a copy as a mutant has it, which lacks what is not in FOR_SEEDS and FOR_TESTS.
    """
    if not (tests := _named_tests(mutants)):
        return []
    with tempfile.TemporaryDirectory(prefix="pbft-ci-mutant-") as folder:
        done = _pytest(_copied(Path(folder), (*FOR_SEEDS, *FOR_TESTS)), *tests)
    if done.returncode == 0:
        return []
    said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return [line for line in said if line.startswith(("FAILED", "ERROR"))] or said[-5:]


def _named_tests(mutants: Sequence[Mutant]) -> list[str]:
    return sorted({mutant.test for mutant in mutants if mutant.test and not mutant.equivalent})


def _write_bytecode(source: Path, mutants: Sequence[Mutant]) -> None:
    """Have all imported there that the mutants' seeds and tests import. A failure shows later."""
    _run(["-m", "simulator", "--help"], source, writes_bytecode=True)
    if tests := _named_tests(mutants):
        _run([*PYTEST, "--collect-only", *tests], source, writes_bytecode=True)


def _broken_copy(mutant: Mutant, source: Path, folder: Path) -> Path:
    text = patched(mutant)
    shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
    file = folder / mutant.file
    # The links lead to the source, which is every mutant's.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    file.unlink()
    file.write_text(text)
    return folder


def _killer(mutant: Mutant, source: Path, seeds: range) -> str | None:
    if mutant.equivalent:
        patched(mutant)
        return None
    with tempfile.TemporaryDirectory(prefix="pbft-ci-mutant-") as folder:
        copy = _broken_copy(mutant, source, Path(folder))
        if mutant.test:
            return _killing_test(mutant, copy)
        for seed in mutant.seeds:
            known = range(seed, seed + 1)
            if killer := _killing_seed(mutant.name, mutant.replicas, copy, known, 1):
                return killer
        return _killing_seed(mutant.name, mutant.replicas, copy, seeds, 1)


def _copied(folder: Path, rooms: Sequence[str]) -> Path:
    for name in rooms:
        _copy(ROOT / name, folder / name)
    return folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy(source, target)


def _killing_seed(
    name: str, replicas: int | None, copy: Path, seeds: range, processes: int
) -> str | None:
    size = [] if replicas is None else ["--replicas", str(replicas)]
    arguments = ["run", "--first", str(seeds.start), "--seeds", str(len(seeds)), "--stop", *size]
    done = _run(["-m", "simulator", *arguments, "--processes", str(processes)], copy)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
    if not lines:
        ended = f"exit code {done.returncode}"
        raise RuntimeError(f"{name} does not run, {ended}: {done.stderr.strip()[-400:]}")
    return lines[0][:160]


def _killing_test(mutant: Mutant, copy: Path) -> str | None:
    done = _pytest(copy, "-x", mutant.test)
    if done.returncode > 1:
        raise RuntimeError(f"{mutant.name}: {mutant.test} does not run: {done.stdout[-400:]}")
    return f"test {mutant.test}" if done.returncode == 1 else None


def _pytest(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run([*PYTEST, *arguments], copy)


def _run(
    arguments: list[str], folder: Path, *, writes_bytecode: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "" if writes_bytecode else "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
