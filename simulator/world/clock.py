"""The monotonic clock of one machine: its own start, its own rate, jumps forward."""

from simulator.world.scheduler import SECOND


class Clock:
    """Seconds as one machine counts them. `rate`: its seconds per true second."""

    def __init__(self, rate: float = 1.0, start_seconds: float = 0.0) -> None:
        self._rate = rate
        self._local = start_seconds
        self._since = 0

    def seconds(self, now: int) -> float:
        """What the clock shows at that time (nanoseconds)."""
        return self._local + self._rate * (now - self._since) / SECOND

    def when(self, local_seconds: float, now: int) -> int:
        """The time at which the clock will show this, or has just shown it."""
        true_seconds = (local_seconds - self._local) / self._rate
        # A microsecond later, so that rounding never makes a timer early.
        return max(now, self._since + int(true_seconds * SECOND) + 1000)

    def jump(self, seconds: float, now: int) -> None:
        """The machine slept: its clock goes on later."""
        assert seconds >= 0
        self._local = self.seconds(now) + seconds
        self._since = now

    def drift(self, rate: float, now: int) -> None:
        """From now on the clock runs at another rate."""
        self._local = self.seconds(now)
        self._since = now
        self._rate = rate

    def restart(self, start_seconds: float, rate: float, now: int) -> None:
        """The machine was started anew: the clock shows something else."""
        self._local = start_seconds
        self._rate = rate
        self._since = now
