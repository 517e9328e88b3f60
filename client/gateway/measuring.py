"""Keeps the row of each finished build that plots are made of (client.storage.build_measures)."""

import asyncio
import logging

from client.storage.archive import Archive
from client.storage.database import Database, StorageFailed
from client.views.build_measure import measure_of

# So many in one commit: others wait while it runs.
MEASURED_AT_ONCE = 50
AGAIN_SECONDS = 30.0

_log = logging.getLogger(__name__)


def measure(archive: Archive, build: bytes) -> None:
    """Keep the row of a build, if it has a verdict; call it inside a transaction."""
    record = archive.get(build)
    if record is None or not record.collected:
        return
    found = measure_of(record, archive.ballots(build))
    if found is not None:
        archive.measures.put(found)


class MissingMeasures:
    """Makes, once, the rows that an earlier version of the gateway did not write."""

    def __init__(self, database: Database, archive: Archive) -> None:
        self._database = database
        self._archive = archive
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, beside everything else."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="measures")

    async def close(self) -> None:
        """Stop; the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def make(self) -> None:
        """Make all of them, the newest first. Raises StorageFailed."""
        missing = self._archive.measures.missing()
        for first in range(0, len(missing), MEASURED_AT_ONCE):
            with self._database.transaction():
                for number in missing[first : first + MEASURED_AT_ONCE]:
                    record = self._archive.by_number(number)
                    if record is not None:
                        measure(self._archive, record.build)
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            try:
                await self.make()
                return
            except StorageFailed as error:
                _log.error("builds are not measured for now: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)
