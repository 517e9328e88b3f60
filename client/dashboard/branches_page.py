"""The page of branches: the newest decided build of what was pushed to each."""

from itertools import groupby

import msgspec
from aiohttp import web

from client.api.routes import Site
from client.dashboard.builds_page import BuildRow, build_row
from client.dashboard.pages import Pages

BRANCHES_MAX = 60
# Without JavaScript only.
REFRESH_SECONDS = 30


class RepositoryBranches(msgspec.Struct, frozen=True):
    """A repository's URL as people say it, and a row for each of its branches."""

    repository: str
    rows: tuple[BuildRow, ...]


def add_branches_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""

    async def show(request: web.Request) -> web.Response:
        """GET /branches."""
        archive, names = site.archive, site.cluster.replica_names
        newest = [
            archive.newest_decided(*branch) for branch in archive.built_branches(BRANCHES_MAX)
        ]
        rows = [build_row(site.view(record), names) for record in newest if record is not None]
        rows.sort(key=lambda row: row.build.repository)
        by_url = groupby(rows, key=lambda row: row.build.repository)
        lists = [tuple(group) for _, group in by_url]
        groups = [RepositoryBranches(found[0].repository, found) for found in lists]
        return pages.render(
            "branches.html",
            groups=groups,
            branches_max=BRANCHES_MAX,
            refresh_seconds=REFRESH_SECONDS,
        )

    application.router.add_get("/branches", show)
