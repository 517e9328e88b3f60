"""Removes finished builds from the gateway's archive by age and number.

Never one that is unfinished, or whose ballots and logs are still waited for. The ledger on the
nodes is not touched by this: a verdict stays provable, from there and from its envelope.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from client.storage.archive import Archive
from client.storage.database import Database, StorageFailed
from common.retention import KeepRules

SWEEP_SECONDS = 600.0
# So many in one commit: others wait while it runs.
REMOVED_AT_ONCE_MAX = 200
# So many logs are looked up in one step.
LOOKED_AT_ONCE_MAX = 200
REPOSITORIES_MAX = 10_000

_log = logging.getLogger(__name__)


class ArchiveKeeper:
    """Keeps one gateway's archive to its rules."""

    def __init__(
        self,
        database: Database,
        archive: Archive,
        rules: KeepRules,
        *,
        faults_max: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """faults_max: of the cluster. clock: seconds since 1970."""
        self._database = database
        self._archive = archive
        self._items_max, self._seconds_max = rules.items_max, rules.seconds_max
        self._faults_max = faults_max
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
        """Remove what the rules say, the oldest first. Raises StorageFailed, OSError.

        However long the history is, others never wait for more than one of its steps.
        """
        finished = self._archive.count_finished()
        too_many = max(0, finished - (finished if self._items_max is None else self._items_max))
        counted = Counter[str]()
        while removed := self._remove_some(too_many - counted.total(), counted):
            self.removed_count += len(removed)
            # after the commit: a log without its build is found again at the next sweep
            await asyncio.to_thread(self._archive.remove_logs, removed)
        if counted:
            why = ", ".join(f"{count} {reason}" for reason, count in counted.items())
            _log.info("removed %d finished builds: %s", counted.total(), why)
        await self._remove_orphans()
        await self._update_cases()

    async def _update_cases(self) -> None:
        """Say anew how test cases stand: with time alone what was seen of them counts no more."""
        cases = self._archive.cases
        for repository in cases.repositories(REPOSITORIES_MAX):
            with self._database.transaction():
                cases.update(repository, self._faults_max, self._clock())
            await asyncio.sleep(0)

    def _remove_some(self, too_many: int, counted: Counter[str]) -> list[bytes]:
        """Remove some of what is too old, or beyond the number; which ones.

        counted: how many went for which reason; this adds to it.
        """
        now, removed = self._clock(), []
        oldest = self._archive.oldest_finished(REMOVED_AT_ONCE_MAX)
        for index, (build, at) in enumerate(oldest):
            is_too_old = self._seconds_max is not None and now - at > self._seconds_max
            if is_too_old or index < too_many:
                removed.append(build)
                counted["too old" if is_too_old else "more than may be kept"] += 1
        if removed:
            with self._database.transaction():
                for build in removed:
                    self._archive.remove(build)
        return removed

    async def _remove_orphans(self) -> None:
        """Remove logs whose records are not here: a crash came between the two."""
        logged = await asyncio.to_thread(self._archive.logged_builds)
        for first in range(0, len(logged), LOOKED_AT_ONCE_MAX):
            some = logged[first : first + LOOKED_AT_ONCE_MAX]
            orphans = [build for build in some if not self._archive.has(build)]
            await asyncio.to_thread(self._archive.remove_logs, orphans)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except (StorageFailed, OSError) as error:
                _log.error("old builds stay for now: %s", error)
            except Exception:  # noqa: BLE001 - told in full; without this task nothing is removed
                _log.exception("old builds stay for now, by a fault of our own")
            await asyncio.sleep(SWEEP_SECONDS)
