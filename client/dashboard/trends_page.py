"""The page of trends: weeks of builds, how long they waited and built, passed and agreed."""

import time

from aiohttp import web

from client.api.routes import ApiError, Site
from client.dashboard.pages import FORM_POLICY, Pages
from client.storage.build_filter import REPOSITORY_CHARACTERS_MAX
from client.views.trend_view import begin_of, percent, plots_of, weeks_of

REFRESH_SECONDS = 300
WEEKS = (13, 26, 52)
# So many of the newest builds are counted; the page says so where there are more.
BUILDS_MAX = 20_000
REPOSITORIES_MAX = 200


def add_trends_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""

    async def show(request: web.Request) -> web.Response:
        """GET /trends?repository=&weeks=."""
        repository = request.query.get("repository") or None
        if repository is not None and len(repository) > REPOSITORY_CHARACTERS_MAX:
            raise ApiError(400, f"`repository` has at most {REPOSITORY_CHARACTERS_MAX} characters")
        chosen = request.query.get("weeks") or str(WEEKS[0])
        if chosen not in map(str, WEEKS):
            raise ApiError(400, f"`weeks` is one of {', '.join(map(str, WEEKS))}")
        now = time.time()
        measures = site.archive.measures.newest(
            BUILDS_MAX, since=begin_of(int(chosen), now), repository=repository
        )
        weeks = weeks_of(measures, int(chosen), now)
        response = pages.render(
            "trends.html",
            weeks=weeks,
            plots=plots_of(weeks),
            is_cut=len(measures) == BUILDS_MAX,
            builds_max=BUILDS_MAX,
            percent=percent,
            repository=repository,
            repositories=site.archive.repositories(REPOSITORIES_MAX),
            chosen=int(chosen),
            choices=WEEKS,
            refresh_seconds=REFRESH_SECONDS,
        )
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response

    application.router.add_get("/trends", show)
