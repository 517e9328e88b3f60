"""What is run, and what came of it: the words between the executor and its sandboxes."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from ci.operations import Outcome
from node.build_log import BuildLog
from node.pipeline import Pipeline

# Runs its arguments as commands, one after the other in one shell that stops at the first failure
# (`sh -e -c RUN_COMMANDS name command...`). `for` takes its list before the first command can
# change "$@".
RUN_COMMANDS = """for pbft_ci_command do
  printf '+ %s\\n' "$pbft_ci_command"
  eval "$pbft_ci_command"
done"""


class Work(msgspec.Struct, frozen=True):
    """A checked-out build, ready to run.

    label: the build's own name, unique on this replica (hex of the id, opening sequence).
    tree: a tar file of the commit's tree. folder: the build's work folder, removed afterwards.
    job: the pipeline, or the bytes of the Dockerfile where there is no pipeline file.
    commit_seconds: the commit's own time, for SOURCE_DATE_EPOCH.
    show_state: tells people where the build is.
    """

    label: str
    tree: Path
    folder: Path
    job: Pipeline | bytes
    commit_seconds: int
    log: BuildLog
    show_state: Callable[[str], None]


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended. exit_code only for passed and failed; problem: a line for the log."""

    outcome: Outcome
    exit_code: int | None = None
    image_digest: str | None = None
    image_id: str | None = None
    problem: str | None = None


def result_of_exit(code: int, image_digest: str | None, image_id: str | None) -> RunResult:
    """Passed for 0, failed for anything else; a code beyond a byte counts as 255."""
    outcome = Outcome.PASSED if code == 0 else Outcome.FAILED
    exit_code = code if 0 <= code <= 255 else 255
    return RunResult(outcome, exit_code, image_digest, image_id)


def build_environment(home: str, commit_seconds: int) -> dict[str, str]:
    """The variables that every build sees, the same on every replica but for HOME."""
    return {
        "CI": "true",
        "HOME": home,
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(commit_seconds),
    }


class Sandbox(Protocol):
    """Where builds run. All three raise nothing but OwnTrouble and CancelledError."""

    async def start(self) -> None:
        """Remove what a crash left behind."""

    async def run(self, work: Work) -> RunResult:
        """Run it to its end; nothing of it is left afterwards, also when cancelled."""

    async def close(self) -> None:
        """Let go of connections; no build is running any more."""
