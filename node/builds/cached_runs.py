"""Runs builds with the caches that their pipelines name, and without them where those mislead.

A build finds no more trouble in its caches than that they are empty: what goes wrong is logged.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ci.assignments import Key
from ci.ledger import decode_entry
from ci.operations import CACHES_MAX, Outcome, ResultKey, UsedCache
from ci.references import full_ref
from common.configuration.config import NodeConfig
from common.pipeline.pipeline_file import Pipeline, PipelineInvalid
from common.retention import DAY_SECONDS
from driver.ports import BuildOrder
from node.caches.build_caches import BuildCaches, CacheAccess, Standing
from node.caches.cache_store import BuildKey, CacheRules, CacheStore
from node.caches.scope import Branches, scope_of
from node.outputs.kept_builds import remove_folder
from node.sandboxes.sandbox import RunResult, Sandbox, Work
from node.sources.checkout import Checkout
from node.sources.mirror import Heads
from node.sources.tree import file_digests
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread

CACHES_FOLDER = "caches"
# A second run may take this much longer than the first, which had what the caches hold.
COLD_FACTOR = 2.0

_log = logging.getLogger(__name__)


# Whether f + 1 others cast ballots on that build (its id, its opening) that are equal, and differ
# from what this replica found.
IsContradicted = Callable[[Key, ResultKey], bool]


class CachedRuns:
    """For one event loop. is_contradicted: see IsContradicted."""

    def __init__(
        self,
        config: NodeConfig,
        threads: ThreadPoolExecutor,
        *,
        checkout: Checkout,
        sandbox: Sandbox,
        is_contradicted: IsContradicted,
    ) -> None:
        rules = CacheRules(
            bytes_max=config.cache_bytes_max,
            repository_bytes_max=config.cache_repository_bytes_max,
            entry_bytes_max=config.cache_entry_bytes_max,
            seconds_max=config.cache_days_max * DAY_SECONDS,
        )
        store = CacheStore(config.data_directory / CACHES_FOLDER, rules)
        self.caches = BuildCaches(store, config.name)
        self._is_used = config.executor != "process"
        self._threads = threads
        self._checkout = checkout
        self._sandbox = sandbox
        self._is_contradicted = is_contradicted
        # of the builds that have a result and are not tidied up yet
        self._results: dict[BuildKey, tuple[Work, RunResult]] = {}
        self._staging: set[asyncio.Task[None]] = set()
        self._concluding: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def start(self) -> None:
        """Open the store."""
        await in_thread(self._threads, lambda stop: self.caches.start())

    async def settle(self) -> None:
        """Wait until what the ledger said of caches is done."""
        while self._concluding:
            await asyncio.wait(tuple(self._concluding))

    async def close(self) -> None:
        """Close the store; no build runs any more, and `settle` came before."""
        self.caches.store.close()

    def stop_staging(self) -> None:
        """The node stops: nothing more is stored."""
        self._is_closed = True
        for task in self._staging:
            task.cancel()

    async def run(
        self,
        order: BuildOrder,
        work: Work,
        files: Mapping[str, str],
        *,
        heads: Heads | None,
        attempt: Callable[[Work], Awaitable[RunResult]],
        key_of: Callable[[RunResult], ResultKey],
    ) -> RunResult:
        """Run the work; a second time, without caches, if others contradict what it found with
        them.

        files: of `cached_files`. heads: what the server said at the checkout; None: it is asked
        for a build with caches. attempt: runs it once. key_of: what a result says in a ballot.
        Raises InfrastructureError, and what `attempt` raises.
        """
        build = _key(order)
        self.forget(order)
        began_at = time.monotonic()
        access = await self._access(order, work, files, heads=heads)
        work = msgspec.structs.replace(work, caches=access)
        result = await attempt(work)
        if access is not None and access.used and result.outcome is not Outcome.PASSED:
            seconds = time.monotonic() - began_at
            own = key_of(result)
            if self._has_time(order, seconds) and self._is_contradicted(order.key, own):
                await self._prepare_cold(work, result)
                result = await attempt(msgspec.structs.replace(work, caches=None))
                access.forget()
        self._results[build] = work, result
        return result

    def used(self, order: BuildOrder) -> tuple[UsedCache, ...]:
        """What the result of that run was made with, as a ballot names it."""
        work, _ = self._results[_key(order)]
        entries = () if work.caches is None else work.caches.used
        used = {UsedCache(entry.name, bytes.fromhex(entry.build)) for entry in entries}
        return tuple(sorted(used, key=msgspec.structs.astuple)[:CACHES_MAX])

    async def stage(self, order: BuildOrder) -> None:
        """Store what the build left, if it is to be kept. Before the build is removed."""
        build = _key(order)
        work, result = self._results.pop(build, (None, None))
        if work is None or work.caches is None:
            return
        if result is not None and result.outcome is Outcome.PASSED and not self._is_closed:
            task = asyncio.create_task(self._stage(work), name=f"caches {build[0][:12]}")
            self._staging.add(task)
            try:
                await asyncio.wait({task})
            finally:
                self._staging.discard(task)
        self._conclude(self.caches.note_staged(build))

    def forget(self, order: BuildOrder) -> None:
        """The build came to nothing."""
        build = _key(order)
        self._results.pop(build, None)
        self.caches.forget(build)

    def note_ledger(self, body: bytes) -> None:
        """The ledger has a new entry."""
        if self.caches.is_waiting:
            self._conclude(self.caches.note_entry(decode_entry(body)))

    async def _access(
        self, order: BuildOrder, work: Work, files: Mapping[str, str], *, heads: Heads | None
    ) -> CacheAccess | None:
        """What the build may do with its caches; None: nothing, and its log says why."""
        entry = self._checkout.entry_of(order.repository)
        if not isinstance(work.job, Pipeline) or not work.job.caches or entry is None:
            return None
        if not self._is_used:
            work.log.note("caches: this replica keeps none (executor: process)")
            return None
        if order.is_cold:
            work.log.note("caches: not used: a build without caches was asked for")
            return None
        assert order.commit is not None, "it was checked out"
        reference = full_ref(order.branch, order.ref)
        try:
            heads = heads or await self._checkout.ask_heads(entry, reference)
        except InfrastructureError as error:
            work.log.note(f"caches: not used: {error.reason}")
            return None
        scope = scope_of(
            order.event,
            reference,
            order.commit,
            target=order.branch,
            branches=Branches(heads.branch, heads.tip),
            cache_branches=entry.cache_branches,
        )
        if scope is None:
            work.log.note("caches: not used for this branch and event")
            return None
        return self.caches.access(
            _key(order), scope, order.repository, caches=work.job.caches, files=files
        )

    def _has_time(self, order: BuildOrder, seconds: float) -> bool:
        return seconds * (1 + COLD_FACTOR) <= order.limits.deadline_seconds

    async def _prepare_cold(self, work: Work, warm: RunResult) -> None:
        """Leave nothing of a run with caches. Raises InfrastructureError, OSError."""
        self.caches.counts.cold_rebuilds += 1
        work.log.note(
            f"{warm.outcome} with caches, and other replicas agree on something else: once more"
            " without caches"
        )
        await self._sandbox.remove(work.label)
        await in_thread(self._threads, lambda stop: _remove_all_but_the_tree(work))

    async def _stage(self, work: Work) -> None:
        try:
            await self._sandbox.stage_caches(work)
        except InfrastructureError as error:
            _log.warning("build %s: its caches are not stored: %s", work.label[:12], error.reason)
        except Exception:  # noqa: BLE001 (the build has its ballot: told here)
            _log.exception("build %s: a fault of our own in its caches", work.label[:12])

    def _conclude(self, standing: Standing | None) -> None:
        if standing is None or self._is_closed:
            return
        task = asyncio.create_task(self._run_conclusion(standing), name="caches: a verdict")
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)

    async def _run_conclusion(self, standing: Standing) -> None:
        try:
            await in_thread(self._threads, lambda stop: self.caches.conclude(standing))
        except Exception:  # noqa: BLE001 (nobody waits for it: told here)
            _log.exception("build %s: a fault of our own in its caches", standing.build[0][:12])


def cached_files(pipeline: Pipeline, tree: Path, stop: Stop) -> dict[str, str] | PipelineInvalid:
    """The SHA-256 (hex) of each file that the caches name; PipelineInvalid: one is not there.

    Blocking. Raises Stopped, OSError.
    """
    names = sorted({name for cache in pipeline.caches for name in cache.files})
    if not names:
        return {}
    found = file_digests(tree, names, stop)
    for name in names:
        if name not in found:
            problem = f"the commit has no plain file {name}, which a cache names"
            return PipelineInvalid(problem, key="files")
    return found


def _remove_all_but_the_tree(work: Work) -> None:
    """What a run collected would be in the way of the next one. Raises OSError."""
    for path in work.folder.iterdir():
        if path != work.tree:
            remove_folder(path)


def _key(order: BuildOrder) -> BuildKey:
    return (order.build.hex(), order.opened)
