"""GET /api/v1/audit: who changed what through this gateway, the newest first."""

import functools
from typing import Annotated

import msgspec
from aiohttp import web

from client.api.routes import ApiError, Site, json_response
from client.storage.audit import Audit, AuditEvent
from client.views.build_view import iso_time

PAGE_EVENTS = 50
PAGE_EVENTS_MAX = 500


class AuditView(msgspec.Struct, frozen=True):
    """One event, as this gateway recorded it."""

    number: int
    at: Annotated[str, msgspec.Meta(description="by this gateway's clock")]
    what: Annotated[
        str,
        msgspec.Meta(
            description="`cancel`, `rebuild`, `approve`, `note`, `note refused`, `login`, `logout`,"
            " `login failed`"
        ),
    ]
    who: Annotated[str, msgspec.Meta(description="a person's name, or which token")]
    vouched: Annotated[str, msgspec.Meta(description="by whose word it is them")]
    build: str | None
    text: Annotated[str, msgspec.Meta(description="a reason, a note, why a login failed")]


class AuditPage(msgspec.Struct, frozen=True):
    """Some events; `next`: the `before` of the following page."""

    events: list[AuditView]
    next: int | None


def add_audit_route(application: web.Application, site: Site) -> None:
    """Add the route."""
    application.router.add_get("/api/v1/audit", functools.partial(_show, site.archive.audit))


def audit_page(audit: Audit, request: web.Request) -> AuditPage:
    """The events that an address asks for: `?before=&limit=`. Raises ApiError, StorageFailed."""
    before = _number(request, "before", 2**53)
    limit = min(_number(request, "limit", PAGE_EVENTS_MAX) or PAGE_EVENTS, PAGE_EVENTS_MAX)
    events = [_view(event) for event in audit.page(before, limit + 1)]
    shown = events[:limit]
    return AuditPage(shown, shown[-1].number if len(events) > limit else None)


async def _show(audit: Audit, request: web.Request) -> web.Response:
    return json_response(audit_page(audit, request))


def _view(event: AuditEvent) -> AuditView:
    return AuditView(
        number=event.number,
        at=iso_time(event.at) or "",
        what=event.what,
        who=event.who,
        vouched=event.vouched,
        build=None if event.build is None else event.build.hex(),
        text=event.text,
    )


def _number(request: web.Request, name: str, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= most):
        raise ApiError(400, f"`{name}` is a number from 1 to {most}")
    return int(text)
