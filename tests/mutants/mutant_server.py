"""Runs one test or some seeds for each mutant, in forks of one process that has all imported.

The process is a run of pytest that has collected the tests that mutants name. Where pytest would
run them, it reads one trial per line from its standard input instead. It forks a child for each,
which gives the mutant's functions their broken code (`code_patch`) and runs what the trial names.
So nothing is imported or collected twice: that took longer than nearly each trial itself.

The rule: a trial leaves nothing behind. It has a session of its own, which is killed at its end,
when it took too long, or when nobody waits for the answer any more.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

import msgspec
import pytest

from scripts.folders import ROOT
from simulator.campaigns.campaign import Failure, Task, run_task
from tests.leftovers import RUN_VARIABLE
from tests.mutants.code_patch import Functions, all_functions, changed_code, give_code

# With the plugins alone that tests use: to load all that are installed takes longer than a test.
PLUGINS = ("pytest_asyncio.plugin", "pytest_aiohttp.plugin", "pytest_timeout", "xdist.plugin")
PYTEST = (
    "-q",
    "-s",
    "--tb=no",
    "--assert=plain",
    "-pno:cacheprovider",
    *(f"-p{name}" for name in PLUGINS),
)
ERROR_CHARACTERS_MAX = 1000


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is run in a fork: the file with its broken text ("": none), and a test or seeds."""

    file: str = ""
    broken: str = ""
    test: str = ""
    tasks: tuple[Task, ...] = ()

    @property
    def module(self) -> str:
        """The name of the file's module; without a file, one that is there."""
        return self.file.removesuffix(".py").replace("/", ".") or __name__


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """noticed: the seed and its invariant, or the test, that fails. error: why it did not run."""

    noticed: str | None = None
    error: str = ""


class ServerEnded(RuntimeError):
    """The process that forks has ended; the text is what it printed."""


class MutantServer:
    """The process; one trial at a time."""

    def __init__(self, tests: Sequence[str], folder: Path = ROOT) -> None:
        """tests: those that trials may name, as arguments of pytest in that folder."""
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers)
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this is
        environment = {
            # Whoever runs the mutants looks for what is left, or nobody does: not each of them.
            RUN_VARIABLE: "mutant",
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs), *tests],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=self._printed,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()
        self._printed.close()

    def noticed(self, trial: Trial, seconds_max: float) -> str | None:
        """Who notices the mutant; None: nobody.

        Raises RuntimeError if the trial does not run, subprocess.TimeoutExpired after seconds_max,
        and ServerEnded.
        """
        assert self._process.stdin is not None
        # One is answered before the next, and a pipe takes no trial that large at once: both wait.
        with contextlib.suppress(BrokenPipeError):
            request = json.dumps([seconds_max, msgspec.to_builtins(trial)])
            self._process.stdin.write(f"{request}\n".encode())
            self._process.stdin.flush()
        line = self._answers.readline()
        if not line:
            self._process.wait()
            self._printed.seek(0)
            raise ServerEnded(self._printed.read().decode(errors="replace"))
        if line == "null\n":
            raise subprocess.TimeoutExpired(trial.test or str(trial.tasks), seconds_max)
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise RuntimeError(answer.error)
        return answer.noticed


# --- in the server -------------------------------------------------------------------------------


class _Plugin:
    """Takes the place of pytest's loop over the tests that it has collected."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Serve until there are no more trials; pytest itself tells what it could not collect."""
        if session.testsfailed:
            return None
        _serve(session, self._answers)
        return True


def main(arguments: Sequence[str]) -> int:
    """`python -m tests.mutants.mutant_server DESCRIPTOR TESTS...`; gives the exit code."""
    # A fork is killed when our input ends; until then whoever started us decides, not the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, *tests = arguments
    with os.fdopen(int(descriptor), "w") as answers:
        if tests:
            return int(pytest.main([*PYTEST, *tests], plugins=[_Plugin(answers)]))
        _serve(None, answers)
    return 0


def _serve(session: pytest.Session | None, answers: IO[str]) -> None:
    functions: Functions | None = None
    while line := sys.stdin.readline():
        seconds_max, plain = json.loads(line)
        trial = msgspec.convert(plain, Trial)
        if trial.module not in sys.modules or functions is None:
            importlib.import_module(trial.module)
            gc.unfreeze()
            functions = all_functions()
            # The collector of a fork need not go through what all have.
            gc.freeze()
        with tempfile.TemporaryFile("w+", errors="replace") as printed:
            child = os.fork()
            if child == 0:
                _become(trial, functions, session, answers, printed)
            code = _ended(child, seconds_max)
            if code is None:
                answers.write("null\n")
            elif code != 0:
                printed.seek(0)
                said = printed.read()[-ERROR_CHARACTERS_MAX:]
                error = Answer(error=f"{trial.test} ended with {code}: {said}")
                answers.write(msgspec.json.encode(error).decode() + "\n")
        answers.flush()


def _become(
    trial: Trial,
    functions: Functions,
    session: pytest.Session | None,
    answers: IO[str],
    printed: IO[str],
) -> NoReturn:
    """Run the trial in this child and write its answer; another exit code than 0: it did not."""
    code = 1
    try:
        # All that it starts is of its session, and is killed with it.
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            os.dup2(printed.fileno(), descriptor)
        if trial.file:
            file = str(ROOT / trial.file)
            changed = changed_code(Path(file).read_text(), trial.broken, file)
            assert give_code(functions, file, changed) or not changed, "they are nowhere"
        noticed = _failing_test(trial, session) if trial.test else _failing_seed(trial)
        answers.write(msgspec.json.encode(Answer(noticed)).decode() + "\n")
        answers.flush()
        code = 0
    except BaseException:  # noqa: BLE001 - what Python does with it at its end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _failing_test(trial: Trial, session: pytest.Session | None) -> str | None:
    assert session is not None, "no tests were named"
    name = trial.test
    items = [
        item
        for item in session.items
        if item.nodeid == name or item.nodeid.startswith((f"{name}[", f"{name}::"))
    ]
    if not items:
        raise LookupError(f"there is no test {name}")
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return f"test {name}"
    return None


def _failing_seed(trial: Trial) -> str | None:
    for task in trial.tasks:
        result = run_task(task)
        if isinstance(result, Failure):
            return str(result).partition("\n")[0][:160]
    return None


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
    sys.exit(main(sys.argv[1:]))
