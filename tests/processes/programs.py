"""Our programs run as a person runs them: a command, its exit code, what it says."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from common.address import Address
from common.logs import STDERR_VARIABLE
from scripts.folders import ROOT
from scripts.processes import answers
from tests.waiting import block_until

RUN_SECONDS = 60
START_SECONDS = 30
STOP_SECONDS = 20


@dataclass(frozen=True)
class Ended:
    """How a program ended; the code is None for one that came up and was asked to end."""

    code: int | None
    output: str
    errors: str


def run(*command: str, text: str = "") -> Ended:
    """Run to the end. command: what comes after `python`. text: its standard input."""
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env=environment(),
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*command: str, listen: Address) -> Ended:
    """Run a server until it ends, or answers at `listen`; then it is asked to end.

    command: what comes after `python`.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(),
        )
        try:
            block_until(
                lambda: process.poll() is not None or answers(listen), str(command), START_SECONDS
            )
            code = process.poll()
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
        output.seek(0)
        errors.seek(0)
        return Ended(code, output.read().decode(), errors.read().decode())


def environment() -> dict[str, str]:
    """Ours, but that what is logged is to be seen."""
    return {name: value for name, value in os.environ.items() if name != STDERR_VARIABLE}
