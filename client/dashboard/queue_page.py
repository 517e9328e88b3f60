"""The page of what waits: for what, since when, and whose ballots a build still needs."""

import asyncio

import msgspec
from aiohttp import web

from client.api.routes import GLANCE_TIMEOUT_SECONDS, Site
from client.dashboard.pages import Pages
from client.gateway.gateway import WaitingBuilds
from client.storage.outbox import State
from client.views.queue_view import SECTIONS, QueuedBuild, Section, queued_build, section_of

REFRESH_SECONDS = 10
# Of each sort so many are shown, the oldest.
ROWS_MAX = 25
# Of so many of the builds that are under way the nodes are asked how far they are.
GLANCED_MAX = 8


class QueueSection(msgspec.Struct, frozen=True):
    """What some builds wait for, how many they are, and the oldest of them."""

    section: Section
    total: int
    rows: tuple[QueuedBuild, ...]


def add_queue_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""
    page = _QueuePage(site, pages)
    application.router.add_get("/queue", page.show)


class _QueuePage:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site = site
        self._pages = pages

    async def show(self, request: web.Request) -> web.Response:
        """GET /queue."""
        seen = self._pages.seen
        gateway = self._site.gateway
        under_way = [
            row.build
            for waiting in gateway.waiting(GLANCED_MAX)
            if waiting.state is State.OPENED and not waiting.is_held
            for row in waiting.oldest
        ]
        glances = (
            self._site.collector.glance(build, GLANCE_TIMEOUT_SECONDS) for build in under_way
        )
        await asyncio.gather(*glances)
        sections = self._sections(gateway.waiting(ROWS_MAX))
        return self._pages.render(
            "queue.html",
            sections=sections,
            total=sum(section.total for section in sections),
            rows_max=ROWS_MAX,
            refresh_seconds=REFRESH_SECONDS,
            seen=seen,
        )

    def _sections(self, waiting: list[WaitingBuilds]) -> list[QueueSection]:
        """In the order of SECTIONS: what is held is one of them, however far it is."""
        totals: dict[Section, int] = {}
        rows: dict[Section, list[QueuedBuild]] = {}
        for builds in waiting:
            section = section_of(builds.state, is_held=builds.is_held)
            totals[section] = totals.get(section, 0) + builds.total
            rows.setdefault(section, []).extend(self._rows(builds))
        return [
            QueueSection(section, totals[section], tuple(rows[section][:ROWS_MAX]))
            for section in SECTIONS
            if section in totals
        ]

    def _rows(self, builds: WaitingBuilds) -> list[QueuedBuild]:
        rows = []
        for row in builds.oldest:
            record = self._site.archive.get(row.build)
            if record is None:
                continue
            is_open = builds.state is State.OPENED and not builds.is_held
            states = self._site.collector.states(row.build) if is_open else ()
            ballots = self._site.archive.ballots(row.build) if is_open else ()
            cast = frozenset(ballot.replica for ballot in ballots)
            rows.append(queued_build(record, builds.state, states=states, cast=cast))
        return rows
