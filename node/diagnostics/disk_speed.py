"""Measures how long the disk takes for one save, and compares that with the view change timer.

From a request to its execution there are four saves, one after another: the primary's PRE-PREPARE,
a backup's PREPARE and COMMIT, and the execution. Each may have to wait for a save that is under
way. So a timer shorter than eight saves deposes honest primaries; two more are for the network.
"""

import collections

SAVES_PER_TIMER_MIN = 10
REMEMBERED_SECONDS = 60.0


class DiskSpeed:
    """The saves of the last minute."""

    def __init__(self, view_change_seconds: float) -> None:
        self._slow_seconds = view_change_seconds / SAVES_PER_TIMER_MIN
        self.last_seconds = 0.0
        # When they ended, and how long they took: only those with no slower one after them.
        self._saves: collections.deque[tuple[float, float]] = collections.deque()
        self._told_at: float | None = None

    def note(self, seconds: float, now: float) -> bool:
        """A save ended; whether that is worth a word: it was slow, and none was told lately.

        now: monotonic seconds, never less than before.
        """
        self.last_seconds = seconds
        while self._saves and self._saves[-1][1] <= seconds:
            self._saves.pop()
        self._saves.append((now, seconds))
        if seconds <= self._slow_seconds:
            return False
        if self._told_at is not None and now - self._told_at < REMEMBERED_SECONDS:
            return False
        self._told_at = now
        return True

    def slowest_seconds(self, now: float) -> float:
        """The slowest of the last minute; 0 where there was none."""
        while self._saves and now - self._saves[0][0] > REMEMBERED_SECONDS:
            self._saves.popleft()
        return self._saves[0][1] if self._saves else 0.0

    def is_slow(self, now: float) -> bool:
        """Whether the timer should be longer, or the disk faster."""
        return self.slowest_seconds(now) > self._slow_seconds
