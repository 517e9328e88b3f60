"""Builds on the workers of an operator's own Docker Swarm.

The swarm chooses and reserves the worker. The build itself runs as on a single engine, through the
API of the worker's engine, so it has all the limits that a service of a swarm cannot have.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from common.configuration.config import NodeConfig
from node.sandboxes.containers.docker_engine import DockerEngine, engine_errors
from node.sandboxes.containers.docker_sandbox import DockerSandbox
from node.sandboxes.containers.swarm import Reservation, Reserver, find_loss, release
from node.sandboxes.sandbox import RunResult, Work
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread

# Swarm itself notices a dead worker after about 15 s.
LOOK_SECONDS = 2.0
# A machine that goes down ends all processes within moments, those of builds perhaps first.
SETTLE_SECONDS = 1.0
# So a build goes elsewhere before the swarm itself has noticed that its worker is dead.
AVOID_SECONDS = 30.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class SwarmSandbox:
    """Implements `Sandbox`: each build on the engine of the worker that the swarm gives it."""

    def __init__(
        self,
        config: NodeConfig,
        cluster_id: bytes,
        *,
        threads: ThreadPoolExecutor,
        connections_max: int,
    ) -> None:
        """docker_host of the configuration is a manager of the swarm."""
        self._threads = threads
        self._manager = DockerEngine(config.docker_host, connections_max, config.docker_tls_folder)
        self._reserver = Reserver(
            cluster_id.hex(), config.name, tuple(config.swarm_workers), config.swarm_image
        )
        self._workers = {
            name: DockerSandbox(
                worker_config(config, name),
                cluster_id,
                threads=threads,
                connections_max=connections_max,
            )
            for name in config.swarm_workers
        }
        # of the builds that are not removed yet
        self._reservations: dict[str, Reservation] = {}
        # by worker: removals on one that was lost, which nobody waits for
        self._removals: dict[str, set[asyncio.Task[None]]] = {name: set() for name in self._workers}
        self._lost: set[str] = set()
        # when a worker that failed a build may have the next one, though there are others
        self._avoided_until: dict[str, float] = {}
        # of the builds between `run` and the end of `remove`
        self._labels: set[str] = set()
        # whether something may be reserved for a build that is over
        self._has_leftovers = True

    async def start(self, limits: Limits) -> None:
        """As `Sandbox`. A worker that is down is looked at before its next build.

        Raises OSError.
        """
        await asyncio.gather(*(worker.start(limits) for worker in self._workers.values()))
        try:
            await self._call(self._prepare)
        except InfrastructureError as error:
            _log.warning("the swarm gives no workers for now: %s", error.reason)

    async def run(self, work: Work) -> RunResult:
        """As `Sandbox`. Raises InfrastructureError if the worker is lost meanwhile."""
        work.show_state("worker")
        self._labels.add(work.label)
        now = time.monotonic()
        avoided = [name for name, until in self._avoided_until.items() if now < until]

        def reserve(stop: Stop) -> Reservation:
            self._prepare(stop)
            return self._reserver.reserve(self._manager.client(), work, avoided, stop=stop)

        try:
            reservation = await self._call(reserve)
        except BaseException:
            # a cancelled one may have been reserved in that moment
            self._has_leftovers = True
            raise
        self._reservations[work.label] = reservation
        work.log.note(f"worker {reservation.worker}")
        try:
            return await self._run(work, reservation)
        except InfrastructureError:
            self._avoided_until[reservation.worker] = time.monotonic() + AVOID_SECONDS
            raise

    async def _run(self, work: Work, reservation: Reservation) -> RunResult:
        """Run the work while its worker is there. Raises InfrastructureError."""
        if self._removals[reservation.worker]:
            await asyncio.wait(tuple(self._removals[reservation.worker]))
        running = asyncio.create_task(self._workers[reservation.worker].run(work))
        watching = asyncio.create_task(self._wait_for_loss(reservation))
        try:
            await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                self._lost.add(work.label)
                raise InfrastructureError(await watching)
            result = running.result()
            if result.outcome not in (Outcome.PASSED, Outcome.SKIPPED):
                await asyncio.sleep(SETTLE_SECONDS)
                reason = await self._find_end(reservation)
                if reason is not None:
                    self._lost.add(work.label)
                    raise InfrastructureError(f"the build did not pass, and {reason}")
            return result
        finally:
            await _end(running, watching)

    async def stage_caches(self, work: Work) -> None:
        """As `Sandbox`."""
        reservation = self._reservations.get(work.label)
        if reservation is not None:
            await self._workers[reservation.worker].stage_caches(work)

    async def remove(self, label: str) -> None:
        """As `Sandbox`. Nobody waits for a worker that was lost: it may never answer."""
        reservation = self._reservations.pop(label, None)
        self._labels.discard(label)
        if reservation is None:
            return
        worker = self._workers[reservation.worker]
        if label in self._lost:
            self._lost.discard(label)
            removals = self._removals[reservation.worker]
            removal = asyncio.create_task(worker.remove(label), name="removal")
            removals.add(removal)
            removal.add_done_callback(removals.discard)
        else:
            await worker.remove(label)
        try:
            await self._call(lambda stop: release(self._manager.client(), reservation.service))
        except InfrastructureError as error:
            self._has_leftovers = True
            _log.warning("worker %s stays reserved for now: %s", reservation.worker, error.reason)

    async def close(self) -> None:
        """As `Sandbox`."""
        removals = [task for tasks in self._removals.values() for task in tasks]
        if removals:
            await asyncio.wait(removals)
        for worker in self._workers.values():
            await worker.close()
        self._manager.close()

    def _prepare(self, _stop: Stop) -> None:
        """Claim the swarm, and give back what is reserved for nothing."""
        client = self._manager.client()
        self._reserver.claim(client)
        if self._has_leftovers:
            self._has_leftovers = False
            try:
                self._reserver.release_leftovers(client, lambda build: build not in self._labels)
            except BaseException:
                self._has_leftovers = True
                raise

    async def _wait_for_loss(self, reservation: Reservation) -> str:
        """Why the build no longer has its worker, once that is so.

        A manager that does not answer says nothing of the worker.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                reason = await self._find_loss(reservation)
            except InfrastructureError:
                continue
            if reason is not None:
                return reason

    async def _find_end(self, reservation: Reservation) -> str | None:
        """As `_find_loss`, and by the worker's own word: a manager may learn of it 15 s later.

        Raises InfrastructureError if the manager or the worker does not answer.
        """
        if not await self._workers[reservation.worker].is_running(reservation.container):
            return f"worker {reservation.worker} ended the task that reserves it"
        return await self._find_loss(reservation)

    async def _find_loss(self, reservation: Reservation) -> str | None:
        return await self._call(lambda stop: find_loss(self._manager.client(), reservation))

    async def _call(self, work: Callable[[Stop], Result]) -> Result:
        """Blocking work with the manager. Raises InfrastructureError."""

        def translated(stop: Stop) -> Result:
            with engine_errors():
                return work(stop)

        return await in_thread(self._threads, translated)


def worker_config(config: NodeConfig, name: str) -> NodeConfig:
    """The configuration of one worker's engine; what it pulled is recorded apart."""
    folder = config.data_directory / "workers" / f"worker-{name}"
    return msgspec.structs.replace(
        config, docker_host=config.swarm_workers[name], data_directory=folder
    )


async def _end(*tasks: "asyncio.Task[object]") -> None:
    """Cancel tasks that are not done, and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
