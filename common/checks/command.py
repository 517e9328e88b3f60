"""The command `check` of a node's and of a gateway's program."""

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from common.finding import Finding, are_right, table

EXIT_RIGHT = 0
EXIT_WRONG = 1

Check = Callable[[Path], Coroutine[Any, Any, list[Finding]]]


def add_check(commands: Any, program: str, check: Check, *, default_config: Path) -> None:
    """Add `check`. check: from a configuration file to what was found; raises ConfigError."""
    parser = commands.add_parser(
        "check",
        help=f"show in a table what keeps this {program} from its work",
        description=f"Look at all that this {program} needs, and print a table. Exit code 1:"
        " something is wrong. Warnings keep nobody from a start. Run it before the start: a"
        f" {program} that runs already has its port in use.",
    )
    # the program's own --config may stand before the command, too
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.set_defaults(run=lambda options: _run(check(options.config or default_config)))


def _run(check: Coroutine[Any, Any, list[Finding]]) -> int:
    found = asyncio.run(check)
    print(table(found))
    return EXIT_RIGHT if are_right(found) else EXIT_WRONG
