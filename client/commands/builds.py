"""submit, status, wait, watch, list, open: a build, from asking for it to its verdict."""

import argparse
import asyncio
import json
import sys
import time
import webbrowser
from typing import Any

from client.commands.artifacts import difference_lines
from client.commands.gateway_client import GatewayApi, run
from client.commands.outcome import (
    EXIT_DONE,
    EXIT_NO_ANSWER,
    EXIT_NOT_PASSED,
    EXIT_TOO_LATE,
    CommandFailed,
    exit_of_outcome,
)
from client.commands.progress import progress_lines, replica_text, state_text
from client.commands.screen import Screen, coloured
from client.commands.targets import (
    Commands,
    gateway_flags,
    gateway_to_read,
    json_flag,
    repository_url,
    webhook_secret,
)
from client.views.formats import ago, kind, short_repository
from common.safe_text import escape_controls

WAIT_TIMEOUT_SECONDS = 1800.0
POLL_SECONDS = 0.5
LISTED_BUILDS = 20
# The states of a build from which nothing more comes.
OVER = ("decided", "refused", "skipped", "cancelled")
# What `list` passes on to the gateway.
FILTERS = ("repository", "branch", "commit", "author", "event", "outcome")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module."""
    submit = commands.add_parser("submit", parents=[common])
    submit.add_argument(
        "branch",
        metavar="NAME",
        help="a branch or, if no branch has this name, a tag; refs/tags/NAME is always the tag",
    )
    submit.add_argument(
        "--repository",
        metavar="URL",
        help="its url in the configuration, or a path (default: the first configured one)",
    )
    submit.add_argument("--commit", metavar="ID", help="a full commit id on that branch")
    submit.add_argument(
        "--wait", action="store_true", help="show the progress on stderr, and wait for the verdict"
    )
    status = commands.add_parser("status", parents=[common])
    wait = commands.add_parser("wait", parents=[common])
    watch = commands.add_parser("watch", parents=[common])
    page = commands.add_parser("open", parents=[common])
    listing = commands.add_parser("list", parents=[common])
    for parser in (submit, wait, watch):
        timeout_flag(parser)
    for parser in (status, wait, watch, page):
        build_argument(parser)
    listing.add_argument("--limit", type=int, default=LISTED_BUILDS, metavar="N")
    for name in FILTERS:
        listing.add_argument(f"--{name}", metavar="TEXT", help=f"list only builds of this {name}")
    actions = (
        (submit, _submit),
        (status, _status),
        (wait, _wait),
        (watch, _watch),
        (listing, _list),
    )
    for parser, action in actions:
        json_flag(parser)
        gateway_flags(parser)
        parser.set_defaults(run=lambda options, action=action: run(action(options)))
    gateway_flags(page)
    page.set_defaults(run=lambda options: run(_open(options)))


def build_argument(parser: argparse.ArgumentParser) -> None:
    """Add BUILD."""
    parser.add_argument(
        "build", metavar="BUILD", help="the build's id, or its first 6 digits or more"
    )


def timeout_flag(parser: argparse.ArgumentParser) -> None:
    """Add --timeout."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=WAIT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait (default: {WAIT_TIMEOUT_SECONDS:g})",
    )


async def _submit(options: argparse.Namespace) -> int:
    repository = repository_url(options)
    secret = webhook_secret(options, repository)
    async with gateway_to_read(options, secret) as gateway:
        accepted = await gateway.submit(options.branch, repository, options.commit)
        return await follow_accepted(gateway, accepted, options)


async def follow_accepted(
    gateway: GatewayApi, accepted: dict[str, Any], options: argparse.Namespace
) -> int:
    """Print what was accepted; with --wait its progress and verdict. Raises CommandFailed."""
    if not (options.json and options.wait):
        print(json.dumps(accepted) if options.json else accepted["build"], flush=True)
    if not options.wait:
        return EXIT_DONE
    return await _ended(gateway, str(accepted["build"]), options, screen=Screen(sys.stderr))


async def _status(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        build = await gateway.build(options.build)
    show_build(build, options)
    return _exit_code(build)


async def _wait(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        return await _ended(gateway, await gateway.full_id(options.build), options)


async def _watch(options: argparse.Namespace) -> int:
    stream = sys.stderr if options.json else sys.stdout
    async with gateway_to_read(options) as gateway:
        return await _ended(
            gateway, await gateway.full_id(options.build), options, screen=Screen(stream)
        )


async def _open(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        url = f"{gateway.url}/builds/{await gateway.full_id(options.build)}"
    print(url, flush=True)
    # without a browser on this machine the address alone is of use
    webbrowser.open(url)
    return EXIT_DONE


async def _list(options: argparse.Namespace) -> int:
    only = {name: value for name in FILTERS if (value := getattr(options, name)) is not None}
    async with gateway_to_read(options) as gateway:
        builds = await gateway.builds(max(1, options.limit), only)
    if options.json:
        print(json.dumps(builds))
        return EXIT_DONE
    now = time.time()
    for build in builds:
        print(_listed(build, now))
    return EXIT_DONE


def _listed(build: dict[str, Any], now: float) -> str:
    """A build in one line: id, state, commit, event, age, repository, branch, and what is odd."""
    verdict = build["verdict"]
    state = coloured(
        f"{state_text(build):16}",
        kind((verdict or {"outcome": build["status"]})["outcome"]),
        sys.stdout,
    )
    received = build["times"]["received"]
    notes = []
    if verdict and verdict["dissenting"]:
        notes.append(f"dissent: {', '.join(verdict['dissenting'])}")
    if build.get("needs_approval"):
        notes.append("waits for approval")
    elif build["detail"]:
        notes.append(escape_controls(build["detail"]))
    line = (
        f"{build['id'][:12]}  {state}  {(build['commit'] or '-')[:12]:12}  {build['event']:12}  "
        f"{ago(received, now) if received else '-':12}  "
        f"{escape_controls(short_repository(build['repository']))}  "
        f"{escape_controls(build['branch'])}"
    )
    return f"{line}  ({'; '.join(notes)})" if notes else line


async def _ended(
    gateway: GatewayApi, build_id: str, options: argparse.Namespace, *, screen: Screen | None = None
) -> int:
    """Wait for a build's verdict and print it; the exit code. Raises CommandFailed.

    screen: where its progress is shown meanwhile; None: nowhere.
    """
    deadline = time.monotonic() + options.timeout
    while True:
        build = await gateway.build(build_id)
        if screen is not None:
            screen.show(progress_lines(build))
        if build["status"] in OVER:
            show_build(build, options)
            return _exit_code(build)
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"no verdict within {options.timeout:g} s; the build is {build['status']}"
                + (f" ({build['detail']})" if build["detail"] else ""),
                EXIT_TOO_LATE,
            )
        await asyncio.sleep(POLL_SECONDS)


def show_build(build: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a build for people, or with --json for programs."""
    if options.json:
        print(json.dumps(build))
    else:
        print_build(build)


def print_build(build: dict[str, Any]) -> None:
    """A build for people."""
    verdict = build["verdict"]
    print(f"build       {build['id']}")
    print(f"repository  {escape_controls(build['repository'])}")
    print(f"branch      {escape_controls(build['branch'])}")
    if build["ref"]:
        print(f"ref         {escape_controls(build['ref'])} ({build['event']})")
    print(f"commit      {build['commit'] or '-'}")
    print(f"status      {build['status']}")
    if build["rebuild_of"]:
        print(f"rebuild of  {build['rebuild_of']}{', without caches' if build['is_cold'] else ''}")
    if build["detail"]:
        print(f"detail      {escape_controls(build['detail'])}")
    if verdict:
        print(f"verdict     {coloured(state_text(build), kind(verdict['outcome']), sys.stdout)}")
        print(f"agreeing    {', '.join(verdict['agreeing']) or '-'}")
        print(f"dissenting  {', '.join(verdict['dissenting']) or '-'}")
        print(f"ledger      entry {verdict['ledger_index']}")
    if build["artifacts"]:
        print(f"artifacts   {len(build['artifacts'])}; see: artifacts {build['id'][:12]}")
    for line in difference_lines(build["artifact_differences"]):
        print(line)
    for row in build["replicas"]:
        print(f"  {row['replica']:10}{replica_text(row)}")


def _exit_code(build: dict[str, Any]) -> int:
    """0 only for passed; nobody has called an open build failed."""
    if build["verdict"]:
        return exit_of_outcome(build["verdict"]["outcome"])
    if build["status"] == "cancelled":
        return EXIT_NOT_PASSED
    never_built = build["status"] in ("refused", "skipped")
    return EXIT_NO_ANSWER if never_built else EXIT_TOO_LATE
