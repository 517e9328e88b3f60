"""Runs the builds that `driver.build_scheduler` begins, and keeps its requests in the store."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from ci.assignments import Key
from ci.ballots import ReplicaRequest
from ci.executors import StartReason
from ci.operations import Ballot, BuildResult
from driver.build_scheduler import BuildScheduler
from driver.ports import BuildOrder
from node.builds.build_runner import BuildRunner
from node.storage.store import Store

_log = logging.getLogger(__name__)


class BuildTasks:
    """A driver.ports.Builder: a task for each build. `scheduler` is set before the first one.

    bend: what a faulty node casts instead of a ballot; None: each is cast as it is.
    """

    def __init__(self, runner: BuildRunner, bend: Callable[[Ballot], Ballot] | None = None) -> None:
        self._runner = runner
        self._bend = bend
        self._running: dict[Key, asyncio.Task[None]] = {}
        self.scheduler: BuildScheduler | None = None

    def begin(self, order: BuildOrder, reason: StartReason) -> None:
        """As driver.ports.Builder."""
        if reason not in (StartReason.EVERYBODY, StartReason.EXECUTOR):
            _log.info("build %s: no stand-by any more, %s", order.build.hex()[:12], reason)
        self._running[order.key] = asyncio.create_task(
            self._build(order), name=f"build {order.build.hex()[:12]}"
        )

    def stop(self, key: Key) -> None:
        """As driver.ports.Builder."""
        task = self._running.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all builds; they begin again after the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _build(self, order: BuildOrder) -> None:
        assert self.scheduler is not None
        try:
            found = await self._runner.build(order)
            if found is None:
                self.scheduler.on_left(order.key)
                return
            ballot = found if self._bend is None else self._bend(found)
            _log.info("build %s: %s", order.build.hex()[:12], _in_words(ballot))
            self.scheduler.on_built(order.key, ballot, asyncio.get_running_loop().time())
        except Exception:  # noqa: BLE001 - logged in full; one build must not end the replica
            _log.exception("build %s: a fault of our own", order.build.hex()[:12])
            self.scheduler.on_failed(order.key)
        finally:
            if self._running.get(order.key) is asyncio.current_task():
                del self._running[order.key]


class StoreRequests:
    """A driver.ports.RequestDisk over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pending_requests(self) -> list[ReplicaRequest]:
        """As driver.ports.RequestDisk."""
        return self._store.own_requests.pending()

    def has_request(self, purpose: str, key: Key) -> bool:
        """As driver.ports.RequestDisk. Raises StoreDamaged, StoreUnusable."""
        return self._store.own_requests.find(purpose, *key) is not None

    def last_timestamp(self) -> int:
        """As driver.ports.RequestDisk. Raises StoreDamaged, StoreUnusable."""
        return self._store.own_requests.last_timestamp()

    def add_request(self, request: ReplicaRequest, instead_of: int | None) -> None:
        """As driver.ports.RequestDisk. Raises SaveFailed, StoreDamaged."""
        self._store.add_own_request(request, instead_of)

    def secure_requests(self) -> None:
        """As driver.ports.RequestDisk. Raises SaveFailed, StoreDamaged."""
        self._store.mark()

    def forget_requests(self, timestamps: Sequence[int]) -> None:
        """As driver.ports.RequestDisk."""
        self._store.forget_own_requests(timestamps)


def _in_words(ballot: Ballot) -> str:
    if isinstance(ballot, BuildResult):
        compared = ballot.compared
        code = "" if compared.exit_code is None else f", exit code {compared.exit_code}"
        return f"{compared.outcome}{code}"
    return f"abstains: {ballot.reason}"
