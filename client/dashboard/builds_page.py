"""The first page: all builds, the newest first."""

from aiohttp import web

from client.api import Site
from client.dashboard.pages import Pages

REFRESH_SECONDS = 5


def add_builds_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""
    page = _BuildsPage(site, pages)
    application.router.add_get("/", pages.bound(page.show))


class _BuildsPage:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site = site
        self._pages = pages

    async def show(self, request: web.Request) -> web.Response:
        """GET /?after=<build>."""
        page = self._site.page(request)
        is_first = "after" not in request.query
        return self._pages.render(
            "builds.html",
            page=page,
            refresh_seconds=REFRESH_SECONDS if is_first else None,
            webhook_url=f"{self._site.public_url}/webHook",
            connected=len(self._site.connected()),
        )
