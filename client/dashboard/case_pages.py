"""The pages of test cases: a repository's list, and one case's history."""

from collections.abc import Sequence
from urllib.parse import urlencode

from aiohttp import web

from ci.flaky import CaseState
from client.api.case_routes import (
    CASE_SHA256,
    case_of,
    repository_of,
    state_of,
)
from client.api.routes import ApiError, Site
from client.dashboard.pages import FORM_POLICY, Pages
from client.gateway.case_reader import CaseReader, NoSuchCase
from client.views.case_view import CasePage, CaseView, SeenBuildView
from common.english import counted

CASES_SHOWN = 50
# Without JavaScript only.
REFRESH_SECONDS = 30
# No outcome is known there.
NOTHING = "nothing"

_EXPLANATIONS = {
    CaseState.BROKEN: (
        "It failed in the newest builds of a branch, on so many replicas that at least one of them "
        "is honest, and no more than could be faulty say otherwise. So the test or what it tests "
        "is broken."
    ),
    CaseState.FLAKY: (
        "Honest replicas differed about it on two commits or more: no number of machines that this "
        "cluster tolerates explains it. So the test is flaky, not a machine."
    ),
    CaseState.SUSPECT: (
        "Replicas differed about it. That is not enough to tell a flaky test from a machine that "
        "is different."
    ),
    CaseState.HEALTHY: "Replicas have not differed about it lately.",
}


def add_case_pages(
    application: web.Application, site: Site, pages: Pages, *, cases: CaseReader
) -> None:
    """Add the routes of both pages."""
    page = _CasePages(site, pages, cases)
    application.router.add_get("/tests", page.show_list)
    application.router.add_get("/tests/{case}", page.show_case)


class _CasePages:
    def __init__(self, site: Site, pages: Pages, cases: CaseReader) -> None:
        self._site = site
        self._pages = pages
        self._cases = cases

    async def show_list(self, request: web.Request) -> web.Response:
        """GET /tests?repository=&state=&after=<sha256>."""
        seen = self._pages.seen
        known = self._cases.repositories()
        repository = repository_of(request) or (known[0] if known else None)
        state, after = state_of(request), request.query.get("after")
        if after is not None and not CASE_SHA256.fullmatch(after):
            raise ApiError(400, "`after` is the address of a case")
        page, found = CasePage((), None), None
        if repository is not None:
            try:
                page = self._cases.page(repository, state, after, cases_max=CASES_SHOWN)
            except NoSuchCase as error:
                raise ApiError(404, str(error)) from error
            found = await self._cases.newest(repository)
        fields = {"repository": repository or "", **({} if state is None else {"state": state})}
        response = self._pages.render(
            "tests.html",
            seen=seen,
            refresh_seconds=REFRESH_SECONDS if after is None else None,
            repositories=sorted({*known, *([repository] if repository else [])}),
            repository=repository,
            states=tuple(CaseState),
            chosen=state,
            page=page,
            is_first=after is None,
            newest=f"/tests?{urlencode(fields)}",
            older=page.next and f"/tests?{urlencode({**fields, 'after': page.next})}",
            slowest=found.slowest if found else (),
            quarantined=found.quarantined if found else (),
            newest_build=found.build.build.hex() if found else None,
        )
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response

    async def show_case(self, request: web.Request) -> web.Response:
        """GET /tests/<sha256>?repository=."""
        try:
            history = self._cases.history(case_of(request), repository_of(request))
        except NoSuchCase as error:
            raise ApiError(404, str(error)) from error
        told = [build for build in history.builds if build.seen]
        return self._pages.render(
            "case.html",
            refresh_seconds=REFRESH_SECONDS,
            history=history,
            told=told,
            strip=strip_of(told),
            explanation=explanation_of(history.case),
        )


def strip_of(builds: Sequence[SeenBuildView]) -> list[tuple[str, list[str]]]:
    """Each replica with how it saw the case in each of these builds. Pure."""
    seen = [{one.replica: one.outcome for one in build.seen} for build in builds]
    replicas = sorted({replica for found in seen for replica in found})
    return [(replica, [found.get(replica, NOTHING) for found in seen]) for replica in replicas]


def explanation_of(case: CaseView) -> str:
    """What its state says, in a sentence or two. Pure."""
    if case.state == CaseState.ONE_MACHINE:
        names = ", ".join(one.replica for one in case.differed)
        return (
            f"Only {names} ever differed from the others about it, in "
            f"{counted(case.disagreements, 'build')}. So many replicas may be faulty: the machine "
            "lies, is broken or is different. Nothing shows that the test is flaky."
        )
    return _EXPLANATIONS[CaseState(case.state)]
