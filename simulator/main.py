"""The command line: run many seeds, replay one, make one small.

    python -m simulator run --first 1 --seeds 300 [--processes 2] [--replicas 7]
    python -m simulator gate               python -m simulator shrink SEED
    python -m simulator cover
    python -m simulator replay SEED [--replicas 4 | --directed | --parameters FILE]
    python -m simulator run --changes      the members of each run change
    python -m simulator hash --first 1 --seeds 10
    python -m simulator transcripts tests/simulator/campaigns/transcripts
    python -m simulator twins --views 3    python -m simulator byzzfuzz --first 1 --seeds 1000

Exit code 1 where an invariant was broken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from common.version import VERSION
from simulator.campaigns import cover, explore
from simulator.campaigns.campaign import (
    Failure,
    Summary,
    Task,
    long_gate,
    run_seed,
    run_seeds,
    run_tasks,
)
from simulator.campaigns.compiled import CompilerFailed, write_compiled
from simulator.campaigns.cover import encode_cover, smallest_cover
from simulator.campaigns.never_reached import contradicted, unexplained
from simulator.campaigns.shrink import shrink
from simulator.campaigns.simulation import Result, Simulation
from simulator.campaigns.source_commit import source_commit
from simulator.campaigns.transcripts import write_all
from simulator.faults.parameters import decode_parameters, encode_parameters
from simulator.lab import lab_commands
from simulator.world import coverage_goals
from simulator.world.violation import Violation

BAR_CHARACTERS = 30


def main(arguments: Sequence[str]) -> int:
    """Run one command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description="Simulate PBFT/CI")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run many seeds")
    hashes = commands.add_parser("hash", help="print the trace digest of seeds")
    for command in (run, hashes):
        command.add_argument("--first", type=int, default=1)
        command.add_argument("--seeds", type=int, default=100)
    run.add_argument("--processes", type=int, default=1)
    run.add_argument("--stop", action="store_true", help="stop at the first violation")
    run.add_argument("--coverage", action="store_true", help="fail on cells without a reason")
    replay = commands.add_parser("replay", help="print what happens in one seed")
    smaller = commands.add_parser("shrink", help="find a small run that fails in the same way")
    for command in (replay, smaller):
        command.add_argument("seed", type=int)
    gate = commands.add_parser(
        "gate", help="do the runs of scripts/campaign.sh, and check their coverage"
    )
    anew = commands.add_parser(
        "cover", help="run the gate, and write the list of runs for test.sh --full"
    )
    for command in (gate, anew):
        command.add_argument("--processes", type=int, default=2)
    replay.add_argument(
        "--directed", action="store_true", help="replay a directed run, not a drawn one"
    )
    replay.add_argument(
        "--parameters",
        type=Path,
        default=None,
        help="replay these parameters, as shrink prints them",
    )
    for command in (run, replay, smaller):
        command.add_argument("--replicas", type=int, default=None)
        command.add_argument(
            "--changes", action="store_true", help="the members change in each run, mostly twice"
        )
    texts = commands.add_parser("transcripts", help="write the readable transcripts")
    texts.add_argument("folder", type=Path)
    faster = commands.add_parser("compile", help="write a copy that runs faster (takes minutes)")
    faster.add_argument("folder", type=Path)
    explore.add_commands(commands)
    lab_commands.add(commands)
    parsed = parser.parse_args(arguments)
    match parsed.command:
        case "run":
            return _run(parsed)
        case "gate" | "cover":
            return _gate(parsed.processes, writes_cover=parsed.command == "cover")
        case "hash":
            return _hash(parsed)
        case "replay":
            return _replay(parsed)
        case "shrink":
            return _shrink(parsed)
        case name if name in lab_commands.COMMANDS:
            return lab_commands.run(parsed, print)
        case "transcripts":
            for path in write_all(parsed.folder):
                print(path)
            return 0
        case "compile":
            return _compile(parsed.folder)
        case _:
            return explore.run_command(parsed, print, _show_progress)


def _run(parsed: argparse.Namespace) -> int:
    source = _source()
    seeds = range(parsed.first, parsed.first + parsed.seeds)
    summary = run_seeds(
        seeds,
        replicas=parsed.replicas,
        changes_members=parsed.changes,
        processes=parsed.processes,
        on_progress=lambda done: _show(done, parsed.seeds),
        stop_at_failure=parsed.stop,
    )
    print(_table(summary))
    _print_failures(summary, source)
    is_covered = not parsed.coverage or _is_covered(summary)
    return 0 if is_covered and not summary.failures else 1


def _gate(processes: int, *, writes_cover: bool) -> int:
    """Run the whole gate and print its coverage; write its cover, if nothing is wrong with it."""
    source = _source()
    tasks = long_gate()
    results: dict[Task, Result] = {}

    def keep(task: Task, result: Result | Failure) -> None:
        if isinstance(result, Result):
            results[task] = result

    summary = run_tasks(
        tasks,
        processes=processes,
        on_progress=lambda done: _show(done, len(tasks)),
        on_result=keep,
    )
    print(_table(summary))
    _print_failures(summary, source)
    if not _is_covered(summary) or summary.failures:
        return 1
    if writes_cover:
        chosen = smallest_cover({task: results[task] for task in tasks})
        cover.FILE.write_bytes(encode_cover(chosen))
        events = sum(results[task].events for task in chosen)
        print(f"{cover.FILE}: {len(chosen)} of {len(tasks)} runs, {events:,} events")
    return 0


def _compile(folder: Path) -> int:
    try:
        count = write_compiled(folder)
    except (OSError, CompilerFailed) as error:
        print(f"{folder}: {error}")
        return 1
    print(f"{count} modules compiled: cd {folder} && {sys.executable} -m simulator run --first ...")
    return 0


def _source() -> str:
    """What runs: asked for before it does, for a checkout may go on meanwhile."""
    commit = source_commit(Path(__file__).resolve().parent)
    return f"version {VERSION}" + (f", commit {commit}" if commit else "")


def _print_failures(summary: Summary, source: str) -> None:
    for failure in summary.failures:
        print(failure)
    if summary.failures:
        print(f"Another commit draws other runs from the same seeds; these are of {source}.")


def _is_covered(summary: Summary) -> bool:
    """Whether all cells, goals and faults were reached but for what has a rule, which was not."""
    holes = [
        ("cells that were never reached, without a reason:", unexplained(summary.cells)),
        ("cells that were reached although a rule says no:", contradicted(summary.cells)),
        ("goals that were never reached:", coverage_goals.unseen(summary.goals)),
        ("faults that were never injected:", coverage_goals.never_injected(summary.faults)),
    ]
    for title, found in holes:
        if found:
            print(title, *found, sep="\n  ")
    return not any(found for _, found in holes)


def _show_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(summary: Summary, seeds: int) -> None:
    is_terminal = sys.stderr.isatty()
    if is_terminal or summary.seeds % 50 == 0:
        end = "\r" if is_terminal else "\n"
        print(_bar(summary, seeds), end=end, file=sys.stderr, flush=True)


def _bar(summary: Summary, seeds: int) -> str:
    done = summary.seeds * BAR_CHARACTERS // seeds
    bar = "#" * done + "." * (BAR_CHARACTERS - done)
    rate = summary.events / max(summary.seconds, 0.001)
    failed = f", failed: {[failure.seed for failure in summary.failures[-8:]]}"
    failed = failed if summary.failures else ""
    return f"[{bar}] {summary.seeds}/{seeds} seeds, {rate:,.0f} events/s{failed}"


def _table(summary: Summary) -> str:
    rate = summary.events / max(summary.seconds, 0.001)
    times = summary.virtual_seconds / max(summary.seconds, 0.001)
    sizes = ", ".join(f"{count} x n={n}" for n, count in sorted(summary.sizes.items()))
    rows = [
        ("seeds", f"{summary.seeds} ({sizes})"),
        ("violations", str(len(summary.failures))),
        ("events", f"{summary.events:,}"),
        ("events per second", f"{rate:,.0f}"),
        ("virtual time", f"{summary.virtual_seconds:,.0f} s, {times:,.0f} times real time"),
        ("executed numbers", f"{summary.executed:,}"),
        ("verdicts", f"{summary.verdicts:,}"),
        ("views changed", f"{summary.views:,}"),
        ("coverage cells", str(len(summary.cells))),
    ]
    rows += [(f"fault: {kind}", f"{count:,}") for kind, count in sorted(summary.faults.items())]
    events = sorted(summary.event_counts.items())
    rows += [(f"event: {name}", f"{count:,}") for name, count in events]
    rows += [(f"goal: {name}", f"{summary.goals.get(name, 0):,}") for name in coverage_goals.ALL]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _hash(parsed: argparse.Namespace) -> int:
    for seed in range(parsed.first, parsed.first + parsed.seeds):
        result = run_seed(seed)
        print(seed, result.invariant if isinstance(result, Failure) else result.trace)
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    task = Task(parsed.seed, parsed.replicas, parsed.directed, parsed.changes)
    parameters = task.parameters
    if parsed.parameters is not None:
        try:
            parameters = decode_parameters(parsed.parameters.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            print(
                f"{parsed.parameters}: no parameters as shrink prints them: {error}",
                file=sys.stderr,
            )
            return 2
    print(parameters)
    try:
        result = Simulation(parameters, tell=print).run()
    except Violation as violation:
        print(violation)
        return 1
    print(f"no violation; {result.events} events, trace {result.trace}")
    return 0


def _shrink(parsed: argparse.Namespace) -> int:
    shrunk = shrink(
        Task(parsed.seed, parsed.replicas, changes_members=parsed.changes).parameters,
        on_step=lambda smaller, runs: print(f"after {runs} runs: {smaller}", file=sys.stderr),
    )
    if shrunk is None:
        print(f"seed {parsed.seed} breaks no invariant")
        return 0
    print(f"{shrunk.violation}\n{shrunk.events} events, {shrunk.runs} runs")
    print(f"its parameters, for replay --parameters FILE:\n{encode_parameters(shrunk.parameters)}")
    return 1
