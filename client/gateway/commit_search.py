"""Finds the commit that an accepted build's ref points at, however long the server is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from client.gateway.resolve import NoSuchBranch, Resolver, Unreachable
from client.gateway.writes import NoteResolution, Write
from client.storage.build_request import BuildRequest
from client.storage.database import StorageFailed
from client.storage.outbox import Outbox

AGAIN_SECONDS = 1.0
AGAIN_SECONDS_MAX = 60.0

_log = logging.getLogger(__name__)


class CommitSearch:
    """Searches for one gateway. put: has a write applied in the next commit."""

    def __init__(
        self,
        resolver: Resolver,
        outbox: Outbox,
        put: Callable[[Write], Awaitable[object]],
    ) -> None:
        self._resolver = resolver
        self._outbox = outbox
        self._put = put

    async def find(self, identity: bytes, build: bytes, request: BuildRequest) -> None:
        """Find it and keep it, or that there is no such ref; unless the build is cancelled.

        If there is no branch of that name, the tag of that name is built.
        """
        delay = AGAIN_SECONDS
        while True:
            try:
                if self._outbox.build_row(build) is None:
                    return
                found = await self._resolver.resolve(
                    request.repository, request.branch, request.ref
                )
                if isinstance(found, NoSuchBranch) and request.ref is None:
                    tag = request.as_tag()
                    found = await self._resolver.resolve(tag.repository, tag.branch, tag.ref)
                    request = request if isinstance(found, NoSuchBranch) else tag
                await self._put(NoteResolution(identity, build, request, found, delay))
            except StorageFailed as error:
                _log.error("build %s: %s; trying again", build.hex()[:12], error)
            else:
                if not isinstance(found, Unreachable):
                    return
                _log.warning("build %s: %s", build.hex()[:12], found.reason)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_SECONDS_MAX)
