"""log: print what a replica's build wrote, archived or while it is being written."""

import argparse
import asyncio
import re
import sys
from typing import Any

from client.commands.gateway_client import GatewayApi, run
from client.commands.outcome import EXIT_DONE, EXIT_TOO_LATE, EXIT_WRONG, CommandFailed
from client.commands.screen import has_colours
from client.commands.targets import Commands, gateway_flags, gateway_to_read
from client.logs.build_output import BuildOutput, Span, terminal_text
from client.logs.log_filter import LogFilter
from common.log_times import Entry, read_times

# The gateway lets a question wait for so long.
WAIT_SECONDS = 15
AGAIN_SECONDS = 1.0
# A gateway or replica that is away for longer is given up.
PATIENCE_SECONDS = 300.0
# What a growing log's run may change to without being another log.
ARCHIVED_RUNS = frozenset({"", "archive"})


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser("log", parents=[common])
    parser.add_argument(
        "build", metavar="BUILD", help="the build's id, or its first 6 digits or more"
    )
    parser.add_argument("replica", metavar="REPLICA", nargs="?", help="the same as --replica")
    parser.add_argument(
        "--replica",
        dest="replica_flag",
        metavar="NAME",
        help="the replica (default: one that agrees, else the first with a log)",
    )
    parser.add_argument("--follow", action="store_true", help="follow the log until it is complete")
    parser.add_argument("--step", metavar="NAME", help="print only this step")
    parser.add_argument(
        "--grep",
        metavar="PATTERN",
        help="print only lines in which this regular expression is found (Python's re)",
    )
    parser.add_argument(
        "--times",
        action="store_true",
        help="print before each line when it came, since the log began, once the build is over",
    )
    gateway_flags(parser)
    parser.set_defaults(run=lambda options: run(_log(options)))


async def _log(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        build = await gateway.build(options.build)
        replica = options.replica_flag or options.replica or _chosen_replica(build)
        times = await _times(gateway, build["id"], replica) if options.times else ()
        printer = _Printer(_filter(options, times))
        try:
            await _print_log(
                gateway, build["id"], replica, printer=printer, is_followed=options.follow
            )
        finally:
            printer.close()
    if options.step is not None and options.step not in printer.steps:
        raise CommandFailed(
            f"the log has no step {options.step!r}; it has: {', '.join(printer.steps) or 'none'}",
            EXIT_WRONG,
        )
    return EXIT_DONE


async def _print_log(
    gateway: GatewayApi, build: str, replica: str, *, printer: "_Printer", is_followed: bool
) -> None:
    offset, run_id = 0, ""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        served = await gateway.log_piece(
            build, replica, offset=offset, wait_seconds=WAIT_SECONDS if is_followed else 0
        )
        if served is None:
            if loop.time() - heard_at > PATIENCE_SECONDS:
                raise CommandFailed(f"{replica} does not answer", EXIT_TOO_LATE)
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        heard_at = loop.time()
        piece = served.piece
        if offset and (piece.total < offset or len({run_id, served.run} - ARCHIVED_RUNS) > 1):
            printer.note("the replica was started again and begins anew")
            offset, run_id = 0, served.run
            continue
        run_id = served.run
        if piece.data and piece.offset > offset:
            printer.note(f"{piece.offset - offset} bytes were not kept")
        if piece.data:
            printer.print(piece.data, piece.offset)
            offset = piece.end
        elif not (is_followed and piece.is_growing):
            if not offset:
                printer.note(f"{replica} wrote nothing" + (" yet" if piece.is_growing else ""))
            return


async def _times(gateway: GatewayApi, build: str, replica: str) -> tuple[Entry, ...]:
    """When each part of the log came. Raises CommandFailed if nothing says so."""
    times = read_times(await gateway.log_times(build, replica))
    if not times:
        raise CommandFailed(
            f"--times: {replica} says nothing of the times of its log; they come with the archived"
            " log, once the build is over",
            EXIT_TOO_LATE,
        )
    return times


def _filter(options: argparse.Namespace, times: tuple[Entry, ...]) -> LogFilter | None:
    """What is wanted of the log; None: all of it, as it is. Raises CommandFailed."""
    if options.step is None and options.grep is None and not times:
        return None
    try:
        pattern = None if options.grep is None else re.compile(options.grep.encode())
    except re.error as error:
        raise CommandFailed(
            f"--grep: {error}; a regular expression is needed", EXIT_WRONG
        ) from error
    return LogFilter(options.step, pattern, times)


class _Printer:
    """To a file or a pipe the bytes as they are; to a terminal nothing that could steer it."""

    def __init__(self, wanted: LogFilter | None = None) -> None:
        """wanted: gives the lines to print; None: all of the log is printed."""
        self._output = BuildOutput() if sys.stdout.isatty() else None
        self._has_colours = has_colours(sys.stdout)
        self._wanted = wanted

    def print(self, data: bytes, offset: int | None = None) -> None:
        """The next bytes of the log. offset: where they begin in it; None: behind the last."""
        if self._wanted is not None:
            data = self._wanted.take(data, offset=offset)
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._output is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            self._show(self._output.take(data))

    @property
    def steps(self) -> list[str]:
        """The steps that the log named so far, if lines of it are looked for."""
        return [] if self._wanted is None else self._wanted.steps

    def note(self, text: str) -> None:
        """A remark beside the log."""
        sys.stdout.flush()
        print(f"[{text}]", file=sys.stderr, flush=True)

    def close(self) -> None:
        """There is no more."""
        if self._wanted is not None:
            self._write(self._wanted.take(b"", is_last=True))
        if self._output is not None:
            self._show(self._output.take(b"", is_last=True))

    def _show(self, spans: list[Span]) -> None:
        if not self._has_colours:
            spans = [Span((), span.text) for span in spans]
        print(terminal_text(spans), end="", flush=True)


def _chosen_replica(build: dict[str, Any]) -> str:
    """One that agrees and whose log is archived, else any with a log, else one that is at it."""
    agreeing = build["verdict"]["agreeing"] if build["verdict"] else []
    logs = list(build["logs"])
    busy = [row["replica"] for row in build["replicas"] if row["state"] not in (None, "none")]
    names = [
        *(name for name in agreeing if name in logs),
        *logs,
        *agreeing,
        *busy,
        *(row["replica"] for row in build["replicas"]),
    ]
    return str(names[0])
