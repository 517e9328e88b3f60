"""Waiting for a condition with a bound, instead of sleeping for luck."""

import asyncio
import time
from collections.abc import Callable

POLL_SECONDS = 0.02


async def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once the condition holds. Raises AssertionError naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        await asyncio.sleep(POLL_SECONDS)


def block_until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """The same for tests that are not asynchronous."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(POLL_SECONDS)
