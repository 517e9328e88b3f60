"""Finds the commit that an accepted build's ref points at, however long the server is away."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from client.archive import Archive
from client.database import StorageFailed
from client.outbox import Outbox
from client.resolve import FoundCommit, NoSuchBranch, Resolution, Resolver, Unreachable
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
        """Find it and keep it, or that there is no such ref; unless the build is cancelled.

        If there is no branch of that name, the tag of that name is built.
        """
        delay = AGAIN_SECONDS
        while True:
            try:
                if self._outbox.build_row(build) is None:
                    return
                found = await self._resolver.resolve(wanted.repository, wanted.branch, wanted.ref)
                if isinstance(found, NoSuchBranch) and wanted.ref is None:
                    tag = wanted.as_tag()
                    found = await self._resolver.resolve(tag.repository, tag.branch, tag.ref)
                    wanted = wanted if isinstance(found, NoSuchBranch) else tag
                note = functools.partial(self._note, identity, build, wanted, found, delay)
                await self._store(note)
            except StorageFailed as error:
                _log.error("build %s: %s; trying again", build.hex()[:12], error)
            else:
                if not isinstance(found, Unreachable):
                    return
                _log.warning("build %s: %s", build.hex()[:12], found.reason)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_SECONDS_MAX)

    def _note(
        self,
        identity: bytes,
        build: bytes,
        wanted: WantedBuild,
        found: Resolution,
        delay: float,
    ) -> None:
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
        wanted = msgspec.structs.replace(wanted, commit=commit)
        self._outbox.resolve(identity, wanted)
        self._archive.note_resolved(build, wanted, time.time())
