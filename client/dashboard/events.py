"""GET /events: tells pages that something changed, so that they fetch themselves anew.

While somebody follows, the gateway looks at what nobody tells it: its links, and how far the
nodes are with open builds.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from client.api.routes import BUILD_ID, ApiError, Site
from client.dashboard.change_feed import Changes, Follower, TooManyFollowers
from client.storage.build_filter import BuildFilter
from client.storage.database import StorageFailed
from client.views.build_view import is_over
from common.web.limited_listener import is_this_machine

FOLLOWERS_MAX = 200
# of one address that is not this machine
FOLLOWERS_PER_PEER_MAX = 64
# At most two a second to each follower; and in all so few that fetching the pages, which follows,
# leaves the gateway its time for builds: a page costs it some ten milliseconds.
EVENT_SECONDS = 0.5
EVENTS_PER_SECOND_MAX = 20
HEARTBEAT_SECONDS = 10.0
RETRY_MILLISECONDS = 2000
# A follower who reads nothing for so long is let go.
SEND_TIMEOUT_SECONDS = 30.0
AGAIN_SECONDS = 5
LINKS_SECONDS = 0.5
GLANCE_SECONDS = 2.0
# For those who follow all builds, so many of the open ones are looked at.
GLANCES_MAX = 16

_log = logging.getLogger(__name__)
_COUNT = re.compile(r"[0-9]{1,18}")


def make_changes(site: Site) -> Changes:
    """The count of what changes at this gateway, fed by its archive and its collector."""
    # Microseconds since 1970: a page of an earlier life of the gateway never has this count.
    changes = Changes(time.time_ns() // 1000, FOLLOWERS_MAX)
    site.archive.listen(changes.note_all)
    site.collector.listen(changes.note)
    return changes


class Events:
    """The route, and what is watched while somebody follows."""

    def __init__(self, site: Site, changes: Changes) -> None:
        self._site = site
        self._changes = changes
        # from where each follows
        self._tasks: dict[asyncio.Task[Any], str] = {}
        self._watching: list[asyncio.Task[None]] = []

    def add_routes(self, application: web.Application) -> None:
        """Add it, and let go of all followers when the application stops."""
        application.router.add_get("/events", self._follow)
        application.on_shutdown.append(self._let_go)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """GET /events?build=<id>&after=<count>: `changed` with {"build": id or null}.

        An event's id is the count; Last-Event-ID, which browsers send when they come back, goes
        before `after`.
        """
        build = _build(request)
        last = request.headers.get("Last-Event-ID", request.query.get("after", ""))
        after = int(last) if _COUNT.fullmatch(last) else None
        async with self._place(request.remote or "", build, after) as follower:
            response = EventSourceResponse(
                send_timeout=SEND_TIMEOUT_SECONDS, ping_interval=HEARTBEAT_SECONDS
            )
            response.headers["X-Content-Type-Options"] = "nosniff"
            # Whoever followed may be gone by now; then there is nobody to tell.
            with contextlib.suppress(ConnectionError, TimeoutError):
                await response.prepare(request)
                async with response:
                    await self._tell(response, follower)
        return response

    async def _tell(self, response: EventSourceResponse, follower: Follower) -> None:
        while response.is_connected():
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    changed = await follower.wait()
            except TimeoutError:
                continue  # the heartbeat finds out whether anybody is still there
            await response.send(
                msgspec.json.encode({"build": changed.hex() if changed else None}).decode(),
                id=str(self._changes.count),
                event="changed",
                retry=RETRY_MILLISECONDS,
            )
            await asyncio.sleep(pause_seconds(len(self._changes.followers)))

    @contextlib.asynccontextmanager
    async def _place(
        self, peer: str, build: bytes | None, after: int | None
    ) -> AsyncIterator[Follower]:
        own = sum(other == peer for other in self._tasks.values())
        if not is_this_machine(peer) and own >= FOLLOWERS_PER_PEER_MAX:
            text = f"{FOLLOWERS_PER_PEER_MAX} pages are followed from {peer}"
            raise ApiError(503, text, AGAIN_SECONDS)
        try:
            follower = self._changes.follow(build, after)
        except TooManyFollowers as error:
            raise ApiError(503, f"{FOLLOWERS_MAX} pages are followed", AGAIN_SECONDS) from error
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = peer
        self._begin_to_watch()
        try:
            yield follower
        finally:
            del self._tasks[task]
            self._changes.leave(follower)
            if not self._changes.followers:
                self._end_to_watch()

    def _begin_to_watch(self) -> None:
        if not self._watching:
            loop = asyncio.get_running_loop()
            self._watching = [
                loop.create_task(_every(LINKS_SECONDS, self._links_watch())),
                loop.create_task(_every(GLANCE_SECONDS, self._glance)),
            ]

    def _end_to_watch(self) -> None:
        for task in self._watching:
            task.cancel()
        self._watching = []

    def _links_watch(self) -> Callable[[], Awaitable[None]]:
        seen = self._site.connected()

        async def look() -> None:
            nonlocal seen
            connected = self._site.connected()
            if connected != seen:
                seen = connected
                self._changes.note(None)

        return look

    async def _glance(self) -> None:
        """Have the collector ask the nodes; it tells when they say something new."""
        archive = self._site.archive
        followed = {follower.build for follower in self._changes.followers}
        records = [archive.get(build) for build in followed if build is not None]
        if None in followed:
            records.extend(archive.page(None, GLANCES_MAX, BuildFilter(outcome="building")))
        open_builds = {
            record.build
            for record in records
            if record is not None and record.opened_at is not None and not is_over(record)
        }
        glance = self._site.collector.glance
        await asyncio.gather(*(glance(build, GLANCE_SECONDS) for build in open_builds))

    async def _let_go(self, application: web.Application) -> None:
        tasks = (*self._tasks, *self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def pause_seconds(followers: int) -> float:
    """How long a follower is told nothing after an event, with so many of them. Pure."""
    return max(EVENT_SECONDS, followers / EVENTS_PER_SECOND_MAX)


async def _every(seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await look()
        except StorageFailed as error:
            _log.error("%s", error)
        except Exception:  # noqa: BLE001 - told in full; the pages that live wait for this task
            _log.exception("what pages follow was not looked at, by a fault of our own")
        await asyncio.sleep(seconds)


def _build(request: web.Request) -> bytes | None:
    text = request.query.get("build")
    if text is None:
        return None
    if not BUILD_ID.fullmatch(text):
        raise ApiError(400, "`build` is the id of a build: 64 hexadecimal digits")
    return bytes.fromhex(text)
