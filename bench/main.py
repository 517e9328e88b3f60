"""The command line of the benches.

    python -m bench list
    python -m bench all [--quick] [--json FILE] [--minutes N] [--without-docker]
    python -m bench NAME ... [--quick] [--json FILE]

Progress goes to standard error, the table to standard output. Exit code 1 where a bench failed;
a target that is missed is no failure.
"""

import argparse
import asyncio
import datetime
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.benches import BENCHES, Bench
from bench.context import Context
from bench.machine import read_machine
from bench.report import Report, as_json, as_table, in_words
from bench.rows import Row, State
from scripts.folders import RUN

ALL = "all"
LIST = "list"


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; the exit code."""
    options = _parser().parse_args(arguments)
    if options.names == [LIST]:
        for bench in BENCHES.values():
            print(f"{bench.name:12} {bench.what}{' (Docker)' if bench.needs_docker else ''}")
        return 0
    names = list(BENCHES) if options.names == [ALL] else options.names
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}, and all")
        return 2
    command = shlex.join(["python", "-m", "bench", *arguments])
    try:
        report = uvloop.run(_run([BENCHES[name] for name in names], options, command))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("stopped; what was started is gone")
        return 130
    print(as_table(report.rows))
    if options.json is not None:
        options.json.write_bytes(as_json(report))
    return 1 if any(row.state is State.FAILED for row in report.rows) else 0


async def _run(benches: Sequence[Bench], options: argparse.Namespace, command: str) -> Report:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()
    began_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    RUN.mkdir(exist_ok=True)
    rows: list[Row] = []
    # Not /tmp: that is often in memory, where an fsync costs nothing.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=RUN) as folder:
        machine = read_machine(Path(folder))
        for bench in benches:
            if bench.needs_docker and options.without_docker:
                rows.append(_row_without(bench, State.LEFT_OUT, "--without-docker"))
                continue
            rows += await _run_one(bench, Path(folder), options)
    return Report(
        command=command,
        began_at=began_at,
        seconds=round(time.monotonic() - began, 1),
        is_quick=options.quick,
        machine=machine,
        rows=rows,
    )


async def _run_one(bench: Bench, folder: Path, options: argparse.Namespace) -> list[Row]:
    def say(text: str) -> None:
        _say(f"{bench.name}: {text}")

    context = Context(folder, say, is_quick=options.quick, minutes=options.minutes)
    seconds_max = bench.quick_seconds_max if options.quick else bench.seconds_max
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds_max + 60 * (options.minutes or 0)):
            rows = await bench.run(context)
    except Exception as error:  # noqa: BLE001 - the other benches are run all the same
        say(_traceback(error))
        reason = f"{type(error).__name__}: {error}"
        return [_row_without(bench, State.FAILED, reason.splitlines()[0])]
    for row in rows:
        say(in_words(row))
    say(f"took {time.monotonic() - began:.1f} s")
    return rows


def _row_without(bench: Bench, state: State, note: str) -> Row:
    return Row(bench=bench.name, what=bench.what, against="-", state=state, note=note)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="a bench, `all` or `list`")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do the smallest run, to see that it works; its figures mean nothing",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the report to this file"
    )
    parser.add_argument(
        "--minutes", type=float, help="how long the bench `steady` keeps the network under load"
    )
    parser.add_argument(
        "--without-docker", action="store_true", help="leave out the benches that need Docker"
    )
    return parser
