"""Does anybody notice? Breaks a copy of the source on purpose and lets the simulator look for it.

Each mutant is a textual patch of a real source file. It is applied to a copy in a temporary
folder; there, seeds are run in another process until one breaks an invariant, or the directed
test that is named is run. What nobody notices is a hole in the checkers, or an equivalent.
A seed or a test that fails in a source without any mutant proves nothing: those that are recorded
are looked for first, and a seed that a search finds is run without the mutant, too.
Mutants are tried side by side, each in one process, with the seeds first that noticed it before.
Their copies are links to one copy that has Python's bytecode, and their processes are forks of one
that has imported the libraries (`forked_python`): both were most of their time.
"""

import importlib.util
import os
import queue
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from simulator.campaigns.campaign import Failure, Task, run_task
from tests.leftovers import RUN_VARIABLE
from tests.mutants.forked_python import ForkedPython

ROOT = Path(__file__).resolve().parent.parent.parent
# What seeds need, and what directed tests need too.
FOR_SEEDS = ("pbft", "ci", "driver", "common", "simulator")
FOR_TESTS = ("node", "client", "scripts", "tests", "example-config", "pyproject.toml")
TIMEOUT_SECONDS = 1800
# With the plugins alone that tests use: to load all that are installed takes longer than a test.
PLUGINS = ("pytest_asyncio.plugin", "pytest_aiohttp.plugin", "pytest_timeout", "xdist.plugin")
PYTEST = ("-q", "-p", "no:cacheprovider", *(f"-p{name}" for name in PLUGINS))
# What is imported once for all mutants. A library that is not here costs time and nothing else.
SEED_LIBRARIES = (
    *("argparse", "asyncio", "http.client", "ipaddress", "msgspec", "msgspec.json"),
    *("multiprocessing.pool", "pathlib", "urllib.request", "xml.sax.saxutils"),
)
TEST_LIBRARIES = (
    *("pytest", *PLUGINS, "xdist.dsession", "xdist.scheduler", "_pytest.junitxml"),
    *("hypothesis", "hypothesis.strategies", "hypothesis.stateful"),
    *("Crypto.PublicKey.ECC", "docker", "git", "nacl.signing", "prometheus_client", "sqlite3"),
    *("tarfile", "yaml"),
)


class PatchDoesNotApply(Exception):
    """The old text is not exactly once in the file: the source has changed."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. old must be in `file` exactly once, and becomes new.

    replicas: the size of the network; None: of any size, as drawn.
    seeds: those that noticed it when this was written: they are tried first, and no other is looked
        for if one of them still does.
    test: the directed test that notices it, if seeds do so too rarely or cannot; as an argument of
        pytest.
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

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The runs of its own seeds."""
        return tuple(Task(seed, self.replicas) for seed in self.seeds)


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

    seeds: where a search goes, if none of a mutant's own seeds notices it.
    processes: how many mutants are tried at a time. They come in their order.
    """
    with _prepared(mutants, processes) as workshop, ThreadPoolExecutor(processes) as pool:
        killers = pool.map(lambda mutant: workshop.killer(mutant, seeds), mutants)
        yield from zip(mutants, killers, strict=True)


def failing_without(mutants: Sequence[Mutant]) -> list[str]:
    """What fails without any mutant: of the tests and seeds that these mutants name.

    The tests fail in a copy as a mutant has it, which lacks what is not in FOR_SEEDS and FOR_TESTS.
    """
    tasks = {task: None for mutant in mutants for task in mutant.tasks}
    broken = [str(result) for task in tasks if isinstance(result := run_task(task), Failure)]
    return [*broken, *_failing_tests(mutants)]


def is_unrecorded(mutant: Mutant, killer: str) -> bool:
    """Whether it took a search to find the seed that noticed this mutant."""
    return not mutant.test and not any(killer.startswith(f"seed {s}, ") for s in mutant.seeds)


def _failing_tests(mutants: Sequence[Mutant]) -> list[str]:
    if not (tests := _named_tests(mutants)):
        return []
    with _prepared(mutants, 1) as workshop:
        done = workshop.pytest(workshop.source, *tests)
    if done.returncode == 0:
        return []
    said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return [line for line in said if line.startswith(("FAILED", "ERROR"))] or said[-5:]


def _named_tests(mutants: Sequence[Mutant]) -> list[str]:
    return sorted({mutant.test for mutant in mutants if mutant.test and not mutant.equivalent})


class _Workshop:
    """A copy of the source without a mutant, and the processes that run what is made of it."""

    def __init__(self, source: Path, pythons: Sequence[ForkedPython]) -> None:
        self.source = source
        self._idle: queue.SimpleQueue[ForkedPython] = queue.SimpleQueue()
        for python in pythons:
            self._idle.put(python)

    def write_bytecode(self, tests: Sequence[str]) -> None:
        """Have all imported that seeds and these tests import. A failure shows later."""
        self._run("simulator", ["--help"], self.source, writes_bytecode=True)
        if tests:
            self._run("pytest", [*PYTEST, "--collect-only", *tests], self.source, True)

    def killer(self, mutant: Mutant, seeds: range) -> str | None:
        """Who notices this mutant; None: nobody."""
        if mutant.equivalent:
            patched(mutant)
            return None
        with tempfile.TemporaryDirectory(prefix="pbft-ci-mutant-") as folder:
            copy = _broken_copy(mutant, self.source, Path(folder))
            if mutant.test:
                return self._killing_test(mutant, copy)
            for seed in mutant.seeds:
                if killer := self._killing_seed(mutant, copy, range(seed, seed + 1)):
                    return killer
            while killer := self._killing_seed(mutant, copy, seeds):
                seed = int(killer.split()[1].rstrip(","))
                if not isinstance(run_task(Task(seed, mutant.replicas)), Failure):
                    return killer
                # It fails without the mutant, too.
                seeds = range(seed + 1, seeds.stop)
            return None

    def pytest(self, copy: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run tests of that copy."""
        return self._run("pytest", [*PYTEST, *arguments], copy)

    def _killing_seed(self, mutant: Mutant, copy: Path, seeds: range) -> str | None:
        size = [] if mutant.replicas is None else ["--replicas", str(mutant.replicas)]
        which = ["--first", str(seeds.start), "--seeds", str(len(seeds))]
        done = self._run("simulator", ["run", "--stop", *which, *size], copy)
        if done.returncode == 0:
            return None
        lines = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
        if not lines:
            ended = f"exit code {done.returncode}"
            raise RuntimeError(f"{mutant.name} does not run, {ended}: {done.stderr.strip()[-400:]}")
        return lines[0][:160]

    def _killing_test(self, mutant: Mutant, copy: Path) -> str | None:
        done = self.pytest(copy, "-x", mutant.test)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{mutant.name}: {mutant.test} does not run: {done.stdout[-400:]}")
        return f"test {mutant.test}" if done.returncode == 1 else None

    def _run(
        self, module: str, arguments: Sequence[str], folder: Path, writes_bytecode: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        environment = {
            # Whoever runs the mutants looks for what is left, or nobody does: not each of them.
            RUN_VARIABLE: "mutant",
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "" if writes_bytecode else "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        python = self._idle.get()
        try:
            return python.run(module, arguments, folder, environment, TIMEOUT_SECONDS)
        finally:
            self._idle.put(python)


@contextmanager
def _prepared(mutants: Sequence[Mutant], processes: int) -> Iterator[_Workshop]:
    """What these mutants need, with so many processes."""
    tests = _named_tests(mutants)
    rooms = (*FOR_SEEDS, *FOR_TESTS) if tests else FOR_SEEDS
    libraries = (*SEED_LIBRARIES, *TEST_LIBRARIES) if tests else SEED_LIBRARIES
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pbft-ci-mutants-"))
        pythons = [stack.enter_context(ForkedPython(libraries)) for _ in range(processes)]
        workshop = _Workshop(_copied(Path(folder), rooms), pythons)
        workshop.write_bytecode(tests)
        yield workshop


def _broken_copy(mutant: Mutant, source: Path, folder: Path) -> Path:
    text = patched(mutant)
    shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
    file = folder / mutant.file
    # The links lead to the source, which is every mutant's.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    file.unlink()
    file.write_text(text)
    return folder


def _copied(folder: Path, rooms: Sequence[str]) -> Path:
    for name in rooms:
        _copy(ROOT / name, folder / name)
    return folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy(source, target)
