"""Many seeds: run them, in several processes if wanted, and add up what they came to."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from simulator.parameters import draw
from simulator.signatures import Oracle, SignaturesMaker
from simulator.simulation import Result, Simulation
from simulator.violation import Violation


class Failure(msgspec.Struct, frozen=True):
    """A seed that broke an invariant."""

    seed: int
    replicas: int | None
    step: int
    invariant: str
    details: str


class Summary(msgspec.Struct):
    """What the runs so far add up to. seconds: of the clock on the wall."""

    seeds: int = 0
    events: int = 0
    seconds: float = 0.0
    virtual_seconds: float = 0.0
    executed: int = 0
    verdicts: int = 0
    views: int = 0
    sizes: dict[int, int] = {}
    faults: dict[str, int] = {}
    cells: dict[str, int] = {}
    notices: dict[str, int] = {}
    marks: dict[str, int] = {}
    failures: list[Failure] = []

    def add(self, result: Result | Failure) -> None:
        """Count one more run."""
        self.seeds += 1
        if isinstance(result, Failure):
            self.failures.append(result)
            return
        self.events += result.events
        self.virtual_seconds += result.virtual_seconds
        self.executed += result.executed
        self.verdicts += result.verdicts
        self.views += result.views
        self.sizes[result.replicas] = self.sizes.get(result.replicas, 0) + 1
        for total, more in (
            (self.faults, result.faults),
            (self.cells, result.cells),
            (self.notices, result.notices),
            (self.marks, result.marks),
        ):
            for key, count in more.items():
                total[key] = total.get(key, 0) + count


def run_seed(
    seed: int, replicas: int | None = None, signatures: SignaturesMaker = Oracle
) -> Result | Failure:
    """Run one seed; a violation is a value here."""
    try:
        return Simulation(draw(seed, replicas), signatures=signatures).run()
    except Violation as violation:
        return Failure(seed, replicas, violation.step, violation.invariant, violation.details)


def run_seeds(
    seeds: Iterable[int],
    *,
    replicas: int | None = None,
    processes: int = 1,
    on_progress: Callable[[Summary], None] = lambda summary: None,
    stop_at_failure: bool = False,
) -> Summary:
    """Run all of these. on_progress is called after each."""
    summary = Summary()
    began = time.monotonic()
    for result in _results(list(seeds), replicas, processes):
        summary.add(result)
        summary.seconds = time.monotonic() - began
        on_progress(summary)
        if stop_at_failure and summary.failures:
            break
    return summary


def _results(seeds: list[int], replicas: int | None, processes: int) -> Iterator[Result | Failure]:
    if processes == 1:
        for seed in seeds:
            yield run_seed(seed, replicas)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        tasks = [(seed, replicas) for seed in seeds]
        yield from pool.imap_unordered(_run_task, tasks, chunksize=4)


def _run_task(task: tuple[int, int | None]) -> Result | Failure:
    return run_seed(*task)
