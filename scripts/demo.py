"""The demo: four webhooks, built by every node, agreed on, shown as a table."""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from common.english import counted
from node.faults.misbehaviours import DESCRIPTIONS, KINDS
from scripts.configuration import EXAMPLE_REPLICAS, Configuration, faulty_replica
from scripts.demo_faults import ALLOWED, how_to_play, what_the_others_saw
from scripts.docker_engine import PROCESS_NAME, WITHOUT_DOCKER, NoEngine, own_processes
from scripts.example_repository import FEATURE_EXIT_CODE
from scripts.gateway import ABSTAINS, REFUSED, BuildView, Gateway, GatewayFailed
from scripts.network import (
    EXPECTED_ERRORS,
    Prepared,
    client_program,
    node_programs,
    prepare,
    stop,
)
from scripts.processes import Processes, Program

# The seconds since the epoch at which the person pressed enter: demo.sh sets it.
STARTED_VARIABLE = "PBFT_CI_STARTED"
VERDICTS_SECONDS_MAX = 300.0
# After the last verdict: for the ballots that it did not need, so that the table is complete.
LATE_SECONDS_MAX = 15.0
POLL_SECONDS = 0.25
LINE_SECONDS = 1.0
COMMIT_CHARACTERS = 10

EXPECTED: Mapping[str, tuple[str, int]] = {
    "master": ("passed", 0),
    "feature": ("failed", FEATURE_EXIT_CODE),
    "dockerfile": ("passed", 0),
    "no-such-branch": ("checkout_failed", 128),
}


@dataclass
class Watched:
    """A branch of the demo, its build, what was last seen of it, and when its verdict was."""

    branch: str
    build: str
    posted: float
    view: BuildView | None = None
    decided: float | None = None

    def state(self, replicas: int) -> str:
        """In a few words, how far it is."""
        if self.view is None:
            return "posted"
        if self.view.verdict is not None:
            return str(self.view.verdict)
        ballots = len(self.view.ballots)
        return f"{self.view.status} {ballots}/{replicas}" if ballots else self.view.status


class Progress:
    """What is going on: one line that is redrawn on a terminal, else a line for each change."""

    def __init__(self, stream: TextIO, began: float) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._began = began
        self._last_text = ""
        self._last_time = float("-inf")

    def show(self, text: str) -> None:
        """Show the text with the seconds since the beginning."""
        now = time.monotonic()
        line = f"{now - self._began:5.1f} s  {text}"
        if self._is_terminal:
            if text != self._last_text or now - self._last_time >= LINE_SECONDS:
                # Back to the beginning of the line, the text, and the rest of the line cleared.
                self._stream.write(f"\r{line}\x1b[K")
                self._last_time = now
        elif text != self._last_text:
            self._stream.write(line + "\n")
        self._last_text = text
        self._stream.flush()

    def end(self) -> None:
        """Leave the line that was redrawn."""
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()


def branches_for(executor: str) -> list[str]:
    """What is built: without Docker nobody can build a Dockerfile, so that branch is left out."""
    return [branch for branch in EXPECTED if executor != "process" or branch != "dockerfile"]


def bring_up(prepared: Prepared, processes: Processes) -> None:
    """Start client and network; what runs already with this configuration stays as it is.

    What runs with another configuration is stopped first. Raises StartFailed.
    """
    configuration = prepared.configuration
    programs = [client_program(configuration), *node_programs(configuration)]
    wanted = {program.name: program.command for program in programs}
    running = processes.running()
    ours = {name: identity for name, identity in running.items() if name != PROCESS_NAME}
    if any(identity.command != wanted.get(name) for name, identity in ours.items()):
        print("another configuration is running: stopping it first")
        for line in processes.stop(list(ours)):
            print(line)
        ours = {}
    if ours:
        print(f"already running: {', '.join(ours)}")
    missing = [program for program in programs if program.name not in ours]
    if missing:
        print(f"starting {_names(missing)} ...", flush=True)
        processes.start(missing, environment=prepared.environment)


def watch(
    gateway: Gateway,
    watched: Sequence[Watched],
    replicas: int,
    *,
    silent: frozenset[str],
    began: float,
) -> None:
    """Poll until all verdicts are there and so are the ballots that may still come.

    silent: the replicas that nothing is expected of. Raises GatewayFailed, also where a build is
    refused or has no verdict within VERDICTS_SECONDS_MAX.
    """
    progress = Progress(sys.stdout, began)
    deadline = time.monotonic() + VERDICTS_SECONDS_MAX
    late_deadline: float | None = None
    try:
        while True:
            for item in watched:
                item.view = gateway.build(item.build)
                if item.view.status == REFUSED:
                    raise GatewayFailed(f"{item.branch}: the network refuses to build it")
                if item.view.verdict is not None and item.decided is None:
                    item.decided = time.monotonic()
            progress.show("  ".join(f"{item.branch}: {item.state(replicas)}" for item in watched))
            now = time.monotonic()
            if all(item.decided is not None for item in watched):
                late_deadline = late_deadline or now + LATE_SECONDS_MAX
                expected = replicas - len(silent)
                heard = all(item.view and len(item.view.ballots) >= expected for item in watched)
                if heard or now > late_deadline:
                    return
            elif now > deadline:
                raise GatewayFailed(f"no verdict within {VERDICTS_SECONDS_MAX:g} s")
            time.sleep(POLL_SECONDS)
    finally:
        progress.end()


def table(watched: Sequence[Watched], replicas: Sequence[str]) -> str:
    """Branch, commit, what each replica found, verdict, seconds; dissent is marked with a !."""
    rows = [["branch", "commit", *replicas, "verdict", "time"]]
    for item in watched:
        view = item.view
        row = [item.branch, ((view and view.commit) or "-")[:COMMIT_CHARACTERS]]
        for replica in replicas:
            found = view.ballots.get(replica) if view else None
            mark = "! " if view and replica in view.dissenting else ""
            row.append("-" if found is None else f"{mark}{found}")
        row.append(str(view.verdict) if view and view.verdict else "none")
        row.append("-" if item.decided is None else f"{item.decided - item.posted:.1f} s")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def remarks(watched: Sequence[Watched], replicas: Sequence[str]) -> list[str]:
    """A line for each replica that dissented, abstained or said nothing."""
    lines = []
    for replica in replicas:
        dissented, abstained, silent = [], [], []
        for item in watched:
            if item.view is None:
                continue
            found = item.view.ballots.get(replica)
            if replica in item.view.dissenting:
                dissented.append(f"{item.branch} ({found or 'another commit'})")
            elif found is None:
                silent.append(item.branch)
            elif found.outcome == ABSTAINS:
                abstained.append(item.branch)
        if dissented:
            lines.append(f"{replica} dissents from the verdict: {', '.join(dissented)}")
        if abstained:
            lines.append(f"{replica} could not build: {', '.join(abstained)}; see its log")
        if silent:
            lines.append(f"{replica} has said nothing: {', '.join(silent)}")
    return lines


def is_as_expected(watched: Sequence[Watched]) -> bool:
    """Whether every verdict is the one that the branch is made for."""
    return all(
        item.view is not None
        and item.view.verdict is not None
        and (item.view.verdict.outcome, item.view.verdict.exit_code) == EXPECTED[item.branch]
        for item in watched
    )


def run(arguments: argparse.Namespace, started: float) -> int:
    """The whole demo; gives the exit code.

    started: the moment on the monotonic clock that times are counted from. Raises
    EXPECTED_ERRORS, GatewayFailed.
    """
    prepared = prepare(
        replicas=arguments.replicas, executor=arguments.executor, faulty=arguments.faulty
    )
    configuration = prepared.configuration
    faulty = faulty_replica(configuration)
    executor = configuration.nodes[0].executor
    names = [node.name for node in configuration.nodes]
    if prepared.engine is not None:
        print(f"Docker: {prepared.engine.host} ({prepared.engine.whose})")
    else:
        print(
            "warning: --executor process runs builds as plain processes, without any isolation; "
            "the demo leaves out the branch 'dockerfile', which needs Docker"
        )
    if faulty is not None:
        print(f"{faulty} misbehaves on purpose: {DESCRIPTIONS[arguments.faulty]}")
    bring_up(prepared, own_processes())

    gateway = Gateway(configuration.client.listen.url)
    began = time.monotonic()
    watched = [
        Watched(branch, gateway.post_webhook(branch), time.monotonic())
        for branch in branches_for(executor)
    ]
    print(
        f"posted {counted(len(watched), 'webhook')}: {', '.join(item.branch for item in watched)}"
    )
    silent = frozenset({faulty} if faulty and arguments.faulty in ("silent", "garbling") else ())
    try:
        watch(gateway, watched, len(names), silent=silent, began=began)
    finally:
        print("\n" + table(watched, names) + "\n")
        for line in remarks(watched, names):
            print(line)
    if faulty is not None:
        seen = what_the_others_saw(arguments.faulty, faulty, gateway.statuses())
        print("\n".join((*([""] if remarks(watched, names) else []), *seen, "")))
    first = min(item.decided for item in watched if item.decided is not None)
    print(f"from start to the first verdict: {duration(first - started)}")
    good = is_as_expected(watched)
    print("all verdicts are as expected" if good else "THE VERDICTS ARE NOT AS EXPECTED")
    if not arguments.stop:
        say_where(configuration)
        print(f"messages:   {configuration.client.listen.url}/builds/{watched[0].build}/messages")
        if arguments.faulty == ALLOWED:
            url, node_url = configuration.client.listen.url, configuration.nodes[0].plain_listen.url
            print("\n".join(how_to_play(names, f"{url}/replicas", node_url)))
    return 0 if good else 1


def started_time() -> float:
    """When the person pressed enter, on the monotonic clock."""
    text = os.environ.get(STARTED_VARIABLE, "")
    before = max(0.0, time.time() - int(text)) if text.isascii() and text.isdigit() else 0.0
    return time.monotonic() - before


def duration(seconds: float) -> str:
    """`42.0 s` or `2 min 03 s`."""
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def say_where(configuration: Configuration) -> None:
    """Say where people find what is left running."""
    url = configuration.client.listen.url
    print(f"dashboard:  {url}/")
    print("build:      .venv/bin/python -m client submit master --wait")
    print("logs:       log/node*.log, log/client.log; verdicts: log/results.jsonl")
    print("stop:       ./stopNetwork.sh --all")


def _names(programs: Sequence[Program]) -> str:
    return ", ".join(program.name for program in programs)


def _stop_all() -> int:
    stopped, lines = stop(own_processes(), everything=True)
    print(f"stopped: {', '.join(stopped) or 'nothing was running'}")
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/demo.sh", description=__doc__)
    parser.add_argument(
        "--replicas", type=int, default=EXAMPLE_REPLICAS, metavar="N", help="1, 3, 4, 7 or 10"
    )
    parser.add_argument(
        "--faulty",
        choices=(*KINDS, ALLOWED),
        help="make the last node misbehave; allowed: none does, until somebody injects a fault",
    )
    parser.add_argument(
        "--executor",
        choices=("docker", "process"),
        help="where builds run: docker (default), or process, WITHOUT isolation",
    )
    parser.add_argument("--stop", action="store_true", help="stop everything at the end")
    return parser.parse_args()


def main() -> int:
    """`python -m scripts.demo`; ./scripts/demo.sh sets the machine up first."""
    arguments = _parse()
    code = 1
    try:
        code = run(arguments, started_time())
    except NoEngine as error:
        print(f"{error}; without Docker: {WITHOUT_DOCKER}", file=sys.stderr)
    except (*EXPECTED_ERRORS, GatewayFailed) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    if arguments.stop:
        return _stop_all() or code
    if code != 0 and own_processes().running():
        print("still running; to stop it: ./stopNetwork.sh --all", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
