"""Waiting for a condition with a bound, instead of sleeping for luck."""

import asyncio
import time
from collections.abc import Callable

PAUSE_SECONDS_MIN = 0.02
PAUSE_SECONDS_MAX = 0.25
# A look costs CPU, often in a node or in the engine: the longer it takes, the fewer there are.
PAUSE_SHARE = 0.2


def pause_seconds(waited: float) -> float:
    """How long to wait until the next look, after so many seconds of waiting."""
    return min(max(PAUSE_SECONDS_MIN, PAUSE_SHARE * waited), PAUSE_SECONDS_MAX)


async def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once the condition holds. Raises AssertionError naming `what` after `seconds`."""
    began_at = time.monotonic()
    while not condition():
        waited = time.monotonic() - began_at
        assert waited < seconds, f"waited {seconds} s in vain: {what}"
        await asyncio.sleep(pause_seconds(waited))


def block_until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """The same for tests that are not asynchronous."""
    began_at = time.monotonic()
    while not condition():
        waited = time.monotonic() - began_at
        assert waited < seconds, f"waited {seconds} s in vain: {what}"
        time.sleep(pause_seconds(waited))
