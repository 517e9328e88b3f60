"""The port of every sandbox: what it is given to run, and what comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from ci.limits import Limits
from ci.operations import Artifact, ImageDigest, Outcome
from common.pipeline.pipeline_file import Pipeline, Step
from node.caches.build_caches import CacheAccess
from node.dependencies.hand_in import HandedInputs
from node.outputs.artifact_store import ARTIFACTS_FOLDER
from node.outputs.build_log import BuildLog
from node.outputs.case_details import REPORTS_FOLDER, CaseDetails
from node.outputs.report_readers import ReportReaders

# Runs its arguments as commands, one after the other in one shell that stops at the first failure
# (`sh -e -c RUN_COMMANDS name command...`). `for` takes its list before the first command can
# change "$@". A shell with a trap waits for the program that it runs before it ends, so a program
# that gets the same signal has its time of grace.
RUN_COMMANDS = """trap 'exit 143' TERM
for pbft_ci_command do
  printf '+ %s\\n' "$pbft_ci_command"
  eval "$pbft_ci_command"
done"""
# between the signal that asks a build to end and the one that ends it
GRACE_SECONDS = 2

NETWORK_WAS_OFF = "network was off; see network:"


class Origin(msgspec.Struct, frozen=True):
    """What is built, as the request says it: the same on every replica."""

    # the build's id (hex)
    build: str
    # the URL
    repository: str
    branch: str
    # the full name that the commit must be on
    ref: str
    event: str
    # the full id
    commit: str
    # the commit's own time, in seconds since 1970
    commit_seconds: int
    # which schedule was due; None for all events but cron
    schedule: str | None = None


class Work(msgspec.Struct, frozen=True):
    """A checked-out build, ready to run."""

    # the build's own name, unique on this replica (hex of the id, opening sequence)
    label: str
    # a tar file of the commit's tree
    tree: Path
    # the build's work folder, removed afterwards
    folder: Path
    # the pipeline, or the bytes of the Dockerfile if there is no pipeline file
    job: Pipeline | bytes
    origin: Origin
    # those that the build was opened under
    limits: Limits
    log: BuildLog
    # shows people where the build is
    show_state: Callable[[str], None]
    # the engine's images that it may use as they are
    local_images: tuple[str, ...]
    # what the pipeline's lock files pin; None: it names none
    inputs: HandedInputs | None = None
    # the caches that the pipeline names; None: it names none, or the build is to use none
    caches: CacheAccess | None = None
    # whose processes read its test reports; None: each is started for it
    report_readers: ReportReaders | None = None

    @property
    def artifacts_folder(self) -> Path:
        """Where what the build made is collected."""
        return self.folder / ARTIFACTS_FOLDER

    @property
    def reports_folder(self) -> Path:
        """Where its test reports are collected."""
        return self.folder / REPORTS_FOLDER

    def wanted_steps(self, pipeline: Pipeline) -> tuple[Step, ...]:
        """The steps that are for this branch and event; a line in the log for each other.

        Empty if none of them would run: those after a failure alone have nothing to follow.
        """
        wanted: list[Step] = []
        for step in pipeline.steps:
            if step.is_wanted(self.origin.branch, self.origin.event, self.origin.schedule):
                wanted.append(step)
            elif step.is_elsewhere:
                self.log.note(f"step {step.name}: for other cells (when:)")
            elif step.is_untouched:
                self.log.note(f"step {step.name}: no file of its path was changed (when:)")
            else:
                self.log.note(f"step {step.name}: not for this branch and event (when:)")
        if any(step.is_due(has_failed=False) for step in wanted):
            return tuple(wanted)
        self.log.note("no step is for this branch and event: nothing is run, nothing passes")
        return ()

    def begin_step(self, step: Step, number: int, count: int) -> None:
        """Tell people which step begins; number counts from 1."""
        self.log.note(f"step {step.name} ({number} of {count})")
        self.show_state("building" if count == 1 else f"building: {step.name}")


# As `ci.operations.ResultKey.image_digest`.
ImageDigests = str | tuple[ImageDigest, ...] | None


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended."""

    outcome: Outcome
    # only for passed and failed
    exit_code: int | None = None
    # of the image in its registry, None if it is none of a registry; or each of several images
    image_digest: ImageDigests = None
    # what the engine calls the image; None if there are several
    image_id: str | None = None
    # a line for the log
    problem: str | None = None
    # what failed had no network
    network_was_off: bool = False
    # sorted by path, only for passed
    artifacts: tuple[Artifact, ...] = ()
    # None: the pipeline names no test reports, or no step was run
    cases: CaseDetails | None = None

    @property
    def in_words(self) -> str:
        """`failed, exit code 1`."""
        code = "" if self.exit_code is None else f", exit code {self.exit_code}"
        return f"{self.outcome}{code}"


def result_of_exit(code: int, image_digest: ImageDigests, image_id: str | None) -> RunResult:
    """Passed for 0, failed for anything else; a code beyond a byte counts as 255."""
    outcome = Outcome.PASSED if code == 0 else Outcome.FAILED
    exit_code = code if 0 <= code <= 255 else 255
    return RunResult(outcome, exit_code, image_digest, image_id)


def build_environment(home: str, origin: Origin, step: Step | None) -> dict[str, str]:
    """The variables that a step sees, the same on every replica but for HOME.

    The pipeline's own win over ours, but for PBFTCI_..., which it cannot set. step None: a
    Dockerfile's image.
    """
    environment = {
        "CI": "true",
        "HOME": home,
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(origin.commit_seconds),
    }
    if step is not None:
        environment |= dict(step.environment)
    if origin.schedule is not None:
        environment["PBFTCI_SCHEDULE"] = origin.schedule
    return environment | {
        "PBFTCI": "true",
        "PBFTCI_BUILD": origin.build,
        "PBFTCI_REPOSITORY": origin.repository,
        "PBFTCI_BRANCH": origin.branch,
        "PBFTCI_REF": origin.ref,
        "PBFTCI_EVENT": origin.event,
        "PBFTCI_COMMIT": origin.commit,
        "PBFTCI_STEP": "" if step is None else step.name,
    }


def failed(result: RunResult, problem: str) -> RunResult:
    """What a build that passed comes to if something that its pipeline asks for is wrong."""
    return msgspec.structs.replace(
        result, outcome=Outcome.FAILED, exit_code=1, artifacts=(), problem=problem
    )


class Sandbox(Protocol):
    """Where builds run. They raise nothing but InfrastructureError and CancelledError."""

    async def start(self, limits: Limits) -> None:
        """Remove what a crash left behind. limits: those that hold now."""

    async def run(self, work: Work) -> RunResult:
        """Run it to its end. Whatever comes of it, also when cancelled, `remove` is to follow."""

    async def stage_caches(self, work: Work) -> None:
        """Between `run` and `remove`: write what the build left for its caches (`Work.caches`)."""

    async def remove(self, label: str) -> None:
        """Leave nothing of a build that was run; what was never run is nothing to do."""

    async def close(self) -> None:
        """Let go of connections; no build is running any more."""
