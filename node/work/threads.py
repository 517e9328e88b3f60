"""Runs blocking work in threads that can be stopped.

Docker's library and git block. Each piece of such work gets a `Stop`. Its caller sets the stop on a
time limit or when cancelled, and goes on only when the thread has really ended. So nothing of a
build that is over keeps running.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor as ThreadPool
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class Stopped(Exception):
    """The work was told to stop before it was done."""


class Stop:
    """Tells one piece of work in a thread that nobody wants it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._interrupts: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether the work should end."""
        return self._event.is_set()

    def set(self) -> None:
        """End the work: whatever it waits for is interrupted. Never raises, never blocks long."""
        with self._lock:
            self._event.set()
            interrupts = tuple(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def check(self) -> None:
        """Raises Stopped where the work should end."""
        if self.is_set:
            raise Stopped

    def wait(self, seconds: float) -> bool:
        """Sleep, or until the stop is set; whether it is."""
        return self._event.wait(seconds)

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While inside, `set` calls this too (from another thread, perhaps at once)."""
        with self._lock:
            is_late = self._event.is_set()
            if not is_late:
                self._interrupts.append(interrupt)
        if is_late:
            raise Stopped
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


async def in_thread(
    threads: ThreadPool, work: Callable[[Stop], Result], *, timeout_seconds: float | None = None
) -> Result:
    """Run `work` in one of the threads and return what it returns.

    After `timeout_seconds`, or when this task is cancelled, the work is stopped and its end
    awaited. Raises TimeoutError, CancelledError, and whatever the work raises.
    """
    stop = Stop()

    def run() -> Result:
        stop.check()
        return work(stop)

    future = asyncio.get_running_loop().run_in_executor(threads, run)
    try:
        done, _ = await asyncio.wait({future}, timeout=timeout_seconds)
    except asyncio.CancelledError:
        await _end(future, stop)
        raise
    if done:
        return future.result()
    await _end(future, stop)
    if not future.cancelled() and future.exception() is None:
        # it was done in the moment that we lost patience
        return future.result()
    raise TimeoutError


async def _end(future: "asyncio.Future[Result]", stop: Stop) -> None:
    """Stop the work and wait for it, however often this task is cancelled meanwhile."""
    stop.set()
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            was_cancelled = True
    # looked at, so that asyncio does not complain about an exception that nobody saw
    if not future.cancelled():
        future.exception()
    if was_cancelled:
        raise asyncio.CancelledError
