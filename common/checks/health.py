"""The command `healthcheck` of a node's and of a gateway's program, for what watches containers."""

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.config_error import ConfigError
from common.safe_text import log_text
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session

READY_PATH = "/readyz"
# shorter than a container's healthcheck waits, so that its log has our line
BOUNDS = AnswerBounds(bytes_max=64 * 1024, timeout_seconds=5.0)
EXIT_READY = 0
# of Docker, which keeps 2 for itself: so a wrong configuration has the same
EXIT_NOT_READY = 1

FindRequest = Callable[[Path], HttpRequest]


def add_healthcheck(
    commands: Any, program: str, find: FindRequest, *, default_config: Path
) -> None:
    """Add `healthcheck`.

    find: from a configuration file to the request for READY_PATH; raises ConfigError.
    """
    parser = commands.add_parser(
        "healthcheck",
        help=f"ask the running {program} whether it is ready",
        description=f"Ask the {program} of this configuration, on this machine, whether it is"
        " ready. Exit code 0: it is. 1: it is not, or does not answer.",
    )
    # the program's own --config may stand before the command, too
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.set_defaults(run=lambda options: _run(find, options.config or default_config))


def _run(find: FindRequest, file: Path) -> int:
    try:
        answer, is_ready = asyncio.run(_ask(find(file)))
    except (ConfigError, NoAnswer) as error:
        answer, is_ready = str(error), False
    print(log_text(answer))
    return EXIT_READY if is_ready else EXIT_NOT_READY


async def _ask(request: HttpRequest) -> tuple[str, bool]:
    async with bounded_session() as session:
        answer = await ask(session, request, BOUNDS)
    return answer.data.decode("utf-8", "replace").strip(), answer.status == 200
