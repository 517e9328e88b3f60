"""The routes of a replica's log at the gateway: pieces for programs, events for people."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from client.api.routes import ApiError, Site
from client.logs.live_logs import LiveLogs, LogAbsent, LogEvent, Position
from client.network.nodes import NodeFailed
from common.log_pieces import piece_headers
from common.web.limited_listener import is_this_machine

HEARTBEAT_SECONDS = 10.0
# A browser asks again so long after it lost the connection.
RETRY_MILLISECONDS = 2000
# A follower who reads nothing for so long is let go.
SEND_TIMEOUT_SECONDS = 30.0
# As many connections to nodes as a session of aiohttp has; of one address that is not this machine
# fewer, but enough for two pages of the largest clusters.
FOLLOWERS_MAX = 100
FOLLOWERS_PER_PEER_MAX = 32
WAIT_SECONDS_MAX = 20
AGAIN_SECONDS = 2

PATH = "/api/v1/builds/{build}/replicas/{replica}/log"


class LogApi:
    """Serves the logs; at most FOLLOWERS_MAX are waited for or followed at once."""

    def __init__(self, site: Site, logs: LiveLogs) -> None:
        self._site = site
        self.logs = logs
        # from where, and how many logs each of them follows
        self._followers: dict[asyncio.Task[Any], tuple[str, int]] = {}

    def add_routes(self, application: web.Application) -> None:
        """Add them, and let go of all followers when the application stops."""
        application.router.add_get(PATH, self._show_piece)
        application.router.add_get(f"{PATH}/events", self._follow)
        application.router.add_get(f"{PATH}/times", self._show_times)
        application.on_shutdown.append(self._let_go)

    async def _show_piece(self, request: web.Request) -> web.Response:
        """GET .../log?from=<byte>&wait=<seconds>: what there is from that byte on.

        The headers are those of common.log_pieces. With `wait` the answer comes when there is
        something, or the log has ended, or the time is over.
        """
        record = self._site.record(request)
        replica = self._site.replica(request)
        offset = _number(request, "from", 10**18 - 1)
        wait_seconds = _number(request, "wait", WAIT_SECONDS_MAX)
        try:
            async with self._place(request):
                served = await self.logs.piece(
                    record.build, replica, offset, wait_seconds=wait_seconds
                )
        except LogAbsent as error:
            raise ApiError(404, str(error)) from error
        except NodeFailed as error:
            raise ApiError(502, str(error), AGAIN_SECONDS) from error
        return web.Response(body=served.piece.data, headers=piece_headers(served))

    async def _show_times(self, request: web.Request) -> web.Response:
        """GET .../log/times: a line for each part of an archived log (common.log_times)."""
        record = self._site.record(request)
        replica = self._site.replica(request)
        entries = await asyncio.to_thread(self._site.archive.read_times, record.build, replica)
        if not entries:
            raise ApiError(404, f"{replica} says nothing of the times of its log (yet)")
        return web.Response(text="".join(f"{offset} {time}\n" for offset, time in entries))

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """GET .../log/events?from=<byte>: server-sent events (client.logs.live_logs.LogEvent).

        The header Last-Event-ID, which browsers send when they come back, goes before `last`, the
        same for who has closed the stream, and that before `from`.
        """
        record = self._site.record(request)
        replica = self._site.replica(request)
        start = Position(_number(request, "from", 10**18 - 1))
        last = request.headers.get("Last-Event-ID") or request.query.get("last", "")
        start = Position.parse(last) or start
        events = self.logs.follow(record.build, replica, start)
        return await self.send(request, _with_positions(events))

    async def send(
        self,
        request: web.Request,
        events: AsyncGenerator[tuple[LogEvent, str]],
        logs_count: int = 1,
    ) -> web.StreamResponse:
        """Answer with server-sent events, each with its id, until there are no more.

        logs_count: how many logs they are of. The events are closed. Raises ApiError (503).
        """
        async with contextlib.aclosing(events), self._place(request, logs_count):
            response = EventSourceResponse(
                send_timeout=SEND_TIMEOUT_SECONDS, ping_interval=HEARTBEAT_SECONDS
            )
            response.headers["X-Content-Type-Options"] = "nosniff"
            # Whoever followed may be gone by now; then there is nobody to tell.
            with contextlib.suppress(ConnectionError, TimeoutError):
                await response.prepare(request)
                async with response:
                    async for event, identity in events:
                        if not response.is_connected():
                            break
                        await _send_event(response, request, event, identity=identity)
        return response

    @contextlib.asynccontextmanager
    async def _place(self, request: web.Request, logs_count: int = 1) -> AsyncIterator[None]:
        peer = request.remote or ""
        held = self._followers.values()
        if sum(count for _, count in held) + logs_count > FOLLOWERS_MAX:
            raise ApiError(503, f"{FOLLOWERS_MAX} logs are followed already", AGAIN_SECONDS)
        own = sum(count for other, count in held if other == peer)
        if not is_this_machine(peer) and own + logs_count > FOLLOWERS_PER_PEER_MAX:
            text = f"{FOLLOWERS_PER_PEER_MAX} logs are followed already from {peer}"
            raise ApiError(503, text, AGAIN_SECONDS)
        task = asyncio.current_task()
        assert task is not None
        self._followers[task] = peer, logs_count
        try:
            yield
        finally:
            del self._followers[task]

    async def _let_go(self, application: web.Application) -> None:
        followers = tuple(self._followers)
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await self.logs.steps.close()


async def _send_event(
    response: EventSourceResponse, request: web.Request, event: LogEvent, *, identity: str
) -> None:
    """As EventSourceResponse.send, which would look for line ends in all that is shown.

    There are none in JSON, nor in positions and kinds; and a log may have a hundred followers.
    """
    head = f"id: {identity}\r\nevent: {event.kind}\r\nretry: {RETRY_MILLISECONDS}\r\ndata: "
    data = msgspec.json.encode(event.data)
    try:
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            await response.write(b"".join((head.encode(), data, b"\r\n\r\n")))
    except TimeoutError:
        # What is buffered would keep the connection.
        if request.transport is not None:
            request.transport.abort()
        raise


async def _with_positions(
    events: AsyncGenerator[LogEvent],
) -> AsyncGenerator[tuple[LogEvent, str]]:
    async with contextlib.aclosing(events):
        async for event in events:
            yield event, str(event.position)


def _number(request: web.Request, name: str, most: int) -> int:
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= most):
        raise ApiError(400, f"`{name}` is a number from 0 to {most}")
    return int(text)
