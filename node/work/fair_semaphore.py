"""The slots for builds on one node, which repositories share fairly."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.fair_turns import FairTurns


class FairSemaphore:
    """A semaphore that serves repositories in turn, and builds of one first come, first served."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turns = FairTurns()

    @asynccontextmanager
    async def hold(self, repository: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold the slot inside the block."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(repository, deque()).append(future)
        self._hand_out()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._forget(repository, future)
            else:
                # it got the slot in the same moment
                self._give_back(repository)
            raise
        try:
            yield
        finally:
            self._give_back(repository)

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            repository = self._turns.next(self._waiting, self._running)
            future = self._waiting[repository][0]
            self._forget(repository, future)
            if not future.done():
                self._free -= 1
                self._running[repository] += 1
                future.set_result(None)

    def _give_back(self, repository: str) -> None:
        self._free += 1
        self._running[repository] -= 1
        if not self._running[repository]:
            del self._running[repository]
        self._hand_out()

    def _forget(self, repository: str, future: asyncio.Future[None]) -> None:
        queue = self._waiting.get(repository)
        if queue is None or future not in queue:
            return
        queue.remove(future)
        if not queue:
            del self._waiting[repository]
