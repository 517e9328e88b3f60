"""What went into a build: the agreed list of its inputs, and what changed since the last green one.

The list is an artifact. It is fetched as any other is, and believed for its SHA-256 alone.
"""

import asyncio
import time
from collections import OrderedDict

import msgspec
from aiohttp import web

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.ledger import RecordedArtifact
from ci.statement import parse_statement
from client.api.case_routes import number_of
from client.api.routes import ApiError, Site, json_response
from client.network.artifact_fetch import Artifacts, NoneRight, TooMany
from client.storage.archive import BuildRecord
from client.views.input_view import (
    InputChanges,
    InputRow,
    InputsView,
    UnreadableList,
    compare,
    counts_by_tool,
    matching,
    read_list,
)
from common.web.bounded_http import CannotWrite

PATH = "/api/v1/builds/{build}/inputs"
INPUTS_SHOWN = 100
INPUTS_SHOWN_MAX = 1000
AFTER_MAX = 999_999_999
FIND_CHARACTERS_MAX = 100
# 20,000 inputs, which is the most that a lock file may have, take about as much.
LIST_BYTES_MAX = 16 * 2**20
KEPT_BYTES_MAX = 48 * 2**20
# A page waits for it, and does not ask again at once.
FETCH_SECONDS_MAX = 5.0
FAILED_SECONDS = 30.0
AGAIN_SECONDS = 30


class NotHere(Exception):
    """There is a list, but it cannot be had now; one line why."""


class _Kept(msgspec.Struct, frozen=True):
    """A list; or why it was not to be had, to be believed until then."""

    rows: tuple[InputRow, ...] = ()
    length: int = 0
    problem: str | None = None
    until: float = 0.0


class InputLists:
    """The lists of builds. The newest that were asked for are kept, within a bound."""

    def __init__(self, site: Site, artifacts: Artifacts) -> None:
        self._site = site
        self._artifacts = artifacts
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def view(
        self, record: BuildRecord, *, find: str = "", after: int = 0, limit: int = INPUTS_SHOWN
    ) -> InputsView | None:
        """Some rows of a build's list, and all that changed; None: no list was agreed on.

        find: a text that rows have; after: how many of those are passed over. Raises NotHere.
        """
        artifact = _list_of(record)
        if artifact is None:
            return None
        rows = await self._rows(record, artifact)
        found = matching(rows, find)
        end = after + limit
        return InputsView(
            build=record.build.hex(),
            sha256=artifact.sha256,
            counts=counts_by_tool(rows),
            since=await self._changes(record, rows),
            matches=len(found),
            inputs=tuple(found[after:end]),
            next=end if end < len(found) else None,
        )

    async def _changes(self, record: BuildRecord, rows: tuple[InputRow, ...]) -> InputChanges:
        archive = self._site.archive
        number = archive.history.since(record.line, record.number).green
        earlier = None if number is None else archive.by_number(number)
        if earlier is None:
            return InputChanges(None)
        before = earlier.build.hex()
        artifact = _list_of(earlier)
        if artifact is None:
            return InputChanges(before, "it had no lock files (dependencies)")
        try:
            return compare(await self._rows(earlier, artifact), rows, before)
        except NotHere as error:
            return InputChanges(before, str(error))

    async def _rows(self, record: BuildRecord, artifact: RecordedArtifact) -> tuple[InputRow, ...]:
        """Raises NotHere."""
        kept = self._kept.get(artifact.sha256)
        if kept is None or (kept.problem is not None and kept.until < time.monotonic()):
            kept = await self._fetched(record, artifact)
            self._kept[artifact.sha256] = kept
        self._kept.move_to_end(artifact.sha256)
        while sum(each.length for each in self._kept.values()) > KEPT_BYTES_MAX:
            self._kept.popitem(last=False)
        if kept.problem is not None:
            raise NotHere(kept.problem)
        return kept.rows

    async def _fetched(self, record: BuildRecord, artifact: RecordedArtifact) -> _Kept:
        # what a failure takes of the bound
        failed = _Kept(length=1024, until=time.monotonic() + FAILED_SECONDS)
        if artifact.length > LIST_BYTES_MAX:
            problem = f"the list has {artifact.length} bytes; at most {LIST_BYTES_MAX} are read"
            return msgspec.structs.replace(failed, problem=problem)
        verdict = self._site.view(record).verdict
        assert verdict is not None, "a list is agreed on"
        opened = parse_statement(record.statement or b"").verdict.opened
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS_MAX),
                self._artifacts.fetched(
                    record.build, opened, artifact, replicas=verdict.agreeing
                ) as file,
            ):
                rows = await asyncio.to_thread(lambda: read_list(file.read()))
        except TimeoutError:
            problem = f"no replica sent the list within {FETCH_SECONDS_MAX:g} seconds"
        except (NoneRight, TooMany, UnreadableList, CannotWrite, OSError) as error:
            problem = str(error)
        else:
            return _Kept(rows, artifact.length)
        return msgspec.structs.replace(failed, problem=problem)


class InputApi:
    """Serves what went into a build."""

    def __init__(self, site: Site, lists: InputLists) -> None:
        self._site = site
        self._lists = lists

    def add_routes(self, application: web.Application) -> None:
        """Add the route."""
        application.router.add_get(PATH, self._show)

    async def _show(self, request: web.Request) -> web.Response:
        """GET /api/v1/builds/<id>/inputs?find=&after=<n>&limit=<n>."""
        limit = number_of(request, "limit", default=INPUTS_SHOWN, largest=INPUTS_SHOWN_MAX)
        return json_response(await shown(request, self._site, self._lists, limit=limit))


async def shown(request: web.Request, site: Site, lists: InputLists, *, limit: int) -> InputsView:
    """The inputs that a request asks for. Raises ApiError."""
    record = site.record(request)
    find = request.query.get("find", "").strip()
    if len(find) > FIND_CHARACTERS_MAX:
        raise ApiError(400, f"`find` has at most {FIND_CHARACTERS_MAX} characters")
    after = 0
    if "after" in request.query:
        after = number_of(request, "after", default=1, largest=AFTER_MAX)
    try:
        view = await lists.view(record, find=find, after=after, limit=limit)
    except NotHere as error:
        raise ApiError(503, f"the list of inputs is not here: {error}", AGAIN_SECONDS) from error
    if view is None:
        why = "no verdict yet; inputs are agreed on with it"
        if record.statement is not None:
            why = "no inputs were agreed on: it has no lock files (dependencies), or did not pass"
        raise ApiError(404, why)
    return view


def _list_of(record: BuildRecord) -> RecordedArtifact | None:
    """The agreed artifact that lists a build's inputs; None: there is none."""
    if record.statement is None:
        return None
    for artifact in parse_statement(record.statement).verdict.artifacts:
        if artifact.path == BILL_OF_MATERIALS:
            return artifact
    return None
