"""Removes finished builds from the gateway's archive by age and number.

Never one that is unfinished, or whose ballots and logs are still waited for. The ledger on the
nodes is not touched by this: a verdict stays provable, from there and from its envelope.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from client.archive import Archive
from client.database import Database, StorageFailed
from common.retention import KeepRules, KeptItem, find_surplus

SWEEP_SECONDS = 600.0
# So many in one commit: others wait while it runs.
REMOVED_AT_ONCE_MAX = 200

_log = logging.getLogger(__name__)


class ArchiveKeeper:
    """Keeps one gateway's archive to its rules."""

    def __init__(
        self,
        database: Database,
        archive: Archive,
        rules: KeepRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since 1970."""
        self._database = database
        self._archive = archive
        self._rules = rules
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        # how many were removed since the start
        self.removed_count = 0

    def start(self) -> None:
        """Begin to sweep every few minutes."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="archive keeper")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> None:
        """Remove what the rules say. Raises StorageFailed."""
        items = [KeptItem(build.hex(), at) for build, at in self._archive.finished_builds()]
        surplus = find_surplus(items, self._rules, self._clock())
        builds = [bytes.fromhex(name) for name in surplus.names]
        for first in range(0, len(builds), REMOVED_AT_ONCE_MAX):
            some = builds[first : first + REMOVED_AT_ONCE_MAX]
            with self._database.transaction():
                for build in some:
                    self._archive.remove(build)
            self.removed_count += len(some)
            # after the commit: a log without its build is found again at the next sweep
            await asyncio.to_thread(self._archive.remove_logs, some)
        if builds:
            _log.info("removed %d finished builds: %s", len(builds), surplus.in_words())
        await asyncio.to_thread(self._archive.remove_logs, self._archive.orphaned_logs())

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except (StorageFailed, OSError) as error:
                _log.error("old builds stay for now: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)
