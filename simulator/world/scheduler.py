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
        self._order = order = self._order + 1
        now = self.now
        heapq.heappush(self._heap, (time if time > now else now, order, action, arguments))

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

    def run_until(self, end: int, events_max: int) -> None:
        """Do everything up to that time, but stop once there were more events than that in all."""
        heap = self._heap
        pop = heapq.heappop
        while heap and heap[0][0] <= end and self.events <= events_max:
            self.now, _, action, arguments = pop(heap)
            self.events += 1
            action(*arguments)

    @property
    def next_time(self) -> int | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    @property
    def seconds(self) -> float:
        """The time in seconds."""
        return self.now / SECOND
