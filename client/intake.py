"""What waits for the gateway's next commit, and how much may wait: the limits of the queue."""

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from client.database import StorageFailed
from client.outbox import Outbox
from common.repository_config import GatewayRepository

# Strangers' requests of one repository that wait for approval: they must not fill its queue.
WAITING_FOR_APPROVAL_MAX = 100


class QueueFull(Exception):
    """So many requests wait already: come back later."""


class Arrival(msgspec.Struct):
    """Something that counts once `store` is committed; `then` comes after that."""

    store: Callable[[], None]
    then: Callable[[], None]
    stored: asyncio.Future[None]

    def done(self) -> None:
        """It is committed."""
        if not self.stored.done():
            self.stored.set_result(None)
        self.then()

    def fail(self, error: StorageFailed) -> None:
        """It was not committed, and will not be."""
        if not self.stored.done():
            self.stored.set_exception(error)
            self.stored.exception()  # its waiter may be gone: nobody need be told


class Intake:
    """The arrivals of one gateway, from one turn to the next.

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
        self._arrivals: list[Arrival] = []
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

    def take(self) -> list[Arrival]:
        """What arrived since the last turn."""
        arrivals, self._arrivals = self._arrivals, []
        self._new_builds, self._new_requests = (Counter(), Counter()), 0
        return arrivals

    def close(self) -> None:
        """Take nothing more; what was not committed fails."""
        self._is_closed = True
        for arrival in self.take():
            arrival.fail(StorageFailed("the gateway is stopping"))

    async def accept(
        self,
        store: Callable[[], None],
        then: Callable[[], None],
        repository: str = "",
        *,
        needs_approval: bool = False,
    ) -> None:
        """As `store`, where there is room for a request. Raises QueueFull too.

        repository: of a build; empty for an append.
        """
        waiting = self.unfinished + self._new_requests
        if waiting >= self._queue_max:
            raise QueueFull(f"{waiting} requests are waiting, the most allowed")
        if repository:
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
        await self._add(Arrival(store, then, self._future()))

    async def store(self, store: Callable[[], None], then: Callable[[], None]) -> None:
        """Have `store` done in the next commit, and then `then`. Raises StorageFailed."""
        await self._add(Arrival(store, then, self._future()))

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async def _add(self, arrival: Arrival) -> None:
        if self._is_closed:
            raise StorageFailed("the gateway is stopping")
        self._arrivals.append(arrival)
        self._wake()
        # A caller that hangs up cancels this future alone: the next commit will hold the rest.
        await arrival.stored
