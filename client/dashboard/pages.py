"""What all pages have in common: how they are rendered, their headers, and the static files.

Only what lives on a page needs JavaScript, some lines of our own; without it each page can be
read, loaded anew. All text from outside is escaped by the template engine, and a strict
Content-Security-Policy stands behind that.
"""

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from client.api.routes import RETRY_AFTER_SECONDS, ApiError, Handler, Site
from client.dashboard.change_feed import Changes
from client.login.people import People
from client.storage.database import StorageFailed
from client.views import formats
from client.views.build_times import span
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
    ("Branches", "/branches"),
    ("Tests", "/tests"),
    ("Queue", "/queue"),
    ("Trends", "/trends"),
    ("Replicas", "/replicas"),
    ("Ledger", "/ledger"),
)
# A browser asks again before it shows what it kept; nobody between keeps it for others.
HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# What programs and scripts ask: their refusals are JSON whatever they accept (client.api.routes).
# A path may have line breaks, which `.` matches with DOTALL alone.
API_PATHS = re.compile(
    r"/(api/.*|webhook|healthz|readyz|metrics|(.*/)?events)", re.IGNORECASE | re.DOTALL
)
# A response may be compressed: it holds nothing that a reader of lengths must not learn.
COMPRESSIBLE = web.ResponseKey("compressible", bool)
COMPRESSED_BYTES_MIN = 1024
# Beyond that a thread compresses, so that the event loop goes on.
COMPRESSED_HERE_BYTES_MAX = 32 * 1024

_log = logging.getLogger(__name__)


class Pages:
    """Renders the templates, and serves the files that they link to."""

    def __init__(self, site: Site, changes: Changes, people: People | None = None) -> None:
        """people: who may log in; None: nobody."""
        self._site = site
        self._people = people
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
            at=formats.at,
            counted=counted,
            elapsed=formats.elapsed,
            kind=formats.kind,
            short_repository=formats.short_repository,
            plain=escape_controls,
            sign=formats.sign,
            span=span,
            words=formats.words,
            signed_changes=site.network.ledger.changes.of,
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
            login=None if self._people is None else self._people.line(),
            changes=self._changes.count if seen is None else seen,
            navigation=NAVIGATION,
            now=time.time(),
            refresh_seconds=refresh_seconds,
            replicas=self._site.cluster.quorums.replicas,
            version=self._site.version,
            **values,
        )
        response = web.Response(
            text=text,
            status=status,
            content_type="text/html",
            headers=HEADERS,
            zlib_executor_size=COMPRESSED_HERE_BYTES_MAX,
        )
        form = values.get("form")
        response[COMPRESSIBLE] = form is None or not form.is_open
        return response

    def add_middlewares(self, application: web.Application) -> None:
        """Add those that answer people: refusals as pages, and pages compressed.

        Compressed is only what has no secret (BREACH, Gluck, Harris, Prado 2013): a page shows
        text that strangers choose beside the rest, and who sees how long the answers are learns
        the rest from them. So no page with a form's hidden value is, and nothing at all where
        reading takes a token.
        """
        application.middlewares.append(self._refusals_as_pages)
        if self._site.config.read_token_file is None:
            application.middlewares.append(_compress)

    @web.middleware
    async def _refusals_as_pages(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if API_PATHS.fullmatch(request.path) or _wants_json(request):
            return await handler(request)
        try:
            return await handler(request)
        except ApiError as error:
            return self._refusal(error.status, error.text, error.retry_after_seconds)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            text = f"{request.method} {request.path}: {error.reason}"
            response = self._refusal(error.status, text)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except StorageFailed as error:
            _log.error("%s", error)
            text = "the gateway cannot read or store anything now; try again later"
            return self._refusal(503, text, RETRY_AFTER_SECONDS)

    def _refusal(
        self, status: int, text: str, retry_after_seconds: int | None = None
    ) -> web.Response:
        response = self.render("error.html", status, is_missing=status == 404, text=text)
        if retry_after_seconds is not None:
            response.headers["Retry-After"] = str(retry_after_seconds)
        return response

    async def _show_static(self, request: web.Request) -> web.Response:
        """GET /static/<file>: 304 where the browser has it already."""
        found = self._static.get(request.match_info["file"])
        if found is None:
            raise ApiError(404, "there is no such file")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        has_it = any(etag.value == found.etag for etag in request.if_none_match or ())
        response = web.Response(status=304, headers=headers) if has_it else found.response(headers)
        response.etag = found.etag
        response[COMPRESSIBLE] = True
        return response


def _wants_json(request: web.Request) -> bool:
    """Whether whoever asks says so."""
    accepted = request.headers.get("Accept", "").lower()
    return "application/json" in accepted and "text/html" not in accepted


@web.middleware
async def _compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if not (isinstance(response, web.Response) and response.get(COMPRESSIBLE)):
        return response
    response.headers["Vary"] = "Accept-Encoding"
    is_worth_it = (response.content_length or 0) >= COMPRESSED_BYTES_MIN
    if is_worth_it and "gzip" in request.headers.get("Accept-Encoding", "").lower():
        response.enable_compression(web.ContentCoding.gzip)
    return response


class _StaticFile:
    def __init__(self, content_type: str, data: bytes) -> None:
        self._content_type = content_type
        self._data = data
        self.etag = hashlib.sha256(data).hexdigest()[:32]

    def response(self, headers: dict[str, str]) -> web.Response:
        """All of it."""
        return web.Response(
            body=self._data,
            content_type=self._content_type,
            charset="utf-8",
            headers=headers,
            zlib_executor_size=COMPRESSED_HERE_BYTES_MAX,
        )
