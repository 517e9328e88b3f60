"""submit, status, wait, list: a build, from asking for it to its verdict."""

import argparse
import asyncio
import time
from typing import Any

from ci.executors import STAND_BY
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
from client.commands.targets import (
    Commands,
    gateway_flags,
    gateway_to_read,
    repository_url,
    webhook_secret,
)
from common.safe_text import escape_controls

WAIT_TIMEOUT_SECONDS = 1800.0
POLL_SECONDS = 0.5
LISTED_BUILDS = 20
# The states of a build from which nothing more comes.
OVER = ("decided", "refused", "skipped", "cancelled")


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
    submit.add_argument("--wait", action="store_true", help="wait for the verdict")
    _timeout_flag(submit)
    status = commands.add_parser("status", parents=[common])
    wait = commands.add_parser("wait", parents=[common])
    _timeout_flag(wait)
    for parser in (status, wait):
        parser.add_argument("build", metavar="BUILD", help="the build's id, or the beginning of it")
    listing = commands.add_parser("list", parents=[common])
    listing.add_argument("--limit", type=int, default=LISTED_BUILDS, metavar="N")
    actions = ((submit, _submit), (status, _status), (wait, _wait), (listing, _list))
    for parser, action in actions:
        gateway_flags(parser)
        parser.set_defaults(run=lambda options, action=action: run(action(options)))


def _timeout_flag(parser: argparse.ArgumentParser) -> None:
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
        print(accepted["build"], flush=True)
        if not options.wait:
            return EXIT_DONE
        return await wait_for(gateway, str(accepted["build"]), options.timeout)


async def _status(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        build = await gateway.build(options.build)
    print_build(build)
    return _exit_code(build)


async def _wait(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        return await wait_for(gateway, await gateway.full_id(options.build), options.timeout)


async def _list(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        builds = await gateway.builds(max(1, options.limit))
    for build in builds:
        verdict = build["verdict"]
        state = _verdict_text(verdict) if verdict else build["status"]
        branch = escape_controls(build["branch"])
        commit = (build["commit"] or "-")[:12]
        detail = f"  ({escape_controls(build['detail'])})" if build["detail"] else ""
        print(f"{build['id'][:12]}  {state:22}  {commit:12}  {branch}{detail}")
    return EXIT_DONE


async def wait_for(gateway: GatewayApi, build_id: str, timeout_seconds: float) -> int:
    """Wait for a build's verdict and print it; the exit code. Raises CommandFailed."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        build = await gateway.build(build_id)
        if build["status"] in OVER:
            print_build(build)
            return _exit_code(build)
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"no verdict within {timeout_seconds:g} s; the build is {build['status']}"
                + (f" ({build['detail']})" if build["detail"] else ""),
                EXIT_TOO_LATE,
            )
        await asyncio.sleep(POLL_SECONDS)


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
        print(f"verdict     {_verdict_text(verdict)}")
        print(f"agreeing    {', '.join(verdict['agreeing']) or '-'}")
        print(f"dissenting  {', '.join(verdict['dissenting']) or '-'}")
        print(f"ledger      entry {verdict['ledger_index']}")
    if build["artifacts"]:
        print(f"artifacts   {len(build['artifacts'])}; see: artifacts {build['id'][:12]}")
    for line in difference_lines(build["artifact_differences"]):
        print(line)
    for row in build["replicas"]:
        print(f"  {row['replica']:10}{_replica_text(row)}")


def _replica_text(row: dict[str, Any]) -> str:
    """What a replica found, or what it does: one line."""
    if row["has_ballot"]:
        return escape_controls(row["state"])
    words = "no ballot" if row["state"] in (None, "none") else f"no ballot: {row['state']}"
    if row["state"] == STAND_BY:
        words = f"{STAND_BY}: it need not build"
    if row["problem"]:
        when = f" (last seen {row['seen']})" if row["seen"] else ""
        words += f"{when}; {row['problem']}"
    return escape_controls(words)


def _verdict_text(value: dict[str, Any]) -> str:
    code = "" if value["exit_code"] is None else f" {value['exit_code']}"
    return f"{value['outcome']}{code}"


def _exit_code(build: dict[str, Any]) -> int:
    """0 only for passed; nobody has called an open build failed."""
    if build["verdict"]:
        return exit_of_outcome(build["verdict"]["outcome"])
    if build["status"] == "cancelled":
        return EXIT_NOT_PASSED
    never_built = build["status"] in ("refused", "skipped")
    return EXIT_NO_ANSWER if never_built else EXIT_TOO_LATE
