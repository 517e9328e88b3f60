"""tests.forked: a program that was forked is one that was started."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from scripts.folders import ROOT
from tests import forked
from tests.processes import programs
from tests.waiting import block_until

STOP_SECONDS = 60.0


def test_what_a_program_says_and_its_code_are_those_of_a_start() -> None:
    for arguments, code in (("--version",), 0), (("lint", "/nonexistent"), 2), (("--none",), 2):
        ended = programs.run("-m", "client", *arguments)
        real = subprocess.run(
            [sys.executable, "-m", "client", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=programs.RUN_SECONDS,
        )
        assert (ended.code, ended.output, ended.errors) == (code, real.stdout, real.stderr)
        assert real.returncode == code


@pytest.fixture(name="typed")
def fixture_typed() -> Iterator[IO[str]]:
    """A standard input at which nobody types anything."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as typed, os.fdopen(writer, "w"):
        yield typed


def start(server: forked.ForkServer, typed: IO[str]) -> forked.Forked:
    """A program that reads its standard input to the end."""
    with tempfile.TemporaryFile("w") as output:
        return server.start("client", ["lint", "-"], (typed, output, output), os.environ)


def test_a_signal_ends_it_and_is_its_code(typed: IO[str]) -> None:
    process = start(forked.server(), typed)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(STOP_SECONDS) == -signal.SIGKILL
    process.terminate()
    assert process.poll() == -signal.SIGKILL


def test_it_has_a_session_of_its_own_and_no_file_of_the_server(typed: IO[str]) -> None:
    process = start(forked.server(), typed)
    folder = Path(f"/proc/{process.pid}/fd")

    def opened() -> set[str]:
        found = set()
        for file in folder.iterdir():
            # it closes those of the server by and by
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(file))
        return found

    try:
        block_until(lambda: os.getsid(process.pid) == process.pid, "its own session")
        block_until(lambda: not any("socket" in name for name in opened()), "no socket")
    finally:
        process.kill()
        process.wait(STOP_SECONDS)


@pytest.mark.parametrize("is_killed", [True, False])
def test_it_ends_with_its_server_and_with_whoever_started_that(
    typed: IO[str], is_killed: bool
) -> None:
    server = forked.ForkServer()
    child = Path(f"/proc/{start(server, typed).pid}")
    assert child.exists()
    if is_killed:
        os.kill(server.pid, signal.SIGKILL)
    else:
        server.close()
    block_until(lambda: has_ended(child), "its end")
    server.close()


def has_ended(process: Path) -> bool:
    """Whether it is gone, or waits for its parent to notice."""
    try:
        return not (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
