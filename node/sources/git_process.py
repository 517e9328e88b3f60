"""Runs git as a process that can be stopped, through GitPython, with an isolated environment."""

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import git
import msgspec

from common.repositories.credentials import hide_secrets
from node.work.infrastructure_error import InfrastructureError, one_line
from node.work.threads import Stop

STANDARD_ERROR_BYTES_MAX = 8 * 1024
CHUNK_BYTES = 64 * 1024
# how often a git with bounds is looked after
CHECK_SECONDS = 0.25

# A shell sets the limits for git and all that it starts. What Python could do between fork and exec
# is not safe where there are threads, and after that git has its children already. A limit of the
# machine that is lower stays.
_WITH_LIMITS = (
    'ulimit -c 0; ulimit -f "$1" 2>/dev/null || :; ulimit -d "$2" 2>/dev/null || :; shift 2;'
    ' exec "$@"'
)


class GitAnswer(msgspec.Struct, frozen=True):
    """How one git process ended. output: its standard output; problem: what it complained of."""

    exit_code: int
    output: bytes
    problem: str


class Bounds(msgspec.Struct, frozen=True):
    """What git and the processes that it starts may take.

    file_bytes_max: of each file that is written. memory_bytes_max: of each process. check: called
    at once and then every CHECK_SECONDS; where it raises InfrastructureError or OSError, git is
    ended.
    """

    file_bytes_max: int
    memory_bytes_max: int
    check: Callable[[], None]


class OutputTooLong(Exception):
    """git wrote more than the caller is ready to take."""


def run_git(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stop: Stop,
    output_bytes_max: int = 64 * 1024,
    standard_input: int = subprocess.DEVNULL,
    bounds: Bounds | None = None,
) -> GitAnswer:
    """Run `git arguments...` to its end. `stop` kills it and all its children.

    standard_input: the descriptor of a file that is read, or DEVNULL.
    Raises Stopped, OutputTooLong, InfrastructureError where git cannot be started, and what the
    bounds' check raises: then, and when stopped, all its children have ended, too.
    """
    failure: InfrastructureError | OSError | None = None
    check_at = time.monotonic()
    with git_process(
        arguments,
        environment=environment,
        stop=stop,
        standard_input=standard_input,
        bounds=bounds,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, problem = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, problem)
            while selector.get_map():
                if bounds is not None and failure is None and time.monotonic() >= check_at:
                    try:
                        bounds.check()
                    except (InfrastructureError, OSError) as error:
                        # its children have its pipes: those end when the last one has
                        failure = error
                        _killer(process)()
                    check_at = time.monotonic() + CHECK_SECONDS
                for key, _ in selector.select(None if bounds is None else CHECK_SECONDS):
                    chunk = os.read(key.fd, CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    key.data.extend(chunk)
                if len(output) > output_bytes_max:
                    raise OutputTooLong
                del problem[:-STANDARD_ERROR_BYTES_MAX]
        exit_code = process.wait()
    stop.check()
    if failure is not None:
        raise failure
    complaint = hide_secrets(problem.decode(errors="replace"), environment)
    return GitAnswer(exit_code, bytes(output), one_line(complaint))


@contextmanager
def git_process(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stop: Stop,
    standard_input: int = subprocess.DEVNULL,
    bounds: Bounds | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running git in a session of its own, killed with its children when the block ends.

    bounds: only their limits; whoever uses the process has to call their check.
    """
    command = [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *arguments]
    if bounds is not None:
        if shutil.which(command[0]) is None:
            raise InfrastructureError(f"git cannot be started: there is no {command[0]}")
        # a shell counts files in blocks of 512 bytes, memory in KiB
        limits = (str(bounds.file_bytes_max // 512 + 1), str(bounds.memory_bytes_max // 1024))
        command = ["sh", "-c", _WITH_LIMITS, "sh", *limits, *command]
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
        raise InfrastructureError(f"git cannot be started: {error}") from error
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
