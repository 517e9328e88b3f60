"""The list of the command line's commands, one module for each group."""

import argparse
from pathlib import Path

from client.commands import (
    artifacts,
    builds,
    cases,
    changes,
    envelope,
    evidence,
    journal,
    ledger,
    limits,
    lint,
    logs,
    notes,
    proof,
    sign,
)
from common.installation import CLIENT_CONFIG, shown
from common.membership.commands import Commands, add_cluster, add_operator


def add_commands(commands: Commands) -> None:
    """Add every command; each sets `run`, which takes the options and gives the exit code."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"the client's configuration file (default: {shown(CLIENT_CONFIG)})",
    )
    modules = (
        builds,
        cases,
        changes,
        artifacts,
        logs,
        journal,
        ledger,
        limits,
        envelope,
        proof,
        evidence,
        lint,
        sign,
        notes,
    )
    for module in modules:
        module.add(commands, common)
    add_operator(commands)
    add_cluster(commands)
