"""inputs: what lock files pinned for a build, and what changed since the last green one."""

import argparse
import json
from typing import Any

from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE
from client.commands.targets import Commands, gateway_flags, gateway_to_read, json_flag
from common.safe_text import escape_controls


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser("inputs", parents=[common])
    parser.add_argument(
        "build", metavar="BUILD", help="the build's id, or its first 6 digits or more"
    )
    parser.add_argument("--changes", action="store_true", help="list only what changed")
    parser.add_argument(
        "--find",
        metavar="TEXT",
        default="",
        help="list only inputs with TEXT in name, version, file, digest or purl",
    )
    json_flag(parser)
    gateway_flags(parser)
    parser.set_defaults(run=lambda options: run(_inputs(options)))


async def _inputs(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        found = await gateway.inputs(options.build, options.find)
    if options.json:
        print(json.dumps(found))
        return EXIT_DONE
    if not options.changes:
        for row in found["inputs"]:
            print(escape_controls(f"{row['tool']:5}  {row['name']} {row['version']}".rstrip()))
            print(escape_controls(f"       {row['file']}  {row['digest']}"))
    for line in change_lines(found["since"]):
        print(escape_controls(line))
    return EXIT_DONE


def change_lines(since: dict[str, Any]) -> list[str]:
    """What changed, for people. Pure."""
    earlier = since["compared_with"]
    if earlier is None:
        return ["no earlier build of this branch that passed is known"]
    if since["problem"] is not None:
        return [f"what changed since {earlier[:12]} is not known: {since['problem']}"]
    counts = ", ".join(f"{count} {kind}" for kind, count in since["counts"])
    lines = [f"since {earlier[:12]}: {counts or 'the same inputs'}"]
    for change in since["changes"]:
        before, after = (", ".join(change[side]) for side in ("before", "after"))
        versions = " -> ".join(dict.fromkeys(text for text in (before, after) if text))
        line = f"{change['kind']:8}  {change['tool']:5}  {change['name']} {versions}"
        lines.append(line.rstrip())
    left = sum(count for _, count in since["counts"]) - len(since["changes"])
    return [*lines, f"and {left} more"] if left > 0 else lines
