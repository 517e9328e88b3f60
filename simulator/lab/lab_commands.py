"""The lab's commands: scenarios to look at, and the same lie under two protocols.

python -m simulator list
python -m simulator show primary-crash [--all | --html FILE]
python -m simulator equivocation --protocol pbft|bsmr [--replicas 4] [--seed 1] [--html FILE]
python -m simulator distance [--replicas 4 7] [--milliseconds 50 200]
"""

import argparse
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pbft.quorums import UnsupportedSize, quorums_for
from simulator.lab import distance, equivocation
from simulator.lab.scenario_page import render
from simulator.lab.scenarios import SCENARIOS, find
from simulator.lab.show import page, state_lines, verdict_of

LINE_CHARACTERS = 96
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")

COMMANDS = ("list", "show", "equivocation", "distance")


def add(commands: Any) -> None:
    """Add the commands of the lab; the argument is what `add_subparsers` gave."""
    commands.add_parser("list", help="the scenarios there are")
    show = commands.add_parser("show", help="play a scenario, and print or draw it")
    show.add_argument("scenario", metavar="SCENARIO", help="its name, see `list`")
    show.add_argument("--html", type=Path, metavar="FILE", help="write a page with the picture")
    show.add_argument("--all", action="store_true", help="print STATUS too")
    show.add_argument("--seed", type=int, default=1)
    lie = commands.add_parser("equivocation", help="a leader that lies, under PBFT and under BSMR")
    lie.add_argument("--protocol", choices=("pbft", "bsmr"), default="pbft")
    lie.add_argument("--replicas", type=int, default=4, metavar="N")
    lie.add_argument(
        "--faults", type=int, default=None, metavar="F", help="0: an honest leader; default: f"
    )
    lie.add_argument("--seed", type=int, default=1)
    lie.add_argument("--html", type=Path, metavar="FILE", help="write a page with the picture")
    far = commands.add_parser("distance", help="print what long links cost, as a Markdown table")
    far.add_argument("--replicas", type=int, nargs="+", default=[4, 7, 10, 13], metavar="N")
    far.add_argument(
        "--milliseconds", type=int, nargs="+", default=[50, 100, 200], metavar="M", help="one way"
    )


def run(parsed: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Run one of them; gives the exit code: 2 for a wrong argument. tell gets each line."""
    match parsed.command:
        case "list":
            for scenario in SCENARIOS:
                tell(f"{scenario.name}: {scenario.title}")
                for line in textwrap.wrap(scenario.look, LINE_CHARACTERS):
                    tell(f"    {line}")
            return 0
        case "show":
            return _show(parsed, tell)
        case "distance":
            return _distance(parsed.replicas, parsed.milliseconds, tell)
        case _:
            return _equivocation(parsed, tell)


def _show(parsed: argparse.Namespace, tell: Callable[[str], None]) -> int:
    scenario = find(parsed.scenario)
    if scenario is None:
        names = ", ".join(known.name for known in SCENARIOS)
        tell(f"no scenario is called {parsed.scenario!r}; there are: {names}")
        return 2
    trace: list[str] = []
    scripted = scenario.run(trace.append, parsed.seed)
    if parsed.html is not None:
        return _write(parsed.html, page(scenario, scripted, trace), tell)
    tell(scenario.title)
    for line in textwrap.wrap(scenario.look, LINE_CHARACTERS):
        tell(line)
    tell("" if parsed.all else "(STATUS, which all say every second, is left out: --all)\n")
    for line in trace:
        if parsed.all or ": Status " not in line:
            tell(readable(line))
    for line in ("", *state_lines(scripted), verdict_of(scripted)):
        tell(line)
    return 0


def readable(line: str) -> str:
    """A line of a trace with the beginnings of digests alone."""
    return _DIGEST.sub(r"\1", line)


def _equivocation(parsed: argparse.Namespace, tell: Callable[[str], None]) -> int:
    try:
        quorums = quorums_for(parsed.replicas)
    except UnsupportedSize as error:
        tell(f"--replicas: {error}")
        return 2
    faults = quorums.faults_max if parsed.faults is None else parsed.faults
    if not 0 <= faults < parsed.replicas - 1:
        tell(f"--faults: 0 to {parsed.replicas - 2} are allowed")
        return 2
    is_told = parsed.html is None
    shown = equivocation.play(
        parsed.protocol,
        replicas=parsed.replicas,
        faults=faults,
        seed=parsed.seed,
        tell=tell if is_told else lambda line: None,
    )
    if not is_told:
        code = _write(parsed.html, render(shown), tell)
        if code != 0:
            return code
    for state in shown.states:
        tell(equivocation.state_line(state))
    tell(shown.verdict)
    return 0


def _write(file: Path, text: str, tell: Callable[[str], None]) -> int:
    """Write a page, and say where it is or why not; the exit code."""
    try:
        file.write_text(text)
    except OSError as error:
        tell(f"{file}: cannot be written ({error.strerror})")
        return 2
    tell(str(file))
    return 0


def _distance(
    sizes: Sequence[int], milliseconds: Sequence[int], tell: Callable[[str], None]
) -> int:
    try:
        for size in sizes:
            quorums_for(size)
    except UnsupportedSize as error:
        tell(str(error))
        return 2
    least, most = distance.MILLISECONDS_MIN, distance.MILLISECONDS_MAX
    if not all(least <= each <= most for each in milliseconds):
        tell(f"--milliseconds: {least} to {most} are allowed")
        return 2
    rows = [distance.measure(size, each / 1000) for size in sizes for each in milliseconds]
    tell(distance.table(rows))
    return 0
