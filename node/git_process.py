"""git as a process that can be stopped, started through GitPython, isolated by its environment."""

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import git
import msgspec

from common.credentials import hide_secrets
from node.threads import Stop
from node.trouble import OwnTrouble, one_line

STANDARD_ERROR_BYTES_MAX = 8 * 1024
CHUNK_BYTES = 64 * 1024


class GitAnswer(msgspec.Struct, frozen=True):
    """How one git process ended. output: its standard output; problem: what it complained of."""

    exit_code: int
    output: bytes
    problem: str


class OutputTooLong(Exception):
    """git wrote more than the caller is ready to take."""


def run_git(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stop: Stop,
    output_bytes_max: int = 64 * 1024,
) -> GitAnswer:
    """Run `git arguments...` to its end. `stop` kills it and all its children.

    Raises Stopped, OutputTooLong, and OwnTrouble where git cannot be started.
    """
    with git_process(arguments, environment=environment, stop=stop) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, problem = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, problem)
            while selector.get_map():
                for key, _ in selector.select():
                    chunk = os.read(key.fd, CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    key.data.extend(chunk)
                if len(output) > output_bytes_max:
                    raise OutputTooLong
                del problem[:-STANDARD_ERROR_BYTES_MAX]
        exit_code = process.wait()
    stop.check()
    complaint = hide_secrets(problem.decode(errors="replace"), environment)
    return GitAnswer(exit_code, bytes(output), one_line(complaint))


@contextmanager
def git_process(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stop: Stop,
    standard_input: int = subprocess.DEVNULL,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running git in a session of its own, killed with its children when the block ends."""
    command = [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *arguments]
    try:
        started = git.Git(os.sep).execute(
            command,
            # GitPython hands this on to Popen, which takes a constant as well as a file
            istream=_as_stream(standard_input),
            as_process=True,
            env=dict(environment),
            start_new_session=True,
        )
    except (git.GitCommandError, OSError) as error:
        raise OwnTrouble(f"git cannot be started: {error}") from error
    process = started.proc
    assert process is not None
    kill = _killer(process)
    try:
        with stop.interrupting(kill):
            yield process
    finally:
        kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                # closing flushes what a dead git will not read any more
                with suppress(OSError):
                    stream.close()


def mirror_environment(environment: Mapping[str, str], mirror: Path) -> dict[str, str]:
    """The environment for work in one bare repository, whatever folder git is started in."""
    return {
        **environment,
        "GIT_DIR": str(mirror),
        "GIT_OBJECT_DIRECTORY": str(mirror / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
    }


def _killer(process: "subprocess.Popen[bytes]") -> Callable[[], None]:
    def kill() -> None:
        # once waited for, its id may be anybody's
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    return kill


def _as_stream(constant: int) -> BinaryIO:
    stream: object = constant
    return stream  # type: ignore[return-value]
