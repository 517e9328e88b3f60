"""GET /badge/<repository>.svg?branch=: the badge of a configured repository's branch."""

from collections.abc import Callable

from aiohttp import web

from ci.statement import parse_statement
from client.storage.archive import Archive
from client.views.badge import BUILDING, STATES, badge, etag
from common.configuration.config import RepositoryEntry

PATH = "/badge/{repository:.+}.svg"
DEFAULT_BRANCH = "master"


class BadgeApi:
    """The route, over the archive. An unknown repository or branch has a grey badge too.

    So a page that shows it says `none` and is not broken; and nobody learns from the status which
    repositories there are.
    """

    def __init__(
        self, repositories: Callable[[], tuple[RepositoryEntry, ...]], archive: Archive
    ) -> None:
        """repositories: those that are configured now."""
        self._archive = archive
        self._repositories = repositories

    def add_to(self, application: web.Application) -> None:
        """Add the route."""
        application.router.add_get(PATH, self._show)

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["repository"]
        named = [entry.url for entry in self._repositories() if name in names_of(entry.url)]
        # of several the last one, by the order of the configuration
        url = named[-1] if named else None
        branch = request.query.get("branch", DEFAULT_BRANCH)
        picture = badge(*(self._state(url, branch) if url is not None else STATES[None]))
        tag = etag(picture)
        headers = {
            "Cache-Control": "no-cache, max-age=0",
            "ETag": f'"{tag}"',
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        if any(known.value == tag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=picture, content_type="image/svg+xml", headers=headers)

    def _state(self, url: str, branch: str) -> tuple[str, str]:
        """Word and colour: of the newest verdict, or that the first one is on its way."""
        record = self._archive.newest_decided(url, branch)
        if record is not None:
            assert record.statement is not None
            return STATES[parse_statement(record.statement).verdict.outcome]
        return BUILDING if self._archive.has_open(url, branch) else STATES[None]


def names_of(url: str) -> tuple[str, ...]:
    """What a repository may be called in a badge's path: its last parts, one to all of them.

    `https://forge.example/team/tool.git`: `tool`, `team/tool`, `forge.example/team/tool`.
    """
    text = url.partition("://")[2] or url.replace(":", "/", 1)
    parts = [part for part in text.removesuffix(".git").split("/") if part]
    return tuple("/".join(parts[index:]) for index in reversed(range(len(parts))))
