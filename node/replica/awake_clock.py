"""The time of one replica: seconds in which its process ran.

A process that was stopped (SIGSTOP, a suspended machine, a full disk that it waited for) wakes to
deadlines that all passed while it heard nothing. By this clock they did not: it takes in first
what has arrived, and does not ask for another primary because it slept itself.
"""

# Later than this after it was due, the process was stopped or starved.
STALL_SECONDS = 0.5
# How long the clock stands still after that: links are read and peers send again.
GRACE_SECONDS = 0.25


class AwakeClock:
    """Monotonic seconds, less those that were slept through."""

    def __init__(self) -> None:
        self._stalled_seconds = 0.0
        self._last: float | None = None

    def read(self, monotonic: float, due: float) -> float:
        """This clock's time; it never goes back.

        monotonic: the system's. due: when, by this clock, it was to be read at the latest.
        """
        now = monotonic - self._stalled_seconds
        if self._last is None:
            self._last = now
        late = now - max(due, self._last)
        if late > STALL_SECONDS:
            self._stalled_seconds += now - self._last + GRACE_SECONDS
        else:
            self._last = max(self._last, now)
        return self._last

    def monotonic(self, time: float) -> float:
        """The system's time at which this clock will show `time`, if nothing stalls."""
        return time + self._stalled_seconds
