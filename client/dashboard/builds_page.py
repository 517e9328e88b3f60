"""The first page: all builds, the newest first, or those that a filter leaves."""

from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from ci.operations import Outcome
from client.api.routes import BuildPage, Site
from client.dashboard.pages import FORM_POLICY, Pages
from client.storage.build_filter import (
    BRANCH_CHARACTERS_MAX,
    EVENTS,
    FILTERS,
    OUTCOMES,
    read_filter,
)
from client.views import formats
from client.views.agreement import ABSTAINS, AGREES, DISSENTS, FOUND, NONE, STANDS_BY, stance_of
from client.views.build_times import building_seconds, span, total_seconds
from client.views.build_view import BuildStatus, BuildView

# Without JavaScript only; the page of older builds stays as it is.
REFRESH_SECONDS = 10
REPOSITORIES_MAX = 200
# To choose from while typing: of the branches of so many of the newest builds, so many.
BRANCHES_OF_BUILDS = 200
BRANCHES_MAX = 30


class ReplicaMark(msgspec.Struct, frozen=True):
    """How one replica stands to a build, at a glance; `text` says it in words.

    stance: as `client.views.agreement` has it.
    """

    replica: str
    stance: str
    text: str


class BuildRow(msgspec.Struct, frozen=True):
    """One build's line."""

    build: BuildView
    # its verdict's outcome, or its status
    state: str
    repository: str
    # what asked for it; None: a push
    event: str | None
    marks: tuple[ReplicaMark, ...]
    # how many agree, in words; None: there is nothing to agree on
    agreement: str | None
    # who dissents or abstains, in words
    apart: tuple[str, ...]
    # the agreed failed test, and how many more failed; None: no failed test is agreed on
    failed: str | None
    # how long it was built; None: not known
    took: str | None
    # how long it waited besides, where that is longer; None: it is not
    waited: str | None
    # since when it is being built (ISO 8601); None: it is not
    began: str | None


def add_builds_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route, and those that lead to it: a commit's builds, and the address above
    a build's."""
    page = _BuildsPage(site, pages)
    application.router.add_get("/", page.show)
    application.router.add_get("/builds", _go_to_list)
    application.router.add_get("/commits/{commit}", _go_to_commit)


class _BuildsPage:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site = site
        self._pages = pages

    async def show(self, request: web.Request) -> web.Response:
        """GET /?repository=&branch=&commit=&author=&event=&outcome=&after=<build>&limit=<n>."""
        page = self._site.page(request, is_part=True)
        only = read_filter(request.query, is_part=True)
        is_first = "after" not in request.query
        archive = self._site.archive
        limit = {"limit": request.query["limit"]} if "limit" in request.query else {}
        response = self._pages.render(
            "builds.html",
            rows=[build_row(build, self._site.cluster.replica_names) for build in page.builds],
            only=only,
            is_first=is_first,
            newest=_address({**only.fields, **limit}),
            older=_older(page, {**only.fields, **limit}),
            repositories=self._repositories(),
            branches=archive.newest_branches(None, BRANCHES_OF_BUILDS)[:BRANCHES_MAX],
            not_understood=sorted(set(request.query) - {*FILTERS, "after", "limit"}),
            filters=FILTERS,
            events=EVENTS,
            branch_characters_max=BRANCH_CHARACTERS_MAX,
            outcomes=OUTCOMES,
            under_way={state: archive.count(state) for state in ("building", "queued")},
            refresh_seconds=REFRESH_SECONDS if is_first else None,
            webhook_url=f"{self._site.public_url}/webHook",
            connected=len(self._site.connected()),
        )
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response

    def _repositories(self) -> list[str]:
        """To choose from: those that are configured, and that there are builds of."""
        names = {entry.url for entry in self._site.config.repositories}
        names.update(self._site.archive.repositories(REPOSITORIES_MAX))
        return sorted(names)[:REPOSITORIES_MAX]


async def _go_to_list(request: web.Request) -> web.Response:
    """GET /builds: the list is at /, with the same query."""
    raise web.HTTPFound(request.rel_url.with_path("/", keep_query=True))


async def _go_to_commit(request: web.Request) -> web.Response:
    """GET /commits/<id>: the list of its builds; the beginning of an id will do."""
    query = urlencode({"commit": request.match_info["commit"]})
    raise web.HTTPFound(f"/?{query}")


def build_row(build: BuildView, replicas: Sequence[str]) -> BuildRow:
    """A build's line, with a mark for each replica of the cluster. Pure."""
    state = build.verdict.outcome if build.verdict else build.status.value
    marks = tuple(_mark(build, replica) for replica in replicas)
    is_building = build.status is BuildStatus.BUILDING
    seconds, total = building_seconds(build), total_seconds(build)
    waited = None if seconds is None or total is None else total - seconds
    return BuildRow(
        build=build,
        state=state,
        repository=formats.short_repository(build.repository),
        event=None if build.event == "push" else _event(build),
        marks=marks,
        agreement=_agreement(build, marks),
        apart=tuple(mark.text for mark in marks if mark.stance in (DISSENTS, ABSTAINS)),
        failed=_failed(build),
        took=None if seconds is None else span(seconds),
        waited=None if waited is None or waited <= max(1.0, seconds or 0.0) else span(waited),
        began=build.times.opened if is_building else None,
    )


def _mark(build: BuildView, replica: str) -> ReplicaMark:
    # The list tells who has said something, not whether the others still may.
    stance = stance_of(build, replica, is_collected=True)
    text = f"{replica}: no ballot" if stance == NONE else f"{replica} {stance}"
    if stance == FOUND:
        ballot = next(ballot for ballot in build.ballots if ballot.replica == replica)
        text = f"{replica} found {formats.words(ballot.outcome or 'nothing')}"
    return ReplicaMark(replica, stance, text)


def _agreement(build: BuildView, marks: Sequence[ReplicaMark]) -> str | None:
    agreeing = sum(mark.stance == AGREES for mark in marks)
    cast = sum(mark.stance not in (NONE, STANDS_BY) for mark in marks)
    if build.verdict is None:
        return f"{cast} of {len(marks)} so far" if build.status is BuildStatus.BUILDING else None
    if build.verdict.outcome == Outcome.CANCELLED:
        return None
    if build.verdict.outcome == Outcome.DISPUTED:
        return "no agreement"
    return f"{agreeing} of {len(marks)} agree"


def _failed(build: BuildView) -> str | None:
    verdict = build.verdict
    if verdict is None or verdict.failed_test is None:
        return None
    # the last two parts of an id say most: its class or file, and its name
    name = "::".join(verdict.failed_test.split("::")[-2:])
    more = verdict.failed_tests - 1
    return f"{name}, and {more} more" if more > 0 else name


def _event(build: BuildView) -> str:
    words = formats.words(build.event)
    named = build.ref or build.schedule
    return f"{words} {named}" if named else words


def _older(page: BuildPage, fields: dict[str, str]) -> str | None:
    return None if page.next is None else _address({**fields, "after": page.next})


def _address(fields: dict[str, str]) -> str:
    return f"/?{urlencode(fields)}" if fields else "/"
