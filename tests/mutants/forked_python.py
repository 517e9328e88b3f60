"""Runs `python -m MODULE` many times in forks of one process that has imported the libraries.

The rule: the forked process has imported no module of ours. So each fork imports ours anew, from
the folder that it is told, and nothing in it can refer to what another folder holds. Only
libraries are shared; to import them takes longer than most of what is run.

This file is also the program that forks. It is started by its path and with -P, for a module of
ours that it imported, or a folder of ours in front of its path, would break the rule. It reads one
command per line and answers each with the exit code, or with null if the command took too long.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parent.parent.parent


class ForkedPython:
    """A process that has imported these libraries; one command at a time runs in a fork of it."""

    def __init__(self, libraries: Sequence[str]) -> None:
        environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), *libraries],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        seconds_max: float,
    ) -> "subprocess.CompletedProcess[str]":
        """What `python -m module arguments` does in that folder, whose modules it imports.

        Raises subprocess.TimeoutExpired after seconds_max, when all that it started in its session
        is killed, and RuntimeError if the process that forks has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="pbft-ci-forked-") as name:
            texts = [Path(name) / "stdout", Path(name) / "stderr"]
            for text in texts:
                # it may be killed before it opens them
                text.touch()
            command = {
                "module": module,
                "arguments": list(arguments),
                "folder": str(folder),
                "environment": dict(environment),
                "texts": [str(text) for text in texts],
                "seconds_max": seconds_max,
            }
            with contextlib.suppress(BrokenPipeError):  # there is no answer then
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            answer = self._process.stdout.readline()
            if not answer:
                raise RuntimeError(f"what forks has ended, exit code {self._process.wait()}")
            stdout, stderr = (text.read_text(errors="replace") for text in texts)
        code = json.loads(answer)
        if code is None:
            raise subprocess.TimeoutExpired([module, *arguments], seconds_max, stdout, stderr)
        return subprocess.CompletedProcess([module, *arguments], code, stdout, stderr)


def main(libraries: Sequence[str]) -> None:
    """Import these; then fork for each command, until there are no more."""
    # A fork is killed when our input ends; until then whoever started us decides, not the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in libraries:
        importlib.import_module(name)
    tops = {name.partition(".")[0] for name in sys.modules}
    if ours := sorted(name for name in tops if (ROOT / name / "__init__.py").exists()):
        raise RuntimeError(f"a fork could not import these anew: {', '.join(ours)}")
    # The collector of a fork need not go through what all have.
    gc.freeze()
    # One command is sent at a time, so nothing of a second one is read ahead.
    while line := sys.stdin.readline():
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(command)
            leave(code_of(command["module"]))
        sys.stdout.write(json.dumps(_ended(child, command["seconds_max"])) + "\n")
        sys.stdout.flush()


def _become(command: Mapping[str, Any]) -> None:
    """Make this fork look like a Python that was started with the command."""
    # All that it starts is of its session, and is killed with it.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, text in zip((1, 2), command["texts"], strict=True):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.argv = [command["module"], *command["arguments"]]
    sys.path.insert(0, command["folder"])
    importlib.invalidate_caches()


def code_of(module: str) -> int:
    """The exit code of what Python runs as -m module."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - what Python does with it at its end
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End without taking apart what was imported, which takes longer than a short command."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _ended(child: int, seconds_max: float) -> int | None:
    """The exit code of the fork; None if it took too long. All of its group is gone then."""
    poll = select.poll()
    ended = os.pidfd_open(child)
    poll.register(ended, select.POLLIN)
    # Nobody waits for the answer any more when our input ends.
    poll.register(sys.stdin, 0)
    is_in_time = any(descriptor == ended for descriptor, _ in poll.poll(1000 * seconds_max))
    os.close(ended)
    try:
        # Before it is reaped: until then nobody else has its id.
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        # It had not made its session when it was to end.
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if is_in_time else None


if __name__ == "__main__":
    main(sys.argv[1:])
