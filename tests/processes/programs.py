"""Our programs run as a person runs them: a command, its exit code, what it says."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.address import Address
from common.logs import STDERR_VARIABLE
from scripts.processes import Process, answers
from tests import forked
from tests.processes.network import CLIENT, Network
from tests.waiting import block_until

RUN_SECONDS = 120
START_SECONDS = 120
STOP_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """How a program ended; the code is None for one that came up and was asked to end."""

    code: int | None
    output: str
    errors: str


def run(*command: str, text: str = "", seconds: float = RUN_SECONDS) -> Ended:
    """Run to the end. command: what comes after `python`. text: its standard input.

    Raises subprocess.TimeoutExpired after so many seconds.
    """
    return _ended(command, text, lambda process: process.wait(seconds))


def client(network: Network, command: str, *rest: str, text: str = "") -> Ended:
    """Run a command of the client with the network's client.yml, to its end."""
    return run(
        "-m", "client", command, "--config", str(network.config_file(CLIENT)), *rest, text=text
    )


def start(*command: str, listen: Address) -> Ended:
    """Run a server until it ends, or answers at `listen`; then it is asked to end.

    command: what comes after `python`.
    """

    def code_or_none(process: Process) -> int | None:
        block_until(
            lambda: process.poll() is not None or answers(listen), str(command), START_SECONDS
        )
        return process.poll()

    return _ended(command, "", code_or_none)


def _ended(command: Sequence[str], text: str, code_of: Callable[[Process], int | None]) -> Ended:
    with (
        tempfile.TemporaryFile("w+") as typed,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        typed.write(text)
        typed.seek(0)
        files = (typed, output, errors)
        process = forked.start(command, files, environment())
        try:
            code = code_of(process)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
        output.seek(0)
        errors.seek(0)
        return Ended(code, output.read().decode(), errors.read().decode())


def environment() -> dict[str, str]:
    """Ours, but that what is logged is to be seen."""
    return {name: value for name, value in os.environ.items() if name != STDERR_VARIABLE}
