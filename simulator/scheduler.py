"""Virtual time: one heap of events, in integer nanoseconds."""

import heapq
from collections.abc import Callable
from typing import Any

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class Scheduler:
    """Events in order of time; those of one time in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._order = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, time: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do this at that time, at once if that is past."""
        self._order += 1
        when = time if time > self.now else self.now
        heapq.heappush(self._heap, (when, self._order, action, arguments))

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do this so many seconds from now."""
        self.at(self.now + int(delay * SECOND), action, *arguments)

    def step(self) -> bool:
        """Do the next thing; False where there is none."""
        if not self._heap:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.events += 1
        action(*arguments)
        return True

    @property
    def next_time(self) -> int | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    @property
    def seconds(self) -> float:
        """The time in seconds."""
        return self.now / SECOND
