"""Many seeds: run them, in several processes if wanted, and add up what they came to."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from simulator.campaigns.directed import directed
from simulator.campaigns.simulation import Result, Simulation
from simulator.faults.parameters import Parameters, draw, draw_change
from simulator.world.signatures import Oracle, SignaturesMaker
from simulator.world.violation import Violation


class Failure(msgspec.Struct, frozen=True):
    """A seed that broke an invariant."""

    seed: int
    replicas: int | None
    step: int
    invariant: str
    details: str
    is_directed: bool = False
    changes_members: bool = False

    def __str__(self) -> str:
        size = "" if self.replicas is None else f" --replicas {self.replicas}"
        kind = " --directed" if self.is_directed else ""
        kind += " --changes" if self.changes_members else ""
        return (
            f"seed {self.seed}, step {self.step}: invariant {self.invariant}: {self.details}\n"
            f"  python -m simulator replay {self.seed}{size}{kind}"
        )


class Task(msgspec.Struct, frozen=True):
    """One run: what is drawn from a seed, for this many replicas (None: drawn too), or directed.

    changes_members: the members change in it, which they seldom do else.
    """

    seed: int
    replicas: int | None = None
    is_directed: bool = False
    changes_members: bool = False

    @property
    def parameters(self) -> Parameters:
        """All that the run is made of."""
        if self.is_directed:
            return directed(self.seed)
        draws = draw_change if self.changes_members else draw
        return draws(self.seed, self.replicas)


# What `scripts/campaign.sh` runs: (first seed, seeds, replicas), and so many directed ones.
LONG_GATE = ((1, 2000, 4), (1, 200, 7), (1, 40, 10))
DIRECTED_SEEDS = 64
# Of a commit's hash: so many seeds that two commits seldom have the same, and few enough to type.
FRESH_SEED_DIGITS = 8
# Of a hundred fresh runs, so many have so many replicas: (replicas, runs).
FRESH_SIZES = ((13, 1), (10, 4), (7, 15), (4, 80))


def long_gate() -> list[Task]:
    """The tasks of the long gate, the largest first, so that no process ends alone."""
    drawn = [
        Task(seed, replicas)
        for first, seeds, replicas in reversed(LONG_GATE)
        for seed in range(first, first + seeds)
    ]
    return [Task(seed, is_directed=True) for seed in range(DIRECTED_SEEDS)] + drawn


def fresh_tasks(hundreds: int, commit: str) -> list[Task]:
    """So many hundred runs, of seeds of this commit; of those from 1 if it is not known ("").

    Each commit tries other seeds. FRESH_SIZES are drawn about as often, but a run of 13 replicas
    takes ten times as long as one of 4: with sizes that are drawn, one commit waits thrice as long
    as another. The largest come first, so that no process ends alone.
    """
    first = int(commit[:FRESH_SEED_DIGITS], 16) if commit else 1
    sizes = [size for size, count in FRESH_SIZES for _ in range(count * hundreds)]
    return [Task(first + number, size) for number, size in enumerate(sizes)]


class Summary(msgspec.Struct):
    """What the runs so far add up to."""

    seeds: int = 0
    # how many things happened in the runs' worlds
    events: int = 0
    # of the clock on the wall
    seconds: float = 0.0
    # of the clocks in the runs
    virtual_seconds: float = 0.0
    executed: int = 0
    verdicts: int = 0
    views: int = 0
    # number of replicas -> runs
    sizes: dict[int, int] = {}
    faults: dict[str, int] = {}
    cells: dict[str, int] = {}
    event_counts: dict[str, int] = {}
    goals: dict[str, int] = {}
    # the runs that broke a rule
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
            (self.event_counts, result.event_counts),
            (self.goals, result.goals),
        ):
            for key, count in more.items():
                total[key] = total.get(key, 0) + count


def run_seed(
    seed: int, replicas: int | None = None, signatures: SignaturesMaker = Oracle
) -> Result | Failure:
    """Run one seed; a violation is a value here."""
    return run_task(Task(seed, replicas), signatures)


def run_task(task: Task, signatures: SignaturesMaker = Oracle) -> Result | Failure:
    """Run one task; a violation is a value here."""
    try:
        return Simulation(task.parameters, signatures=signatures).run()
    except Violation as violation:
        step, invariant, details = violation.step, violation.invariant, violation.details
        return Failure(
            task.seed,
            task.replicas,
            step,
            invariant,
            details,
            task.is_directed,
            task.changes_members,
        )


def run_seeds(
    seeds: Iterable[int],
    *,
    replicas: int | None = None,
    changes_members: bool = False,
    processes: int = 1,
    on_progress: Callable[[Summary], None] = lambda summary: None,
    stop_at_failure: bool = False,
) -> Summary:
    """Run all of these seeds. on_progress is called after each."""
    return run_tasks(
        [Task(seed, replicas, changes_members=changes_members) for seed in seeds],
        processes=processes,
        on_progress=on_progress,
        stop_at_failure=stop_at_failure,
    )


def run_tasks(
    tasks: Sequence[Task],
    *,
    processes: int = 1,
    on_progress: Callable[[Summary], None] = lambda summary: None,
    on_result: Callable[[Task, Result | Failure], None] = lambda task, result: None,
    stop_at_failure: bool = False,
) -> Summary:
    """Run all of these tasks. on_result and on_progress are called after each."""
    summary = Summary()
    began = time.monotonic()
    for task, result in _results(tasks, processes):
        summary.add(result)
        on_result(task, result)
        summary.seconds = time.monotonic() - began
        on_progress(summary)
        if stop_at_failure and summary.failures:
            break
    return summary


def _results(tasks: Sequence[Task], processes: int) -> Iterator[tuple[Task, Result | Failure]]:
    if processes == 1:
        yield from map(_run_named, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run_named, tasks, chunksize=4)


def _run_named(task: Task) -> tuple[Task, Result | Failure]:
    return task, run_task(task)
