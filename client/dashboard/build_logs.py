"""The logs on a build's page: the end of each, and one stream of events for all that still grow.

One stream, because a browser has few connections to one host: with one for each replica, two
pages would leave none for a third.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from client.api.log_routes import LogApi
from client.api.routes import ApiError, Site
from client.dashboard.log_ends import TAIL_BYTES, TAILS_KEPT, LogEnd, last_lines, read_log_end
from client.logs.build_output import BuildOutput, html_of
from client.logs.live_logs import LiveLogs, LogAbsent, LogEvent, Position
from client.logs.log_pages import (
    LogPage,
    Reading,
    ShownSection,
    log_page,
    page_table,
    shown_sections,
)
from client.logs.log_search import Found, find_lines
from client.network.nodes import NodeFailed
from client.storage.archive import Archive, BuildRecord
from client.storage.database import StorageFailed
from client.views.build_view import BuildView
from common.log_pieces import ServedPiece

EVENTS_PATH = "/builds/{build}/logs/events"
# A page must not wait for a node that is down.
TAIL_TIMEOUT_SECONDS = 1.0
# All who look at a build load its page again when it changes, and all at once.
TAIL_KEPT_SECONDS = 1.0
QUEUED_EVENTS_MAX = 16
# As client.logs.live_logs.Position takes it: beyond the end of any log.
_END = 10**18 - 1
# In the place of a position: this log is complete on the page.
_NOT_FOLLOWED = "-"
_POSITIONS_CHARACTERS_MAX = 8000

_log = logging.getLogger(__name__)


class LogTail(msgspec.Struct, frozen=True):
    """The end of a log. is_cut: there is more before. text: one line on how far it is.

    html: spans of escaped text (client.logs.build_output) and nothing else.
    position: where it is gone on with ("" for wherever its end is by then); None: it is complete.
    """

    html: str
    is_cut: bool
    text: str
    position: str | None


class PagePlace(msgspec.Struct, frozen=True):
    """Which page of a log: by its number, or by a line that is to be on it; None: the first.

    are_times_shown: beside each line.
    """

    number: int | None = None
    line: int | None = None
    are_times_shown: bool = False


class _Recent:
    """The end of one growing log, and when it was asked for; whoever asks has the lock."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.at = 0.0
        self.tail: LogTail | None = None


class BuildLogs:
    """The ends of a build's logs, and the route of the events that go on from there."""

    def __init__(self, site: Site, log_api: LogApi) -> None:
        self._site = site
        self._log_api = log_api
        self._logs: LiveLogs = log_api.logs
        self._recent: dict[tuple[bytes, str], _Recent] = {}

    def add_routes(self, application: web.Application) -> None:
        """Add it."""
        application.router.add_get(EVENTS_PATH, self._follow)

    async def ends(self, record: BuildRecord, build: BuildView) -> dict[str, LogEnd]:
        """How the archived logs end, by replica in the order of the cluster file."""
        hashes = {ballot.replica: ballot.log_sha256 or "" for ballot in build.ballots}
        ends = {}
        for name in self._site.cluster.replica_names:
            if name in build.logs:
                file = self._site.archive.log_file(record.build, name)
                read = functools.partial(read_log_end, file, hashes[name])
                # a log that is removed meanwhile is one that is not here
                with contextlib.suppress(OSError):
                    ends[name] = await self._logs.steps.render(read)
        return ends

    async def tails(self, record: BuildRecord, build: BuildView) -> dict[str, LogTail]:
        """The end of each replica's log, by replica. Raises StorageFailed."""
        names = self._site.cluster.replica_names
        tails = await asyncio.gather(*(self._tail(record, build, name) for name in names))
        return dict(zip(names, tails, strict=True))

    async def page(self, record: BuildRecord, replica: str, place: PagePlace) -> LogPage | None:
        """A page of an archived log; None: it is not archived (any more)."""
        if not self.is_archived(record.build, replica):
            return None
        read = functools.partial(_read_page, self._site.archive, record.build, replica, place=place)
        try:
            return await self._logs.steps.render(read)
        except OSError:
            return None

    async def sections(self, record: BuildRecord, replica: str) -> tuple[ShownSection, ...]:
        """The steps of an archived log; none, if it is not archived (any more)."""
        read = functools.partial(_read_sections, self._site.archive, record.build, replica)
        try:
            return await self._logs.steps.render(read)
        except OSError:
            return ()

    async def find(self, record: BuildRecord, replica: str, query: str) -> Found:
        """The lines of an archived log that have this text. Raises ApiError."""
        file = self._site.archive.log_file(record.build, replica)
        try:
            return await self._logs.steps.render(functools.partial(find_lines, file, query))
        except OSError as error:
            raise ApiError(404, "that log is no longer kept here") from error

    def is_archived(self, build: bytes, replica: str) -> bool:
        """Whether the log that this replica's ballot names is here."""
        ballots = self._site.archive.ballots(build)
        return any(ballot.replica == replica and ballot.log_archived for ballot in ballots)

    async def _tail(self, record: BuildRecord, build: BuildView, replica: str) -> LogTail:
        if replica in build.logs:
            file = self._site.archive.log_file(record.build, replica)
            try:
                return await self._logs.steps.render(functools.partial(_read_end, file))
            except OSError:
                return _nothing("the log is no longer kept here", None)
        if record.collected or record.skipped or record.refused or record.is_never_asked:
            return _nothing("no log", None)
        return await self._recent_tail(record.build, replica)

    async def _recent_tail(self, build: bytes, replica: str) -> LogTail:
        """What that replica served a moment ago, or serves now: many may look at one build."""
        loop = asyncio.get_running_loop()
        recent = self._recent.setdefault((build, replica), _Recent())
        if len(self._recent) > TAILS_KEPT:
            del self._recent[next(iter(self._recent))]
        async with recent.lock:
            if recent.tail is None or recent.at + TAIL_KEPT_SECONDS < loop.time():
                recent.tail = await self._asked_tail(build, replica)
                recent.at = loop.time()
            return recent.tail

    async def _asked_tail(self, build: bytes, replica: str) -> LogTail:
        try:
            async with asyncio.timeout(TAIL_TIMEOUT_SECONDS):
                return await self._growing_tail(build, replica)
        except LogAbsent as error:
            return _nothing(str(error), None)
        except (NodeFailed, TimeoutError):
            return _nothing("not here yet", "")

    async def _growing_tail(self, build: bytes, replica: str) -> LogTail:
        """What that replica serves now. Raises LogAbsent, NodeFailed."""
        near_end = await self._near_end(build, replica)
        served = await self._logs.piece(build, replica, near_end.offset, wait_seconds=0)
        if not served.piece.data:
            return _nothing("nothing yet", str(near_end))
        return await self._logs.steps.render(functools.partial(_tail_of, served))

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """GET /builds/<id>/logs/events?at=<positions>: what is added to each log.

        Events are as of one log (client.logs.live_logs.LogEvent), with the replica's name in their
        data. `at` and an event's id are the positions of all, in the order of the cluster file.
        """
        record = self._site.record(request)
        names = self._site.cluster.replica_names
        text = request.headers.get("Last-Event-ID") or request.query.get("at", "")
        if len(text) > _POSITIONS_CHARACTERS_MAX:
            raise ApiError(400, "`at` is too long")
        positions = text.split(",") if text else [""] * len(names)
        if len(positions) != len(names):
            raise ApiError(400, f"`at` has one position for each of {len(names)} replicas")
        followed = sum(position != _NOT_FOLLOWED for position in positions)
        if not followed:
            # the one answer after which a browser does not come back
            return web.Response(status=204)
        events = self._merged(record.build, names, positions)
        return await self._log_api.send(request, events, followed)

    async def _merged(
        self, build: bytes, names: Sequence[str], positions: list[str]
    ) -> AsyncGenerator[tuple[LogEvent, str]]:
        """The events of all followed logs as they come, until each has ended."""
        queue: asyncio.Queue[tuple[int, LogEvent]] = asyncio.Queue(QUEUED_EVENTS_MAX)
        followed = {index for index, position in enumerate(positions) if position != _NOT_FOLLOWED}
        tasks = [
            asyncio.create_task(
                self._feed(queue, build, names[index], index=index, position=positions[index])
            )
            for index in followed
        ]
        try:
            while followed:
                index, event = await queue.get()
                positions[index] = str(event.position)
                if event.kind == "end":
                    followed.discard(index)
                    positions[index] = _NOT_FOLLOWED
                data = {"replica": names[index], **event.data}
                yield msgspec.structs.replace(event, data=data), ",".join(positions)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(
        self,
        queue: "asyncio.Queue[tuple[int, LogEvent]]",
        build: bytes,
        replica: str,
        *,
        index: int,
        position: str,
    ) -> None:
        """Put what comes of one log into the queue; the last event is its `end`."""
        start = Position(0)
        try:
            with contextlib.suppress(LogAbsent, NodeFailed):
                start = Position.parse(position) or await self._near_end(build, replica)
            async with contextlib.aclosing(self._logs.follow(build, replica, start)) as events:
                async for event in events:
                    await queue.put((index, event))
        except (OSError, StorageFailed) as error:
            text = f"the gateway cannot read it: {error}"
            await queue.put((index, LogEvent("end", {"text": text}, start)))
        except Exception:  # noqa: BLE001 - told in full; the page would wait for ever
            _log.exception("a log is not followed any more, by a fault of our own")
            text = "the gateway cannot follow it: its log says why"
            await queue.put((index, LogEvent("end", {"text": text}, start)))

    async def _near_end(self, build: bytes, replica: str) -> Position:
        """Where a page begins that shows nothing of a log yet. Raises LogAbsent, NodeFailed."""
        served = await self._logs.piece(build, replica, _END, wait_seconds=0)
        # a log that has not begun has no length: it is said to go up to where one asks for it
        length = 0 if served.piece.total == _END else served.piece.total
        return Position(max(0, length - TAIL_BYTES), served.run)


def _nothing(text: str, position: str | None) -> LogTail:
    return LogTail("", False, text, position)


def _read_page(archive: Archive, build: bytes, replica: str, *, place: PagePlace) -> LogPage:
    """Raises OSError."""
    file = archive.log_file(build, replica)
    number = place.number or 1
    if place.line is not None:
        number = page_table(file).page_of_line(place.line)
    times = archive.read_times(build, replica)
    return log_page(file, number, Reading(times, place.are_times_shown, place.line))


def _read_sections(archive: Archive, build: bytes, replica: str) -> tuple[ShownSection, ...]:
    """Raises OSError."""
    table = page_table(archive.log_file(build, replica))
    return shown_sections(table, archive.read_times(build, replica))


def _tail_of(served: ServedPiece) -> LogTail:
    """The end of a log that grows, by the piece at its end."""
    output = BuildOutput()
    data = last_lines(served.piece.data, is_cut=served.piece.offset > 0)
    spans = output.take(data)
    position = Position(served.piece.end - output.held_bytes, served.run)
    is_cut = len(data) < served.piece.end
    return LogTail(html_of(spans), is_cut, "so far", str(position))


def _read_end(file: Path) -> LogTail:
    """The end of an archived log. Raises OSError."""
    found = file.stat()
    return _rendered_end(file, found.st_size, found.st_mtime_ns)


@functools.lru_cache(TAILS_KEPT)
def _rendered_end(file: Path, size: int, changed: int) -> LogTail:
    """Of that file with that size, changed then. Many look at one build: it is rendered once."""
    with file.open("rb") as stream:
        stream.seek(max(0, size - TAIL_BYTES))
        data = last_lines(stream.read(TAIL_BYTES), is_cut=size > TAIL_BYTES)
    spans = BuildOutput().take(data, is_last=True)
    is_cut = len(data) < size
    return LogTail(html_of(spans), is_cut, f"{size} bytes", None)
