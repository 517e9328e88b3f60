"""Runs builds as plain processes of this node, without container or isolation, if configured.

For machines without Docker, and for repositories that are trusted as much as the node itself.
"""

import logging
import os
import select
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline.pipeline_file import Pipeline, Step
from node.outputs.artifact_store import take_from_folder
from node.outputs.build_log import BuildLog
from node.sandboxes import build_supervisor
from node.sandboxes.sandbox import (
    GRACE_SECONDS,
    RUN_COMMANDS,
    RunResult,
    Work,
    build_environment,
    result_of_exit,
)
from node.sandboxes.step_sequence import StepSequence
from node.sandboxes.workspace_files import WorkspaceFiles
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, Stopped, in_thread

POLL_SECONDS = 0.2
CHUNK_BYTES = 64 * 1024
# what a killed group has written may still be in the pipe
DRAIN_SECONDS = 1.0
# the supervisor's own patience, and some for a machine that is busy
KILL_SECONDS = build_supervisor.KILL_SECONDS + 10.0

WARNING = "executor: process runs builds WITHOUT ISOLATION, with all the rights of this node"

_log = logging.getLogger(__name__)


class ProcessSandbox:
    """Implements `Sandbox` with a shell of this machine."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    async def start(self, limits: Limits) -> None:
        """Warn. Nothing is left of a node that crashed: its builds' supervisors saw to that."""
        _log.warning(WARNING)

    async def close(self) -> None:
        """Nothing is held."""

    async def run(self, work: Work) -> RunResult:
        """Run the steps in the commit's tree, a shell for each; no image is looked at."""
        pipeline = work.job
        if not isinstance(pipeline, Pipeline):
            raise InfrastructureError(
                "this replica cannot build a Dockerfile (executor: process), and the commit has no"
                " pipeline file",
                is_permanent=True,
            )
        if pipeline.services:
            raise InfrastructureError(
                "this replica starts no services (executor: process), and the pipeline asks for"
                f" {pipeline.services[0].name}",
                is_permanent=True,
            )
        if work.inputs is not None:
            raise InfrastructureError(
                "this replica hands no dependencies into builds (executor: process)",
                is_permanent=True,
            )
        work.log.note(WARNING)
        steps = work.wanted_steps(pipeline)
        if not steps:
            return RunResult(Outcome.SKIPPED)
        return await in_thread(
            self._threads, lambda stop: self._run(work, pipeline, steps, stop=stop)
        )

    async def stage_caches(self, work: Work) -> None:
        """As `Sandbox`: there are no caches."""

    async def remove(self, label: str) -> None:
        """Nothing is left of a build but its work folder, which is its caller's."""

    def _run(
        self, work: Work, pipeline: Pipeline, steps: tuple[Step, ...], *, stop: Stop
    ) -> RunResult:
        """Blocking. Raises Stopped and InfrastructureError."""
        try:
            checkout, home = work.folder / "checkout", work.folder / "home"
            home.mkdir(parents=True)
            _unpack(work.tree, checkout)
            files = WorkspaceFiles(
                work,
                pipeline,
                workspace=str(checkout),
                take=lambda collector: take_from_folder(collector, checkout, stop),
                stop=stop,
            )
            passed = RunResult(Outcome.PASSED, 0)
            sequence = StepSequence(work, pipeline, steps, passed=passed, files=files)
            for _, step in sequence.steps():
                stop.check()
                seconds = sequence.begin(step)
                ends_at = time.monotonic() + seconds
                code = _run_shell(step, checkout, home, work=work, ends_at=ends_at, stop=stop)
                sequence.end(step, _result_of(code))
            return files.finish(sequence.result)
        except OSError as error:
            raise InfrastructureError(f"this machine: {error}") from error


def _result_of(code: int | None) -> RunResult:
    """What a step came to (`_run_shell`)."""
    if code is None:
        return RunResult(Outcome.TIMED_OUT)
    # a shell that was killed has no exit code; shells themselves say 128 + signal
    return result_of_exit(code if code >= 0 else 128 - code, None, None)


def _unpack(tree: Path, checkout: Path) -> None:
    """The tree on this machine's own disk: here a link that leads out of it would be harm."""
    checkout.mkdir()
    try:
        with tarfile.open(tree, encoding="utf-8", errors="surrogateescape") as archive:
            members = archive.getmembers()
            for member in members:
                _check_member(member)
                # Whoever runs the node owns what it unpacks.
                member.uid, member.gid, member.uname, member.gname = (
                    os.getuid(),
                    os.getgid(),
                    "",
                    "",
                )
            # Python before 3.11.4 has no filters, and the tree is checked by ourselves above.
            archive.extraction_filter = _take_as_it_is
            archive.extractall(checkout, members)  # noqa: S202
    except tarfile.TarError as error:
        raise InfrastructureError(f"the exported tree cannot be read: {error}") from error


def _check_member(member: tarfile.TarInfo) -> None:
    """Paths were checked when the tree was exported (node.sources.tree); here links are, too."""
    if member.isreg() or member.isdir():
        return
    place = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
    if not member.issym() or os.path.isabs(place) or place.split(os.sep)[0] == os.pardir:
        name = member.name.encode("unicode_escape", "backslashreplace").decode()[:100]
        raise InfrastructureError(
            f"the commit holds what executor: process does not unpack: {name} is no file, folder,"
            " or link inside the tree",
            is_permanent=True,
        )


def _take_as_it_is(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def _run_shell(
    step: Step, checkout: Path, home: Path, *, work: Work, ends_at: float, stop: Stop
) -> int | None:
    """The shell's exit code (negative: minus the signal), None where its time was over."""
    path = {"PATH": os.environ.get("PATH", os.defpath)}
    environment = path | build_environment(str(home), work.origin, step)
    log = work.log
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", build_supervisor.__file__),
            *("/bin/sh", "-e", "-c", RUN_COMMANDS, "pbft-ci", *step.commands),
        ],
        cwd=checkout,
        env=environment,
        # We alone hold its other end: when that closes, nothing of the build goes on.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # what ends the node from a terminal is not for the build
        start_new_session=True,
        # as in a container: the node's own files are nobody else's business, a build's are
        umask=0o022,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    try:
        has_ended = _follow(process.pid, output, ends_at, log=log, stop=stop)
    except Stopped:
        process.terminate()
        log.note(f"asked to stop; {GRACE_SECONDS} s until it is killed")
        _follow(process.pid, output, time.monotonic() + GRACE_SECONDS, log=log, stop=None)
        raise
    finally:
        process.stdin.close()
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            _log.error("a build's supervisor hangs, and is killed")
            process.kill()
            process.wait()
        _drain(output, log)
        process.stdout.close()
    return process.returncode if has_ended else None


def _follow(pid: int, output: int, ends_at: float, *, log: BuildLog, stop: Stop | None) -> bool:
    """Take the output until the process ends (True) or its time does (False)."""
    is_open = True
    while True:
        if stop is not None:
            stop.check()
        if is_open:
            if _is_ready(output, POLL_SECONDS):
                is_open = _read_some(output, log)
        else:
            time.sleep(POLL_SECONDS / 10)
        # looked at, not collected
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        if time.monotonic() >= ends_at:
            return False


def _drain(output: int, log: BuildLog) -> None:
    """What is still in the pipe; a process that got away may hold it open, so not for long."""
    until = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < until:
        if not _is_ready(output, until - time.monotonic()) or not _read_some(output, log):
            return


def _is_ready(output: int, seconds: float) -> bool:
    """Whether there is something to read, or will be within the time."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    return bool(poll.poll(max(0.0, 1000 * seconds)))


def _read_some(output: int, log: BuildLog) -> bool:
    """Take what is there; False at the end of the output."""
    try:
        data = os.read(output, CHUNK_BYTES)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)
