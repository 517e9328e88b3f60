"""The command line's commands, one module for each group; `add_commands` puts them together."""

import argparse
from pathlib import Path

from client.commands import (
    artifacts,
    builds,
    changes,
    envelope,
    evidence,
    journal,
    ledger,
    lint,
    logs,
    sign,
)
from common.installation import CLIENT_CONFIG, shown


def add_commands(parser: argparse.ArgumentParser, *, is_one_required: bool = False) -> None:
    """Add every command; each sets `run`, which takes the options and gives the exit code."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"the client's configuration file (default: {shown(CLIENT_CONFIG)})",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=is_one_required
    )
    modules = (builds, changes, artifacts, logs, journal, ledger, envelope, evidence, lint, sign)
    for module in modules:
        module.add(commands, common)
