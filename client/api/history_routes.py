"""What a build changed: the last green one before it, the first red one since, the commits."""

import functools

from aiohttp import web

from client.api.routes import Site, json_response
from client.storage.archive import BuildRecord
from client.views.change_view import Around, WhatChanged, what_changed

PATH = "/api/v1/builds/{build}/history"


def add_history_routes(application: web.Application, site: Site) -> None:
    """Add the route."""
    application.router.add_get(PATH, functools.partial(_show_history, site))


def history_of(site: Site, record: BuildRecord) -> WhatChanged:
    """What the archive says of the builds around one. Raises StorageFailed."""
    archive = site.archive
    since = archive.history.since(record.line, record.number)
    green, red = (
        None if number is None else archive.by_number(number) for number in (since.green, since.red)
    )
    of_commit = {}
    if record.commit is not None:
        of_commit = archive.history.of_commit(record.repository, record.commit)
    verdict = site.view(record).verdict
    outcome = None if verdict is None else verdict.outcome
    around = Around(outcome, green, red, since.reds, of_commit)
    return what_changed(record, around, archive.commits.get, pages=site.about(record).pages)


async def _show_history(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/builds/<id>/history."""
    return json_response(history_of(site, site.record(request)))
