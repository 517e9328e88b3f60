"""Runs a pending build on this node, from its order to a ballot.

A build result is what the build came to, and honest replicas get the same. An infrastructure error
is retried with growing pauses, and becomes an Abstain that gives the reason.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from ci.artifact_rules import BILL_OF_MATERIALS, artifacts_refusal
from ci.case_reports import with_cases
from ci.limits import Limits
from ci.operations import (
    CHECKOUT_FAILED_EXIT_CODE,
    Abstain,
    Agreement,
    Ballot,
    BuildMetadata,
    BuildResult,
    Outcome,
    ResultKey,
    Step,
    UsedCache,
)
from common.configuration.config import NodeConfig, RepositoryEntry
from common.english import counted
from common.log_pieces import LogPiece, read_log_file
from common.pipeline.pipeline_file import (
    PIPELINE_FILE,
    Clone,
    LockedBy,
    Pipeline,
    PipelineInvalid,
    parse_pipeline,
)
from common.ref_names import ref_of
from common.retention import DAY_SECONDS, KeepRules
from driver.ports import BuildOrder
from node.builds.cached_runs import CachedRuns, IsContradicted, cached_files
from node.builds.matrix import run_cells
from node.caches.cache_store import CacheCounts
from node.dependencies.fetch_messages import Flawed, Unavailable
from node.dependencies.input_fetch import InputFetch, Prepared
from node.outputs.artifact_store import ARTIFACTS_FOLDER, add_artifact, keep_artifacts
from node.outputs.build_log import TIMES, BuildLog
from node.outputs.case_details import DETAILS, keep_details
from node.outputs.kept_builds import WORK_FOLDER, KeptBuilds, remove_folder
from node.outputs.report_readers import ReportReaders
from node.sandboxes.containers.docker_sandbox import DockerSandbox
from node.sandboxes.containers.swarm_sandbox import SwarmSandbox
from node.sandboxes.process_sandbox import ProcessSandbox
from node.sandboxes.sandbox import (
    NETWORK_WAS_OFF,
    Origin,
    RunResult,
    Sandbox,
    Work,
    failed,
)
from node.sources.checkout import Checkout, NotThere
from node.sources.dockerfile import DOCKERFILE, dependencies_of
from node.sources.history import HistoryRoom
from node.sources.mirror import NotAFile, Source
from node.sources.tree import TreeRefused
from node.work.beside import beside
from node.work.fair_semaphore import FairSemaphore
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread

RETRY_SECONDS_MIN = 1.0
# a git server or an engine that is back should be noticed before people give up
RETRY_SECONDS_MAX = 8.0
# how often old logs are looked for where nothing is built
SWEEP_AGAIN_SECONDS = 600.0
# of a build's folder: its commit and those before it
COMMITS = "commits"

_log = logging.getLogger(__name__)

_Key = tuple[bytes, int]

_WHAT_TO_ADD = f"add {PIPELINE_FILE} with image: and commands: (docs/PIPELINES.md)"
_NOTHING_TO_RUN = f"the commit has neither this file nor a {DOCKERFILE}; {_WHAT_TO_ADD}"
_NO_DOCKERFILES = (
    f"the commit has no such file, and this operator builds no {DOCKERFILE} (allow_dockerfile);"
    f" {_WHAT_TO_ADD}"
)


class _NotNeeded(Exception):
    """The pipeline asks for weak agreement, and this replica is not among those who build first."""


class _Found(msgspec.Struct, frozen=True):
    """What one try found, before it is put into a ballot."""

    result: RunResult
    pipeline_sha256: str | None
    agreement: Agreement
    steps: tuple[Step, ...]
    checkout_seconds: float
    build_seconds: float
    caches: tuple[UsedCache, ...] = ()


class BuildRunner:
    """Runs builds, `builds_at_once` at a time; the others wait."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        cluster_id: bytes,
        version: str,
        is_contradicted: IsContradicted = lambda key, own: False,
    ) -> None:
        """Starts nothing yet. version: of this software, for the evidence."""
        self._config = config
        self._version = version
        rules = KeepRules(
            items_max=config.builds_kept_max,
            bytes_max=config.builds_bytes_max,
            seconds_max=config.builds_days_max * DAY_SECONDS,
        )
        self.kept = KeptBuilds(config.data_directory / "builds", rules, time.time)
        # A build needs two threads at a time, and a third for its commits; one more for what is
        # being tidied up.
        thread_count = 4 * config.builds_at_once + 1
        self._threads = ThreadPoolExecutor(thread_count, thread_name_prefix="build")
        self._checkout = Checkout(config, self._threads)
        self._sandbox = self._make_sandbox(cluster_id, thread_count)
        self._cached_runs = CachedRuns(
            config,
            self._threads,
            checkout=self._checkout,
            sandbox=self._sandbox,
            is_contradicted=is_contradicted,
        )
        self._inputs = InputFetch(config)
        self._readers = ReportReaders()
        self._slots = FairSemaphore(config.builds_at_once)
        self._states: dict[_Key, str] = {}
        # of the builds that run now; a finished log is its file
        self._logs: dict[_Key, BuildLog] = {}
        # another one after each start, when a build begins its log anew
        self.run_id = secrets.token_hex(8)
        self._tasks: set[asyncio.Task[object]] = set()
        # of the builds that have their ballot already; each still holds its slot
        self._tidying: dict[_Key, asyncio.Task[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._is_closed = False

    async def start(self, limits: Limits) -> None:
        """Remove what a crash left behind: work folders, containers, images. Raises OSError.

        limits: those that hold now, to be compared with this machine; each build has its own.
        """
        await in_thread(self._threads, lambda stop: self.kept.start())
        self._checkout.start()
        await in_thread(self._threads, lambda stop: self._inputs.start())
        await self._cached_runs.start()
        # what it sweeps is open now
        self._sweeper = asyncio.create_task(self._sweep(), name="sweeper")
        await self._sandbox.start(limits)

    async def close(self) -> None:
        """Stop all builds and wait until nothing of them is left. Their callers see a cancel."""
        self._is_closed = True
        self._cached_runs.stop_staging()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        tasks = tuple(self._tasks - {asyncio.current_task()})
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.settle()
        await self._cached_runs.close()
        await self._sandbox.close()
        self._readers.close()
        self._threads.shutdown(wait=False)

    async def settle(self) -> None:
        """Wait until nothing is left of the builds that have their ballots."""
        while self._tidying:
            await asyncio.wait(tuple(self._tidying.values()))
        await self._cached_runs.settle()

    async def build(self, order: BuildOrder) -> Ballot | None:
        """The ballot of this replica on a build. May be cancelled; nothing is left of it then.

        None: the order is of one to spare, and the pipeline asks for weak agreement.
        What is left of it after a result is removed behind it: nobody's ballot waits for that.

        Waits for a slot, checks out, runs. After an infrastructure error it tries again until
        abstain_after_seconds have passed since it began. Raises nothing but CancelledError.
        """
        key = (order.build, order.opened)
        assert not self._is_closed, "no build after close"
        assert key not in self._states, "a build is run once at a time"
        task = asyncio.current_task()
        assert task is not None
        self._states[key] = "waiting"
        self._tasks.add(task)
        try:
            return await self._build(order, key)
        except _NotNeeded:
            return None
        except Exception:  # noqa: BLE001 (one build's fault in our code must not end the node)
            _log.exception("build %s: a fault of our own", order.build.hex())
            return Abstain("a fault in this node's software; its log has the details")
        finally:
            self._tasks.discard(task)
            del self._states[key]

    @property
    def cache_counts(self) -> CacheCounts:
        """What came of caches since the start."""
        return self._cached_runs.caches.counts

    def note_ledger(self, body: bytes) -> None:
        """The ledger has a new entry, on disk: it may say what becomes of caches."""
        self._cached_runs.note_ledger(body)

    def use_repositories(self, repositories: Sequence[RepositoryEntry]) -> None:
        """Take another list of repositories, for tries that begin from now on."""
        self._checkout.use_repositories(repositories)

    def log_path(self, build: bytes, opened: int) -> Path:
        """Where this replica's log of the build is, or will be. Bytes of strangers."""
        return self._folder(build, opened) / "log"

    def artifacts_path(self, build: bytes, opened: int) -> Path:
        """The folder of what this replica's build made, or will be: node.outputs.artifact_store."""
        return self._folder(build, opened) / ARTIFACTS_FOLDER

    def cases_path(self, build: bytes, opened: int) -> Path:
        """The file of a build's test cases, or will be: node.outputs.case_details."""
        return self._folder(build, opened) / DETAILS

    def commits_path(self, build: bytes, opened: int) -> Path:
        """The file of its commit and of those before it, or will be: node.sources.commits."""
        return self._folder(build, opened) / COMMITS

    def times_path(self, build: bytes, opened: int) -> Path:
        """The file that says when each part of the log came, or will be: common.log_times."""
        return self.log_path(build, opened).with_name(TIMES)

    def read_log(
        self, build: bytes, opened: int, offset: int, *, bytes_max: int
    ) -> LogPiece | None:
        """A piece of the log, also while the build runs or waits; None: there is none. OSError."""
        key = (build, opened)
        if key in self._logs:
            return self._logs[key].read(offset, bytes_max)
        if key in self._states:
            return LogPiece(0, b"", 0, None, True)
        path = self.log_path(build, opened)
        if not path.is_file():
            return None
        return read_log_file(path, offset, bytes_max=bytes_max)

    def state(self, build: bytes, opened: int) -> str:
        """waiting | checkout | worker | image | caches | services | building | retrying: <reason>

        Or none.
        """
        return self._states.get((build, opened), "none")

    def states(self) -> list[str]:
        """The states of all builds that are at hand here, as `state` says them; or "removing"."""
        return [*self._states.values(), *("removing" for _ in self._tidying)]

    async def _build(self, order: BuildOrder, key: _Key) -> Ballot:
        """Tries until there is a ballot. A slot is held only while something is done.

        That includes the removal of what is left of a build: there are never more than the slots.
        """
        log: BuildLog | None = None
        give_up_at: float | None = None
        pause_seconds = RETRY_SECONDS_MIN
        try:
            if key in self._tidying:
                await asyncio.wait([self._tidying[key]])
            while True:
                self._states[key] = "waiting"
                async with AsyncExitStack() as held:
                    await held.enter_async_context(self._slots.hold(order.repository))
                    try:
                        log = self._logs[key] = log or self._open_log(order)
                        result = await self._try(order, key, log)
                        self._tidy_behind(order, key, held.pop_all())
                        return result
                    except InfrastructureError as error:
                        failure = error
                now = time.monotonic()
                if give_up_at is None:
                    give_up_at = now + self._config.abstain_after_seconds
                _log.warning("build %s: %s", order.build.hex(), failure.reason)
                if log is not None:
                    self._note(log, f"infrastructure error: {failure.reason}")
                if failure.is_permanent or now >= give_up_at:
                    return Abstain(failure.reason)
                self._states[key] = f"retrying: {failure.reason}"
                await asyncio.sleep(min(pause_seconds, give_up_at - now))
                pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
        finally:
            try:
                # after a result it is finished already
                if log is not None and log.is_open:
                    await self._finish(log)
            finally:
                self._logs.pop(key, None)
                if log is not None:
                    log.close()

    async def _try(self, order: BuildOrder, key: _Key, log: BuildLog) -> BuildResult:
        """One try from the checkout to the result, which is to be tidied up behind it.

        Raises InfrastructureError, _NotNeeded: then it is tidied up already, as when it is
        cancelled.
        """

        def show_state(state: str) -> None:
            self._states[key] = state

        folder, cases_path = self._work_folder(key), self.cases_path(*key)
        try:
            cases_path.unlink(missing_ok=True)
            folder.mkdir()
            found = await self._find(order, folder, log, show_state=show_state)
            if found.result.artifacts:
                made, kept = folder / ARTIFACTS_FOLDER, self.artifacts_path(*key)
                # before the log is finished: where the disk fails, all is tried again
                await in_thread(self._threads, lambda stop: keep_artifacts(made, kept))
            if (details := found.result.cases) is not None:
                await in_thread(self._threads, lambda stop: keep_details(details, cases_path))
            if found.result.problem is not None:
                log.note(found.result.problem)
            log.note(found.result.in_words)
            if found.result.network_was_off and log.looks_offline():
                log.note(NETWORK_WAS_OFF)
            log_sha256, log_bytes = await in_thread(self._threads, lambda stop: log.finish())
            result = self._result(order, found, log_sha256, log_bytes=log_bytes)
            if details is None or not details.cases:
                return result
            # many cases take a moment
            outcomes, names = details.outcomes, frozenset(details.quarantined)
            return await in_thread(
                self._threads, lambda stop: with_cases(result, outcomes, quarantined=names)
            )
        except OSError as error:
            await self._give_up(order, key)
            raise InfrastructureError(f"this machine: {error}") from error
        except BaseException:
            # A cancel above all: what else goes wrong must not take its place.
            await self._give_up(order, key)
            raise

    def _result(
        self, order: BuildOrder, found: _Found, log_sha256: str, *, log_bytes: int
    ) -> BuildResult:
        return BuildResult(
            _compared(order, found),
            BuildMetadata(
                log_sha256=log_sha256,
                log_bytes=log_bytes,
                image_id=found.result.image_id,
                checkout_milliseconds=round(1000 * found.checkout_seconds),
                build_milliseconds=round(1000 * found.build_seconds),
                version=self._version,
                caches=found.caches,
            ),
        )

    async def _find(
        self, order: BuildOrder, folder: Path, log: BuildLog, *, show_state: Callable[[str], None]
    ) -> _Found:
        """Check out and run. Raises InfrastructureError, _NotNeeded, OSError."""
        began_at = time.monotonic()
        show_state("checkout")
        log.note(f"{order.repository} branch {order.branch} commit {order.commit or 'none'}")
        source = await self._checkout.check_out(
            order.repository,
            ref_of(order.branch, order.ref),
            order.commit,
            target=folder / "tree.tar",
            workspace_bytes=order.limits.workspace_bytes,
        )
        checked_out_at = time.monotonic()
        if isinstance(source, NotThere):
            result = RunResult(
                Outcome.CHECKOUT_FAILED, CHECKOUT_FAILED_EXIT_CODE, problem=source.problem
            )
            return _Found(result, None, Agreement.DEFAULT, (), checked_out_at - began_at, 0.0)
        # nothing of the build needs them
        async with beside(self._keep_commits(order)):
            return await self._run_source(
                order,
                source,
                folder=folder,
                log=log,
                show_state=show_state,
                seconds=checked_out_at - began_at,
            )

    async def _run_source(
        self,
        order: BuildOrder,
        source: Source,
        *,
        folder: Path,
        log: BuildLog,
        show_state: Callable[[str], None],
        seconds: float,
    ) -> _Found:
        """Run what was checked out in so many seconds. Raises as `_find`."""
        checked_out_at = time.monotonic()
        for line in source.modules:
            log.note(line)
        # a stranger's file may take long to read
        job, pipeline_sha256 = await in_thread(
            self._threads, lambda stop: self._job(source, order.limits)
        )
        if order.is_spare and isinstance(job, Pipeline) and job.agreement == Agreement.WEAK:
            log.note("the pipeline asks for weak agreement: this replica stands by")
            raise _NotNeeded
        if isinstance(job, Pipeline) and job.needs_changes(
            order.branch, order.event, order.schedule
        ):
            job = await self._for_changes(order, job, log)
        files: Mapping[str, str] | PipelineInvalid = {}
        if isinstance(job, Pipeline) and job.caches:
            assert isinstance(source.tree, Path), "a refused tree has no job"
            files = await in_thread(self._threads, partial(cached_files, job, source.tree))
            job = files if isinstance(files, PipelineInvalid) else job
        if isinstance(job, Pipeline) and job.clone is not None:
            refused = await self._add_history(order, source, job.clone, folder=folder, log=log)
            if refused is not None:
                job = PipelineInvalid(f"the tree {refused.problem}", file="the commit")

        def found(result: RunResult) -> _Found:
            return _Found(
                result,
                pipeline_sha256,
                Agreement(job.agreement) if isinstance(job, Pipeline) else Agreement.DEFAULT,
                _steps(job, order, result.outcome) if isinstance(job, Pipeline) else (),
                seconds,
                time.monotonic() - checked_out_at,
            )

        if isinstance(job, PipelineInvalid):
            *others, last = job.texts
            for text in others:
                log.note(text)
            return found(RunResult(Outcome.PIPELINE_INVALID, problem=last))
        assert isinstance(source.tree, Path), "a refused tree has no job"
        assert not isinstance(files, PipelineInvalid), "then there is no job"
        inputs = None
        dependencies = job.dependencies if isinstance(job, Pipeline) else dependencies_of(job)
        if dependencies:
            prepared = await self._prepare_inputs(
                order, dependencies, source.tree, folder=folder, log=log
            )
            if isinstance(prepared, RunResult):
                return found(prepared)
            inputs = prepared
        work = Work(
            label=_name(order.build, order.opened),
            tree=source.tree,
            folder=folder,
            job=job,
            origin=_origin(order, source.commit_seconds),
            limits=order.limits,
            log=log,
            show_state=show_state,
            local_images=source.local_images,
            inputs=None if inputs is None else inputs.handed,
            report_readers=self._readers,
        )
        result = await self._cached_runs.run(
            order,
            work,
            files,
            heads=source.heads,
            attempt=self._attempt,
            key_of=lambda result: _compared(order, found(result)),
        )
        if result.outcome is Outcome.PASSED:
            bill = None if inputs is None else inputs.bill
            passed = result
            result = await in_thread(self._threads, lambda stop: _with_bill(passed, work, bill))
        return msgspec.structs.replace(found(result), caches=self._cached_runs.used(order))

    async def _prepare_inputs(
        self,
        order: BuildOrder,
        dependencies: Sequence[LockedBy],
        tree: Path,
        *,
        folder: Path,
        log: BuildLog,
    ) -> Prepared | RunResult:
        """What the lock files pin, or what the build comes to without it.

        Raises InfrastructureError, OSError.
        """
        assert order.commit is not None, "nothing is checked out without a commit"
        source = (order.repository, order.commit)
        began_at = time.monotonic()
        prepared = await in_thread(
            self._threads,
            lambda stop: self._inputs.prepare(dependencies, tree, folder, source=source, stop=stop),
        )
        if isinstance(prepared, Flawed):
            flaws = [PipelineInvalid(text, file=file).text for file, text in prepared.flaws]
            for text in flaws[1:]:
                log.note(text)
            return RunResult(Outcome.PIPELINE_INVALID, problem=flaws[0])
        if isinstance(prepared, Unavailable):
            return RunResult(Outcome.DEPENDENCIES_UNAVAILABLE, problem=prepared.text)
        seconds = time.monotonic() - began_at
        log.note(
            f"dependencies: {counted(prepared.count, 'input')}, {prepared.handed.page_bytes} bytes,"
            f" in {seconds:.1f} s; the SHA-256 of their list is"
            f" {hashlib.sha256(prepared.bill).hexdigest()}"
        )
        return prepared

    async def _attempt(self, work: Work) -> RunResult:
        """Run the work, each cell of it. Raises InfrastructureError, OSError."""
        cells = work.job.cells if isinstance(work.job, Pipeline) else ()
        if cells:
            return await run_cells(self._sandbox, work, cells, threads=self._threads)
        return await self._sandbox.run(work)

    async def _for_changes(self, order: BuildOrder, pipeline: Pipeline, log: BuildLog) -> Pipeline:
        """The pipeline without the steps that are for other files. Raises InfrastructureError."""
        assert order.commit is not None, "nothing is checked out without a commit"
        changes = await self._checkout.find_changes(order.repository, order.branch, order.commit)
        if changes.paths is None:
            log.note(f"path: {changes.problem}: every step runs, whatever its path")
            return pipeline
        changed = counted(len(changes.paths), "file")
        log.note(f"path: {changed} changed since {changes.base}, where {order.branch} was left")
        paths = changes.paths
        # a stranger's globs and paths
        return await in_thread(self._threads, lambda stop: pipeline.for_changes(paths))

    async def _add_history(
        self, order: BuildOrder, source: Source, clone: Clone, *, folder: Path, log: BuildLog
    ) -> TreeRefused | None:
        """Put `.git` into the tree; None: it is there. Raises InfrastructureError, OSError."""
        assert isinstance(source.tree, Path), "a refused tree has no job"
        assert order.commit is not None, "nothing is checked out without a commit"
        work = folder / "history"
        await in_thread(self._threads, lambda stop: work.mkdir())
        made = await self._checkout.add_history(
            order.repository,
            ref_of(order.branch, order.ref),
            order.commit,
            clone=clone,
            room=HistoryRoom(
                source.tree, work, max(0, order.limits.workspace_bytes - source.tree_bytes)
            ),
        )
        if isinstance(made, TreeRefused):
            return made
        log.expect_git()
        depth = "all of the history" if clone.depth is None else f"depth {clone.depth}"
        tags = f", {made.tag_count} tags (SHA-256 of their list {made.tags_sha256})"
        log.note(f"clone: {depth}{tags if clone.has_tags else ''}")
        return None

    async def _keep_commits(self, order: BuildOrder) -> None:
        """Keep the commit's own words for people. No build fails for want of them.

        Raises OSError.
        """
        assert order.commit is not None, "nothing is checked out without a commit"
        try:
            objects = await self._checkout.list_commits(order.repository, order.commit)
        except InfrastructureError as error:
            _log.warning("build %s: its commits are not kept: %s", order.build.hex(), error.reason)
            return
        path = self.commits_path(order.build, order.opened)
        await in_thread(self._threads, lambda stop: _replace(path, objects))

    def _job(
        self, source: Source, limits: Limits
    ) -> tuple[Pipeline | bytes | PipelineInvalid, str | None]:
        """What to run, and the SHA-256 of the file that says so (None where it is no file)."""
        name, data = PIPELINE_FILE, source.pipeline
        if data is None:
            name, data = DOCKERFILE, source.dockerfile
        if data is None or (name == DOCKERFILE and not self._config.allow_dockerfile):
            return PipelineInvalid(_NOTHING_TO_RUN if data is None else _NO_DOCKERFILES), None
        if isinstance(data, NotAFile):
            return PipelineInvalid(data.problem, file=name), None
        digest = hashlib.sha256(data).hexdigest()
        if isinstance(source.tree, TreeRefused):
            return PipelineInvalid(f"the tree {source.tree.problem}", file="the commit"), digest
        if name == DOCKERFILE:
            return data, digest
        return parse_pipeline(data, limits, source.commit_seconds), digest

    def _make_sandbox(self, cluster_id: bytes, thread_count: int) -> Sandbox:
        if self._config.executor == "process":
            return ProcessSandbox(self._threads)
        kind = SwarmSandbox if self._config.executor == "swarm" else DockerSandbox
        return kind(self._config, cluster_id, threads=self._threads, connections_max=thread_count)

    def _open_log(self, order: BuildOrder) -> BuildLog:
        try:
            return BuildLog(self.log_path(order.build, order.opened), order.limits.log_bytes_max)
        except OSError as error:
            raise InfrastructureError(f"this machine: {error}") from error

    async def _finish(self, log: BuildLog) -> None:
        """Complete a log where the disk takes it."""
        with suppress(OSError):
            await in_thread(self._threads, lambda stop: log.finish())

    def _note(self, log: BuildLog, text: str) -> None:
        """A line in the build's log where the disk takes it; the failure may be the disk."""
        with suppress(OSError):
            log.note(text)

    def _folder(self, build: bytes, opened: int) -> Path:
        return self.kept.path(_name(build, opened))

    async def _sweep(self) -> None:
        """What is too old goes also where no build comes to an end."""
        sweeps: dict[str, Callable[[Stop], None]] = {
            "logs": lambda stop: self.kept.sweep(self._is_running),
            "inputs": self._inputs.sweep,
            "caches": lambda stop: self._cached_runs.caches.store.sweep(),
        }
        while True:
            for what, sweep in sweeps.items():
                try:
                    await in_thread(self._threads, sweep)
                except Exception:  # noqa: BLE001 (nobody waits for it: told here, and tried again)
                    _log.exception("old %s: a fault of our own", what)
            await asyncio.sleep(SWEEP_AGAIN_SECONDS)

    def _tidy_behind(self, order: BuildOrder, key: _Key, held: AsyncExitStack) -> None:
        """Store caches and tidy up while the ballot is on its way; then give the slot back."""

        async def tidy() -> None:
            try:
                async with held:
                    await self._cached_runs.stage(order)
                    await self._tidy_or_tell(key)
            finally:
                del self._tidying[key]

        self._tidying[key] = asyncio.create_task(tidy(), name=f"tidy {key[0].hex()[:12]}")

    async def _give_up(self, order: BuildOrder, key: _Key) -> None:
        """Leave nothing of a try without a result; raises nothing but CancelledError."""
        self._cached_runs.forget(order)
        await self._tidy_or_tell(key)

    async def _tidy_or_tell(self, key: _Key) -> None:
        """As `_tidy`; raises nothing but CancelledError."""
        try:
            await self._tidy(key)
        except Exception:  # noqa: BLE001 (told here, and the next start removes it)
            _log.exception("build %s: a fault of our own after its end", key[0].hex())

    async def _tidy(self, key: _Key) -> None:
        """Leave nothing of a try but its log and what it made."""
        try:
            await self._sandbox.remove(_name(*key))
        finally:
            await in_thread(self._threads, lambda stop: self._remove_work(key))

    def _remove_work(self, key: _Key) -> None:
        """Remove a work folder, and the folders of builds that are kept no longer.

        Nobody waits for it, so it also starts what the next build will need.
        """
        remove_folder(self._work_folder(key))
        self.kept.sweep(self._is_running)
        self._readers.prepare()

    def _work_folder(self, key: _Key) -> Path:
        return self._folder(*key) / WORK_FOLDER

    def _is_running(self, name: str) -> bool:
        return name in {_name(*key) for key in (*tuple(self._states), *tuple(self._tidying))}


def _with_bill(result: RunResult, work: Work, bill: bytes | None) -> RunResult:
    """The result with the list of what went in, if there is one, among its artifacts.

    A build that made a file of that name has failed: people would take it for ours. Raises OSError.
    """
    if any(artifact.path == BILL_OF_MATERIALS for artifact in result.artifacts):
        problem = f"artifact {BILL_OF_MATERIALS}: the name is for the list of what went in"
        return failed(result, problem)
    if bill is None:
        return result
    made = add_artifact(work.artifacts_folder, result.artifacts, path=BILL_OF_MATERIALS, data=bill)
    artifacts = tuple(sorted((*result.artifacts, made), key=lambda each: each.path))
    if refusal := artifacts_refusal(artifacts, work.limits):
        return failed(result, f"artifacts with {BILL_OF_MATERIALS}: {refusal}")
    return msgspec.structs.replace(result, artifacts=artifacts)


def _compared(order: BuildOrder, found: _Found) -> ResultKey:
    """What a ballot says of it that must be equal to count together."""
    return ResultKey(
        outcome=found.result.outcome,
        exit_code=found.result.exit_code,
        commit=order.commit,
        pipeline_sha256=found.pipeline_sha256,
        image_digest=found.result.image_digest,
        agreement=found.agreement,
        artifacts=found.result.artifacts,
        steps=found.steps,
    )


def _replace(path: Path, data: bytes) -> None:
    """Put the file at its place when it is complete. Raises OSError."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


def _origin(order: BuildOrder, commit_seconds: int) -> Origin:
    assert order.commit is not None, "nothing is checked out without a commit"
    return Origin(
        build=order.build.hex(),
        repository=order.repository,
        branch=order.branch,
        ref=order.ref or f"refs/heads/{order.branch}",
        event=order.event,
        commit=order.commit,
        commit_seconds=commit_seconds,
        schedule=order.schedule,
    )


def _steps(pipeline: Pipeline, order: BuildOrder, outcome: Outcome) -> tuple[Step, ...]:
    """What a finding says of the steps: see `ci.operations.Step`."""
    has_failed = outcome not in (Outcome.PASSED, Outcome.SKIPPED)
    steps = []
    for step in pipeline.steps:
        choice = step.is_wanted(order.branch, order.event, order.schedule) and (
            step.is_due(has_failed=False) or step.is_due(has_failed=has_failed)
        )
        ignored = choice and step.is_failure_ignored
        steps.append(Step(step.name, None if ignored else choice))
    return tuple(steps)


def _name(build: bytes, opened: int) -> str:
    return f"{build.hex()}-{opened}"
