"""The log of refused webhooks: enough to see what is wrong, too little to push other lines out.

Whoever reaches the gateway may have it refuse something, as often as he likes, and the log keeps a
bounded number of bytes.
"""

import logging
import time
from collections.abc import Callable

from common.forges.shared.event import Refusal

WINDOW_SECONDS = 60.0

_log = logging.getLogger(__name__)


class RefusalLog:
    """Says the 1st, 2nd, 4th, 8th ... refusal of a minute, with how many there were by then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds since any moment."""
        self._clock = clock
        self._end = float("-inf")
        self._count = 0
        self._said = 0

    def note(self, refusal: Refusal) -> None:
        """A webhook was refused."""
        now = self._clock()
        left_out = 0
        if now >= self._end:
            left_out = self._count - self._said
            self._end = now + WINDOW_SECONDS
            self._count = self._said = 0
        self._count += 1
        if self._count & (self._count - 1):
            return
        more = f"; {self._count} within a minute" if self._count > 1 else ""
        if left_out:
            more = f"; {left_out} more were, before, and are not in this log"
        self._said = self._count
        _log.warning("a webhook was refused (%d): %s%s", refusal.status, refusal.text, more)
