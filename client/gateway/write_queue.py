"""What waits for the gateway's next commit, and how much may wait: the limits of the queue."""

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from client.gateway.writes import AddAppend, AddBuild, AddNote, Write, WriteResult
from client.storage.database import StorageFailed
from client.storage.outbox import Outbox
from common.repositories.repository_config import GatewayRepository

# Strangers' requests of one repository that wait for approval: they must not fill its queue.
WAITING_FOR_APPROVAL_MAX = 100


class QueueFull(Exception):
    """So many requests wait already: come back later."""


class PendingWrite(msgspec.Struct):
    """A write that is applied in the next turn, and who waits for its commit."""

    write: Write
    committed: asyncio.Future[WriteResult]
    # as it was applied; it counts once it is committed
    result: WriteResult = None

    def note_committed(self) -> None:
        """Tell the caller the result."""
        if not self.committed.done():
            self.committed.set_result(self.result)

    def fail(self, error: StorageFailed) -> None:
        """Tell the caller that it was not committed, and will not be."""
        if not self.committed.done():
            self.committed.set_exception(error)
            self.committed.exception()  # its waiter may be gone: nobody need be told


class WriteQueue:
    """The pending writes of one gateway, from one turn to the next.

    queue_max: unfinished requests of all kinds; each repository has a limit of its own.
    wake: called when there is something to take.
    """

    def __init__(
        self,
        queue_max: int,
        configured: Callable[[str], GatewayRepository],
        wake: Callable[[], None],
    ) -> None:
        self._queue_max = queue_max
        self._configured = configured
        self._wake = wake
        self._pending: list[PendingWrite] = []
        # by repository: those that wait for no approval, and those that do
        self._builds: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        # the same of what arrived since, and all requests of it
        self._new_builds: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._new_requests = 0
        self._is_closed = False
        self.unfinished = 0

    def note_unfinished(self, outbox: Outbox) -> None:
        """Count what is under way. Raises StorageFailed."""
        tally = outbox.tally()
        self.unfinished = tally.total
        self._builds = (tally.builds(), tally.builds(waits_for_approval=True))

    def take(self) -> list[PendingWrite]:
        """What was put since the last turn."""
        pending, self._pending = self._pending, []
        self._new_builds, self._new_requests = (Counter(), Counter()), 0
        return pending

    def close(self) -> None:
        """Take nothing more; what was not committed fails."""
        self._is_closed = True
        for waiting in self.take():
            waiting.fail(StorageFailed("the gateway is stopping"))

    async def accept(self, write: AddBuild | AddAppend | AddNote) -> WriteResult:
        """As `put`, if there is room for a request. Raises QueueFull too."""
        waiting = self.unfinished + self._new_requests
        if waiting >= self._queue_max:
            raise QueueFull(f"{waiting} requests are waiting, the most allowed")
        if isinstance(write, AddBuild):
            repository = write.request.repository
            needs_approval = write.request.needs_approval
            waiting = sum(
                builds[needs_approval][repository] for builds in (self._builds, self._new_builds)
            )
            if waiting >= (
                WAITING_FOR_APPROVAL_MAX
                if needs_approval
                else self._configured(repository).queue_max
            ):
                what = "waiting for approval" if needs_approval else "waiting"
                raise QueueFull(f"{waiting} builds of this repository are {what}, the most allowed")
            self._new_builds[needs_approval][repository] += 1
        self._new_requests += 1
        return await self.put(write)

    async def put(self, write: Write) -> WriteResult:
        """Have it applied in the next commit; what came of it. Raises StorageFailed."""
        if self._is_closed:
            raise StorageFailed("the gateway is stopping")
        pending = PendingWrite(write, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._wake()
        # A caller that hangs up cancels this future alone: the next commit will hold the rest.
        return await pending.committed
