"""Checks, while the replica works, what a start leaves out: the whole database and the ledger.

The rule: it reads little at a time, rests after that, and logs what it finds. A damaged ledger
entry becomes a gap and is fetched again (`node/replica/ledger_catch_up.py`). If SQLite's own
structure is broken, the node ends: the marker beside the file makes the next start check everything
before the replica votes, and begin anew if it must.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path

import msgspec

from driver.ports import SaveFailed
from node.storage.damage import StoreUnusable, is_trouble_of_the_disk
from node.storage.ledger_walk import LedgerWalk
from node.storage.sqlite_integrity import check_all, is_unreadable
from node.storage.store import Store

# Bits rot slowly.
PASS_SECONDS = 24 * 3600.0
# Sooner where something was met, but not without a pause: it may be nothing that a pass can tell.
PAUSE_SECONDS = 60.0
# One step blocks the loop for so long as it takes to read and hash that much: a millisecond or two.
STEP_ENTRIES = 64
STEP_BYTES = 512 * 1024
# After each step it rests: at least so long, and so many times as long as the step took.
REST_SECONDS_MIN = 0.005
REST_TIMES = 19
LOOK_SECONDS = 1.0
INTERRUPT_SECONDS = 0.05
# The kernel gives other work the processor first; the same number as of `nice`.
NICENESS = 19

_log = logging.getLogger(__name__)


class ScrubProgress(msgspec.Struct):
    """How far it is. entries_checked: of this pass. damaged_entries: found since the start.

    passes: whole ones since the start. is_structure_checked: in this pass.
    """

    entries_checked: int = 0
    damaged_entries: int = 0
    passes: int = 0
    is_structure_checked: bool = False


class Scrub:
    """The scrub of one replica's store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.progress = ScrubProgress()
        self._task: asyncio.Task[None] | None = None
        self._structure: _StructureCheck | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin; the task ends before `close` with StoreDamaged, or by a fault of our own."""
        self._task = asyncio.create_task(self._run(), name="scrub")
        return self._task

    async def close(self) -> None:
        """Stop; the next start begins anew."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self.progress.is_structure_checked = False
            self.progress.entries_checked = 0
            try:
                await self._check_structure()
                self.progress.is_structure_checked = True
                await self._walk()
            except (StoreUnusable, SaveFailed) as error:
                _log.error("the store cannot be looked through now, trying again: %s", error)
                await self._rest(PAUSE_SECONDS)
                continue
            self.progress.passes += 1
            _log.info("the store was looked through: %d ledger entries", self._entries())
            # What does not follow and could not be told yet shows when there are more entries.
            self._store.ledger.suspected.clear()
            await self._rest(PASS_SECONDS)

    def _entries(self) -> int:
        return self._store.ledger.end()[0]

    async def _rest(self, seconds: float) -> None:
        """Until then, or until something was met that should be looked into."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (rested := loop.time() - began) < seconds:
            if self._store.ledger.suspected and rested >= PAUSE_SECONDS:
                return
            await asyncio.sleep(min(LOOK_SECONDS, PAUSE_SECONDS, seconds))
            self._raise_doubt()

    def _raise_doubt(self) -> None:
        """End the node where something met a broken file. Raises StoreDamaged."""
        reason = self._store.full_check.reason
        if reason is not None:
            raise self._store.full_check.note(reason)

    # --- the file -------------------------------------------------------------------------------

    async def _check_structure(self) -> None:
        """SQLite's check of the whole file, beside everything else.

        Raises StoreDamaged, StoreUnusable.
        """
        try:
            check = _StructureCheck(self._store.path)
            try:
                problem = await asyncio.wrap_future(check.start())
            finally:
                await asyncio.to_thread(check.stop)
        except sqlite3.DatabaseError as error:
            if is_trouble_of_the_disk(error):
                raise StoreUnusable(f"{self._store.path}: {error}") from error
            problem = str(error)
        if problem is None:
            return
        if is_unreadable(problem):
            raise StoreUnusable(f"{self._store.path}: {problem}")
        raise self._store.full_check.note(f"its structure is broken: {problem}")

    # --- the ledger -----------------------------------------------------------------------------

    async def _walk(self) -> None:
        """Follow the ledger to its end. Raises as `LedgerWalk.step`, SaveFailed."""
        loop = asyncio.get_running_loop()
        walk = LedgerWalk.from_genesis(self._store.ledger)
        while True:
            began = loop.time()
            self._raise_doubt()
            if walk.is_lost:
                walk = LedgerWalk.from_genesis(self._store.ledger)
            step = walk.step(STEP_ENTRIES, STEP_BYTES)
            self.progress.damaged_entries += self._store.repair_ledger(step)
            self.progress.entries_checked = walk.index
            if step.is_at_end:
                return
            took = loop.time() - began
            await asyncio.sleep(max(REST_SECONDS_MIN, REST_TIMES * took))


class _StructureCheck:
    """SQLite's check over a connection and in a thread of its own, of the lowest priority."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error."""
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        self._answer: Future[str | None] = Future()
        self._thread = threading.Thread(target=self._run, name="structure check", daemon=True)

    def start(self) -> "Future[str | None]":
        """Begin; what it comes to."""
        # So that nobody cancels it under the thread.
        self._answer.set_running_or_notify_cancel()
        self._thread.start()
        return self._answer

    def stop(self) -> None:
        """Break it off, and wait until it has ended."""
        # Again and again: what has not begun to run is not interrupted, and the thread may be slow.
        while self._thread.is_alive():
            self._connection.interrupt()
            self._thread.join(INTERRUPT_SECONDS)
        self._connection.close()

    def _run(self) -> None:
        # Of this thread alone, on Linux. Where it is not to be had, it is merely less polite.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self._answer.set_result(check_all(self._connection))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, also of our own faults
            self._answer.set_exception(error)
