"""The message diagram of a build as a page, and as SVG to keep."""

import asyncio
import base64
import functools
import hashlib

from aiohttp import web

from client.api.routes import ApiError, Site
from client.dashboard.build_diagram import build_diagram
from client.dashboard.kept_traces import KeptTraces
from client.dashboard.pages import CONTENT_SECURITY_POLICY, Pages
from client.network.nodes import NodeFailed, ServedTrace
from client.storage.archive import BuildRecord
from common.diagram.diagram_rows import rows_of
from common.diagram.diagram_style import STYLE
from common.diagram.message_diagram import Diagram, draw
from common.safe_text import escape_controls

PAGE_PATH = "/builds/{build}/messages"
SVG_PATH = "/api/v1/builds/{build}/messages.svg"

# The picture brings its own style; the page allows that one and no other inside it.
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = CONTENT_SECURITY_POLICY.replace(
    "style-src 'self'", f"style-src 'self' 'sha256-{_STYLE_HASH}'"
)


def add_diagrams(application: web.Application, site: Site, pages: Pages) -> KeptTraces:
    """Add the two routes, and keep what the nodes say of the newest builds' messages."""
    kept = KeptTraces(site)
    application.router.add_get(PAGE_PATH, functools.partial(_show_page, site, pages, kept=kept))
    application.router.add_get(SVG_PATH, functools.partial(_show_svg, site, kept))

    async def start(application: web.Application) -> None:
        await kept.start()

    async def close(application: web.Application) -> None:
        await kept.close()

    application.on_startup.append(start)
    application.on_cleanup.append(close)
    return kept


async def _show_page(
    site: Site, pages: Pages, request: web.Request, *, kept: KeptTraces
) -> web.Response:
    """GET /builds/<id>/messages."""
    seen = pages.seen
    record = site.record(request)
    diagram, silent = await _diagram(site, kept, record)
    rows, total = rows_of(diagram) if diagram is not None else ([], 0)
    response = pages.render(
        "messages.html",
        build=site.view(record),
        picture=draw(diagram) if diagram is not None else None,
        rows=rows,
        total=total,
        silent=silent,
        # messages still come until all ballots are in
        is_open=not record.collected,
        refresh_seconds=None,
        seen=seen,
    )
    response.headers["Content-Security-Policy"] = POLICY
    return response


async def _show_svg(site: Site, kept: KeptTraces, request: web.Request) -> web.Response:
    """GET /api/v1/builds/<id>/messages.svg: the picture, to keep."""
    record = site.record(request)
    diagram, silent = await _diagram(site, kept, record)
    if diagram is None:
        raise ApiError(404, "no node keeps messages of that build any more: " + "; ".join(silent))
    return web.Response(
        text=draw(diagram),
        content_type="image/svg+xml",
        headers={
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
            "Content-Disposition": f'inline; filename="{record.build.hex()[:12]}-messages.svg"',
        },
    )


async def _diagram(
    site: Site, kept: KeptTraces, record: BuildRecord
) -> tuple[Diagram | None, list[str]]:
    """The picture of what the nodes still know or told before, and who knows nothing and why."""
    names = site.nodes.names
    answers = await asyncio.gather(
        *(site.nodes.messages(name, record.build) for name in names), return_exceptions=True
    )
    before = await kept.traces(record.build)
    traces: dict[str, ServedTrace] = {}
    silent = []
    for name, answer in zip(names, answers, strict=True):
        is_fresh = isinstance(answer, ServedTrace) and answer.messages
        if not is_fresh and name in before and before[name].messages:
            traces[name] = before[name]
        elif isinstance(answer, NodeFailed):
            silent.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        elif answer.messages:
            traces[name] = answer
        else:
            silent.append(f"{name}: keeps none of its messages any more")
    if not traces:
        return None, silent
    title = f"Messages of build {record.build.hex()[:12]} ({escape_controls(record.branch)})"
    verdict = site.view(record).verdict
    dissenting = () if verdict is None else verdict.dissenting
    diagram = build_diagram(
        title,
        names,
        site.config.name,
        traces=traces,
        quorums=site.cluster.quorums,
        dissenting=dissenting,
    )
    return diagram, silent
