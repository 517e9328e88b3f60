"""Finds the commit that an accepted build's ref points at, however long the server is away."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable

from client.archive import Archive
from client.database import StorageFailed
from client.outbox import Outbox
from client.resolve import FoundCommit, Resolution, Resolver, Unreachable
from client.wanted import WantedBuild

AGAIN_SECONDS = 1.0
AGAIN_SECONDS_MAX = 60.0

_log = logging.getLogger(__name__)


class CommitSearch:
    """Searches for one gateway. store: has something done in the next commit."""

    def __init__(
        self,
        resolver: Resolver,
        outbox: Outbox,
        archive: Archive,
        store: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        self._resolver = resolver
        self._outbox = outbox
        self._archive = archive
        self._store = store

    async def find(self, identity: bytes, build: bytes, wanted: WantedBuild) -> None:
        """Find it and keep it, or that there is no such ref; unless the build is cancelled."""
        delay = AGAIN_SECONDS
        while True:
            try:
                if self._outbox.build_row(build) is None:
                    return
                found = await self._resolver.resolve(wanted.repository, wanted.branch, wanted.ref)
                await self._store(functools.partial(self._note, identity, build, found, delay))
            except StorageFailed as error:
                _log.error("build %s: %s; trying again", build.hex()[:12], error)
            else:
                if not isinstance(found, Unreachable):
                    return
                _log.warning("build %s: %s", build.hex()[:12], found.reason)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_SECONDS_MAX)

    def _note(self, identity: bytes, build: bytes, found: Resolution, delay: float) -> None:
        if self._outbox.build_row(build) is None:
            return  # it was cancelled meanwhile
        if isinstance(found, Unreachable):
            self._archive.note_detail(
                build,
                f"the repository's server gives no answer ({found.reason}); "
                f"asking again in {delay:g} s",
            )
            return
        commit = found.commit if isinstance(found, FoundCommit) else None
        self._outbox.resolve(identity, commit)
        self._archive.note_resolved(build, commit, time.time())
