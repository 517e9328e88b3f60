"""The page of branches: how what was pushed to each stands, and its newest builds."""

from itertools import groupby
from urllib.parse import quote

import msgspec
from aiohttp import web

from client.api.badge_routes import names_of
from client.api.routes import Site
from client.dashboard.builds_page import BuildRow, build_row
from client.dashboard.pages import Pages
from client.views.branch_view import NEWEST_MAX, BranchView, branch_view

BRANCHES_MAX = 60
# Without JavaScript only.
REFRESH_SECONDS = 30


class BranchRow(msgspec.Struct, frozen=True):
    """A branch: its newest decided build, and how it stands.

    badge: the Markdown that shows its badge; None: its repository has none.
    """

    newest: BuildRow
    branch: BranchView
    badge: str | None


class RepositoryBranches(msgspec.Struct, frozen=True):
    """A repository's URL, and a row for each of its branches."""

    repository: str
    rows: tuple[BranchRow, ...]


def add_branches_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page's route."""

    async def show(request: web.Request) -> web.Response:
        """GET /branches."""
        archive, names = site.archive, site.cluster.replica_names
        with_badges = {entry.url for entry in site.config.repositories}
        rows = []
        for repository, branch in archive.built_branches(BRANCHES_MAX):
            newest = archive.newest_decided(repository, branch)
            if newest is None:
                continue
            row = build_row(site.view(newest), names)
            has_badge = repository in with_badges
            rows.append(
                BranchRow(
                    row,
                    branch_view(archive, newest, row.state),
                    badge_markdown(site.public_url, repository, branch) if has_badge else None,
                )
            )
        rows.sort(key=lambda row: row.newest.build.repository)
        by_url = groupby(rows, key=lambda row: row.newest.build.repository)
        return pages.render(
            "branches.html",
            groups=[RepositoryBranches(url, tuple(group)) for url, group in by_url],
            branches_max=BRANCHES_MAX,
            newest_max=NEWEST_MAX,
            refresh_seconds=REFRESH_SECONDS,
        )

    application.router.add_get("/branches", show)


def badge_markdown(public_url: str, repository: str, branch: str) -> str:
    """A line for a README: the branch's badge, which leads to its builds. Pure."""
    query = f"branch={quote(branch, safe='')}"
    picture = f"{public_url}/badge/{quote(names_of(repository)[-1])}.svg?{query}"
    builds = f"{public_url}/?repository={quote(repository, safe='')}&{query}"
    return f"[![build]({picture})]({builds})"
