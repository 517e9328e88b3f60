"""The commands that go through scenarios of one kind: all twins, or ByzzFuzz by seeds."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator

from simulator.campaigns.byzzfuzz import ByzzFuzzSimulation, plan_of
from simulator.campaigns.simulation import Simulation
from simulator.campaigns.twins import TwinsSimulation, cuts_of, scenarios
from simulator.world.violation import Violation

SHOWN_EVERY = 64

Say = Callable[[str], None]
# (kind; views with cuts, or replicas; scenario or seed)
Task = tuple[str, int, int]


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `twins` and `byzzfuzz` to the command line."""
    twins = commands.add_parser("twins", help="all ways to cut the network around a twin")
    twins.add_argument("--views", type=int, default=3, help="views with a cut of their own")
    twins.add_argument("--every", type=int, default=1, help="run only every Nth scenario")
    twins.add_argument("--only", type=int, default=None, help="show this scenario")
    byzzfuzz = commands.add_parser("byzzfuzz", help="few, small faults in the first rounds")
    byzzfuzz.add_argument("--first", type=int, default=1)
    byzzfuzz.add_argument("--seeds", type=int, default=1000)
    byzzfuzz.add_argument("--replicas", type=int, default=4)
    byzzfuzz.add_argument("--only", type=int, default=None, help="show this seed")
    for command in (twins, byzzfuzz):
        command.add_argument("--processes", type=int, default=1)


def run_command(parsed: argparse.Namespace, say: Say, show: Say) -> int:
    """Run one of them; gives the exit code. say: for results; show: for how far it is."""
    is_twins = parsed.command == "twins"
    size = parsed.views if is_twins else parsed.replicas
    if parsed.only is not None:
        return _show((parsed.command, size, parsed.only), say)
    if is_twins:
        numbers: Iterable[int] = range(0, scenarios(size), parsed.every)
    else:
        numbers = range(parsed.first, parsed.first + parsed.seeds)
    tasks = [(parsed.command, size, number) for number in numbers]
    return _run(tasks, parsed.processes, say=say, show=show)


def explore(task: Task, tell: Say | None = None) -> tuple[Task, str, int, int]:
    """Run one scenario: the task, the violation or nothing, events, and the highest view."""
    simulation = _simulation(task, tell)
    try:
        result = simulation.run()
    except Violation as violation:
        return task, str(violation), simulation.scheduler.events, 0
    return task, "", result.events, result.views


def _simulation(task: Task, tell: Say | None) -> Simulation:
    kind, size, number = task
    if kind == "twins":
        return TwinsSimulation(number, size, tell=tell)
    return ByzzFuzzSimulation(number, size, tell=tell)


def _results(tasks: list[Task], processes: int) -> Iterator[tuple[Task, str, int, int]]:
    if processes == 1:
        yield from map(explore, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(explore, tasks, chunksize=16)


def _run(tasks: list[Task], processes: int, *, say: Say, show: Say) -> int:
    began = time.monotonic()
    failed, events, views = 0, 0, 0
    for done, (task, violation, more, highest) in enumerate(_results(tasks, processes), 1):
        events += more
        views += highest
        if violation:
            failed += 1
            kind, size, number = task
            option = f"--views {size}" if kind == "twins" else f"--replicas {size}"
            say(f"{violation}\n  python -m simulator {kind} {option} --only {number}")
        if done % SHOWN_EVERY == 0:
            rate = done / (time.monotonic() - began)
            show(f"{done}/{len(tasks)}, {rate:.0f} per second")
    seconds = time.monotonic() - began
    say(
        f"{len(tasks)} scenarios, {failed} violations, {events:,} events, {views:,} views changed,"
        f" {seconds:.0f} s"
    )
    return 1 if failed else 0


def _show(task: Task, say: Say) -> int:
    kind, size, number = task
    say(f"cuts {cuts_of(number, size)}" if kind == "twins" else str(plan_of(number, size)))
    _, violation, events, highest = explore(task, say)
    say(violation or f"no violation; {events} events, view {highest}")
    return 1 if violation else 0
