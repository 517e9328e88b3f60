"""The ledger, the newest entry first, as far as client.network.ledger_check has checked it.

Nothing is shown that was not checked; what is not, and why, is said.
"""

import re
from collections.abc import Sequence

import msgspec
from aiohttp import web

from client.api.routes import GLANCE_TIMEOUT_SECONDS, ApiError, Site
from client.dashboard.pages import Pages
from client.network.ledger_check import LedgerAbsent, LedgerState
from client.views.ledger_view import EntryView, entry_views

PAGE_ENTRIES = 50
REFRESH_SECONDS = 10
# The ledger grows while its entries are fetched: then they are fetched again.
TRIES_MAX = 3

_INDEX = re.compile(r"[0-9]{1,18}")


class LedgerRow(msgspec.Struct, frozen=True):
    """An entry on the page. is_here: this gateway has a page of its build.

    is_certified: a checkpoint's certificate covers it; else f+1 equal answers do.
    """

    entry: EntryView
    repository: str | None
    branch: str | None
    is_here: bool
    is_certified: bool


class LedgerPlace(msgspec.Struct, frozen=True):
    """Which entries a page shows, and the `before` of the pages beside it (null: none)."""

    first: int
    last: int
    older: int | None
    newer: int | None


def add_ledger_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""
    page = _LedgerPage(site, pages)
    application.router.add_get("/ledger", page.show)


class _LedgerPage:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site = site
        self._pages = pages

    async def show(self, request: web.Request) -> web.Response:
        """GET /ledger?before=<index>: the entries below that one."""
        before = _before(request)
        await self._site.network.look(GLANCE_TIMEOUT_SECONDS)
        check = self._site.network.ledger
        rows: list[LedgerRow] = []
        absent = served_by = None
        for _ in range(TRIES_MAX):
            # the ledger may grow while its entries are fetched: that is a change not seen here
            seen = self._pages.seen
            state = check.state
            place = place_of(before, state.index)
            if place is None:
                break
            try:
                stretch = await check.stretch(place.first, place.last)
            except LedgerAbsent as error:
                rows, absent = [], str(error)
            else:
                views = tuple(entry_views(stretch.entries, stretch.head_before))
                rows, absent, served_by = self._rows(views, state), None, stretch.served_by
            if before is not None or check.state.index == state.index:
                break
        return self._pages.render(
            "ledger.html",
            refresh_seconds=REFRESH_SECONDS if before is None else None,
            seen=seen,
            absent=absent,
            is_newest=before is None,
            place=place,
            quorums=self._site.cluster.quorums,
            rows=rows,
            served_by=served_by,
            state=check.state,
        )

    def _rows(self, views: Sequence[EntryView], state: LedgerState) -> list[LedgerRow]:
        """The newest first; what an entry does not say of its build, the archive may know."""
        rows = []
        for view in reversed(views):
            known = self._site.archive.get(bytes.fromhex(view.build)) if view.build else None
            rows.append(
                LedgerRow(
                    entry=view,
                    repository=view.repository or (known.repository if known else None),
                    branch=view.branch or (known.branch if known else None),
                    is_here=known is not None,
                    is_certified=view.index <= (state.certified or 0),
                )
            )
        return rows


def place_of(before: int | None, index: int) -> LedgerPlace | None:
    """What a page shows of a ledger of so many entries; None: there is nothing. Pure."""
    last = index if before is None else min(before - 1, index)
    if last < 1:
        return None
    first = max(1, last - PAGE_ENTRIES + 1)
    newer = last + 1 + PAGE_ENTRIES
    return LedgerPlace(
        first=first,
        last=last,
        older=first if first > 1 else None,
        newer=newer if last < index else None,
    )


def _before(request: web.Request) -> int | None:
    text = request.query.get("before")
    if text is None:
        return None
    if not _INDEX.fullmatch(text) or int(text) < 1:
        raise ApiError(400, "`before` is the number of a ledger entry")
    return int(text)
