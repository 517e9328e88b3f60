"""Does anybody notice? Breaks the source on purpose and lets the simulator or a test look for it.

Each mutant is a textual patch of a real source file that changes the code of functions. In a fork
of a process that has all imported, those functions get that code (`mutant_server`). There, seeds
are run until one breaks an invariant, or the directed test that is named is run. What nobody
notices is a hole in the checkers, or an equivalent.
A seed or a test that fails in a source without any mutant proves nothing: those that are recorded
are looked for first, and a seed that a search finds is run without the mutant, too.
Mutants are tried with the seeds first that noticed them before.
"""

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import msgspec

from scripts.folders import ROOT
from simulator.campaigns.campaign import Failure, Task, run_task
from tests.mutants.code_patch import NotOfFunctions, changed_code
from tests.mutants.mutant_server import MutantServer, ServerEnded, Trial

TIMEOUT_SECONDS = 1800


class PatchDoesNotApply(Exception):
    """The old text is not exactly once in the file, as the source has changed; or the patch
    changes more than the code of functions."""


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
    broken = text.replace(mutant.old, mutant.new)
    try:
        changed_code(text, broken, mutant.file)
    except NotOfFunctions as error:
        raise PatchDoesNotApply(f"{mutant.name}: not the code of a function: {error}") from error
    return broken


def run_mutants(
    mutants: Sequence[Mutant], seeds: range, processes: int
) -> Iterator[tuple[Mutant, str | None]]:
    """Each mutant with who noticed it (a seed and its invariant, or a test); None: nobody.

    seeds: where a search goes, if none of a mutant's own seeds notices it.
    processes: how many mutants are tried at a time. They come in their order.
    """
    with ExitStack() as stack:
        tests = _named_tests(mutants)
        idle: queue.SimpleQueue[MutantServer] = queue.SimpleQueue()
        for _ in range(processes):
            idle.put(stack.enter_context(MutantServer(tests, ROOT)))

        def killer(mutant: Mutant) -> str | None:
            server = idle.get()
            try:
                return _killer(server, mutant, seeds)
            finally:
                idle.put(server)

        pool = stack.enter_context(ThreadPoolExecutor(processes))
        yield from zip(mutants, pool.map(killer, mutants), strict=True)


def failing_without(mutants: Sequence[Mutant]) -> list[str]:
    """What fails without any mutant: of the tests and seeds that these mutants name."""
    tasks = {task: None for mutant in mutants for task in mutant.tasks}
    broken = [str(result) for task in tasks if isinstance(result := run_task(task), Failure)]
    return [*broken, *_failing_tests(mutants)]


def is_unrecorded(mutant: Mutant, killer: str) -> bool:
    """Whether it took a search to find the seed that noticed this mutant."""
    return not mutant.test and not any(killer.startswith(f"seed {s}, ") for s in mutant.seeds)


def _failing_tests(mutants: Sequence[Mutant]) -> list[str]:
    if not (tests := _named_tests(mutants)):
        return []
    failing = []
    with MutantServer(tests, ROOT) as server:
        for test in tests:
            try:
                noticed = server.noticed(Trial(test=test), TIMEOUT_SECONDS)
            except ServerEnded as error:
                # pytest could not collect them
                return str(error).splitlines()[-5:]
            except RuntimeError as error:
                noticed = str(error)
            failing += [noticed] if noticed else []
    return failing


def _named_tests(mutants: Sequence[Mutant]) -> list[str]:
    return sorted({mutant.test for mutant in mutants if mutant.test and not mutant.equivalent})


def _killer(server: MutantServer, mutant: Mutant, seeds: range) -> str | None:
    """Who notices this mutant; None: nobody."""
    broken = patched(mutant)
    if mutant.equivalent:
        return None

    def noticed(*tasks: Task, test: str = "") -> str | None:
        return server.noticed(Trial(mutant.file, broken, test, tasks), TIMEOUT_SECONDS)

    if mutant.test:
        return noticed(test=mutant.test)
    if killer := noticed(*mutant.tasks):
        return killer
    while killer := noticed(*(Task(seed, mutant.replicas) for seed in seeds)):
        seed = int(killer.split()[1].rstrip(","))
        if not isinstance(run_task(Task(seed, mutant.replicas)), Failure):
            return killer
        # It fails without the mutant, too.
        seeds = range(seed + 1, seeds.stop)
    return None
