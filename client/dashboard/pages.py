"""What all pages have in common: how they are rendered, their headers, and the static files.

Only what lives on a page needs JavaScript, some lines of our own; without it each page can be
read, loaded anew. All text from outside is escaped by the template engine, and a strict
Content-Security-Policy stands behind that.
"""

import functools
import hashlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from client.api.routes import ApiError, Handler, Site
from client.dashboard.change_feed import Changes
from client.views import formats
from common.english import counted
from common.installation import CLIENT_COMMAND
from common.safe_text import escape_controls

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# For a page that has a form.
FORM_POLICY = CONTENT_SECURITY_POLICY.replace("form-action 'none'", "form-action 'self'")
# In this order at the head of each page; a page says by `section` which one it belongs to.
NAVIGATION = (
    ("Builds", "/"),
    ("Tests", "/tests"),
    ("Replicas", "/replicas"),
    ("Ledger", "/ledger"),
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """Renders the templates, and serves the files that they link to."""

    def __init__(self, site: Site, changes: Changes) -> None:
        self._site = site
        self._changes = changes
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            absolute=formats.absolute,
            ago=formats.ago,
            counted=counted,
            elapsed=formats.elapsed,
            kind=formats.kind,
            plain=escape_controls,
            sign=formats.sign,
            words=formats.words,
        )
        self._static = {
            file.name: _StaticFile(CONTENT_TYPES[file.suffix], file.read_bytes())
            for file in STATIC.iterdir()
            if file.suffix in CONTENT_TYPES
        }

    def add_static(self, application: web.Application) -> None:
        """Add the route of the static files."""
        application.router.add_get("/static/{file}", self._show_static)

    @property
    def seen(self) -> int:
        """How many changes there were until now: what is read from here on has seen them."""
        return self._changes.count

    def render(
        self,
        template: str,
        status: int = 200,
        *,
        refresh_seconds: int | None = None,
        seen: int | None = None,
        **values: Any,
    ) -> web.Response:
        """A page of these values, with the headers that all pages have.

        refresh_seconds: without JavaScript the page is loaded anew so often. The page says up to
        which change it has seen all. So between reading the values and this call nothing may be
        awaited; where something is, `seen` is what `self.seen` was before the first value was read.
        """
        text = self._environment.get_template(template).render(
            client_command=CLIENT_COMMAND,
            changes=self._changes.count if seen is None else seen,
            navigation=NAVIGATION,
            now=time.time(),
            refresh_seconds=refresh_seconds,
            replicas=self._site.cluster.quorums.replicas,
            version=self._site.version,
            **values,
        )
        return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)

    def bound(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Handler:
        """The handler, with its ApiErrors as pages."""
        return functools.partial(self._errors_as_page, handler)

    async def _errors_as_page(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], request: web.Request
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return self.render("error.html", error.status, text=error.text)

    async def _show_static(self, request: web.Request) -> web.Response:
        """GET /static/<file>: 304 where the browser has it already."""
        found = self._static.get(request.match_info["file"])
        if found is None:
            raise ApiError(404, "there is no such file")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        has_it = any(etag.value == found.etag for etag in request.if_none_match or ())
        response = web.Response(status=304, headers=headers) if has_it else found.response(headers)
        response.etag = found.etag
        return response


class _StaticFile:
    def __init__(self, content_type: str, data: bytes) -> None:
        self._content_type = content_type
        self._data = data
        self.etag = hashlib.sha256(data).hexdigest()[:32]

    def response(self, headers: dict[str, str]) -> web.Response:
        """All of it."""
        return web.Response(
            body=self._data, content_type=self._content_type, charset="utf-8", headers=headers
        )
