"""Runs something beside a block of code, and never beyond it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the work while the block runs; the end of the block waits for its end.

    If the block is left by an exception, the work is cancelled and its end awaited; a cancel of
    this task meanwhile takes the place of that exception. Else raises what the work raises.
    """
    task = asyncio.create_task(work)
    try:
        yield
    except BaseException:
        await _end(task)
        raise
    await task


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel the task and wait for it, however often this one is cancelled meanwhile."""
    task.cancel()
    was_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            was_cancelled = True
    # looked at, so that asyncio does not complain about an exception that nobody saw
    if not task.cancelled():
        task.exception()
    if was_cancelled:
        raise asyncio.CancelledError
