"""The routes of test cases: of a build, of a repository, and one case's history."""

import asyncio
import re

import msgspec
from aiohttp import web

from ci.case_agreement import CaseAgreement
from ci.flaky import CaseState
from ci.operations import CaseReport
from ci.statement import parse_statement
from client.api.routes import ApiError, Site, json_response
from client.gateway.case_reader import SLOWEST_SHOWN, CaseReader, NoSuchCase
from client.gateway.collector import SLOWEST_MAX
from client.network.case_details import WrongDetails, checked_cases
from client.network.nodes import NodeFailed
from client.storage.archive import BuildRecord
from client.storage.build_filter import REPOSITORY_CHARACTERS_MAX
from client.views.case_view import BuildCasesView, agreed_on

BUILD_PATH = "/api/v1/builds/{build}/tests"
REPORT_PATH = BUILD_PATH + "/report"
LIST_PATH = "/api/v1/tests"
CASE_PATH = LIST_PATH + "/{case}"
CASES_SHOWN = 100
CASES_SHOWN_MAX = 500
# Reports that are fetched at once; each is at most some megabytes.
FETCHED_MAX = 4
AGAIN_SECONDS = 5

CASE_SHA256 = re.compile(r"[0-9a-f]{64}")


class CaseApi:
    """Serves what the archive has, and canonical reports that have the digest in a ballot."""

    def __init__(self, site: Site, cases: CaseReader) -> None:
        self._site = site
        self._cases = cases
        self._fetched = 0

    def add_routes(self, application: web.Application) -> None:
        """Add them."""
        application.router.add_get(BUILD_PATH, self._show_build)
        application.router.add_get(REPORT_PATH, self._send_report)
        application.router.add_get(LIST_PATH, self._list)
        application.router.add_get(CASE_PATH, self._show_case)

    async def _show_build(self, request: web.Request) -> web.Response:
        """GET /api/v1/builds/<id>/tests?slowest=<n>&after=<sha256>&limit=<n>."""
        record = self._site.record(request)
        limit = number_of(request, "limit", default=CASES_SHOWN, largest=CASES_SHOWN_MAX)
        slowest = number_of(request, "slowest", default=SLOWEST_SHOWN, largest=SLOWEST_MAX)
        view = await self._cases.build_cases(record, slowest)
        return json_response(_page_of(view, request.query.get("after"), limit))

    async def _send_report(self, request: web.Request) -> web.Response:
        """GET /api/v1/builds/<id>/tests/report?replica=<name>: the lines of a canonical report.

        Without a replica the one that n - f replicas agree on, from any of them.
        """
        record = self._site.record(request)
        replica = request.query.get("replica")
        if replica is not None and self._site.cluster.replica_index(replica) is None:
            names = ", ".join(self._site.cluster.replica_names)
            raise ApiError(400, f"`replica` is one of {names}")
        wanted = self._reports(record, replica)
        if self._fetched >= FETCHED_MAX:
            raise ApiError(503, f"{FETCHED_MAX} reports are being fetched already", AGAIN_SECONDS)
        self._fetched += 1
        try:
            data = await self._report(record, wanted)
        finally:
            self._fetched -= 1
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Disposition": f'attachment; filename="{record.build.hex()[:12]}.tests"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        return web.Response(body=data, headers=headers)

    async def _list(self, request: web.Request) -> web.Response:
        """GET /api/v1/tests?repository=&state=&after=<sha256>&limit=<n>."""
        repository = repository_of(request)
        if repository is None:
            raise ApiError(
                400, "`repository` is missing; it is the URL that builds are listed with"
            )
        limit = number_of(request, "limit", default=CASES_SHOWN, largest=CASES_SHOWN_MAX)
        after = request.query.get("after")
        if after is not None and not CASE_SHA256.fullmatch(after):
            raise ApiError(400, "`after` is the sha256 of a case; take it from `next`")
        try:
            page = self._cases.page(repository, state_of(request), after, cases_max=limit)
        except NoSuchCase as error:
            raise ApiError(404, str(error)) from error
        newest = await self._cases.newest(repository)
        if newest is not None:
            page = msgspec.structs.replace(page, quarantined=newest.quarantined)
        return json_response(page)

    async def _show_case(self, request: web.Request) -> web.Response:
        """GET /api/v1/tests/<sha256>?repository=."""
        sha256 = case_of(request)
        try:
            return json_response(self._cases.history(sha256, repository_of(request)))
        except NoSuchCase as error:
            raise ApiError(404, str(error)) from error

    def _reports(self, record: BuildRecord, replica: str | None) -> dict[str, CaseReport]:
        """The reports that will do, by replica. Raises ApiError."""
        counted = self._cases.counted(record)
        if counted is None:
            raise ApiError(404, "no replica reported tests of this build")
        reports = counted.reports
        if replica is not None:
            if replica not in reports:
                raise ApiError(404, f"{replica} reported no tests of this commit")
            return {replica: reports[replica]}
        agreement: CaseAgreement = agreed_on(counted, self._site.cluster.quorums)
        if agreement.report_sha256 is None:
            raise ApiError(
                404, "no report is agreed on: the replicas' reports differ; name one by ?replica="
            )
        return {
            name: report
            for name, report in reports.items()
            if report.report_sha256 == agreement.report_sha256
        }

    async def _report(self, record: BuildRecord, reports: dict[str, CaseReport]) -> bytes:
        """The lines of one of these reports, checked against the digest in its ballot.

        Raises ApiError.
        """
        failures = []
        for report in reports.values():
            if report.lines:
                return report.lines.encode()
        for replica, report in reports.items():
            try:
                data = await self._site.nodes.cases(replica, record.build, _opened(record))
                found = await asyncio.to_thread(checked_cases, data, report.report_sha256)
            except NodeFailed as error:
                failures.append(str(error))
            except WrongDetails as error:
                failures.append(f"{replica}: {error}")
            else:
                return found.report
        raise ApiError(502, f"no replica gave the report: {'; '.join(failures)}", AGAIN_SECONDS)


def case_of(request: web.Request) -> str:
    """The SHA-256 of a case's id that the path names. Raises ApiError."""
    text = request.match_info["case"]
    if not CASE_SHA256.fullmatch(text):
        raise ApiError(404, "a case's address is the SHA-256 of its id, 64 hexadecimal digits")
    return text


def repository_of(request: web.Request) -> str | None:
    """`?repository=`; None: it is not there. Raises ApiError."""
    text = request.query.get("repository", "").strip()
    if len(text) > REPOSITORY_CHARACTERS_MAX:
        raise ApiError(400, f"`repository` has at most {REPOSITORY_CHARACTERS_MAX} characters")
    return text or None


def state_of(request: web.Request) -> CaseState | None:
    """`?state=`; None: it is not there. Raises ApiError."""
    text = request.query.get("state", "").replace("-", " ").replace("_", " ")
    if not text:
        return None
    if text not in tuple(CaseState):
        raise ApiError(400, f"`state` is one of {', '.join(CaseState)}")
    return CaseState(text)


def number_of(request: web.Request, name: str, *, default: int, largest: int) -> int:
    """A number of the query from 1 on, at most `largest`. Raises ApiError."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text[:9]) >= 1):
        raise ApiError(400, f"`{name}` is a number from 1 to {largest}")
    return min(int(text[:9]), largest)


def _page_of(view: BuildCasesView, after: str | None, cases_max: int) -> BuildCasesView:
    """The same with some of its cases, those behind `after`. Raises ApiError."""
    first = 0
    if after is not None:
        places = [index for index, row in enumerate(view.cases) if row.sha256 == after]
        if not places:
            raise ApiError(404, "`after` must be the sha256 of a case; take it from `next`")
        first = places[0] + 1
    rows = view.cases[first : first + cases_max]
    is_last = first + cases_max >= len(view.cases)
    return msgspec.structs.replace(view, cases=rows, next=None if is_last else rows[-1].sha256)


def _opened(record: BuildRecord) -> int:
    """The sequence number at which a build was opened. Raises ApiError."""
    if record.statement is None:
        raise ApiError(404, "no verdict yet; reports can be fetched after it")
    return parse_statement(record.statement).verdict.opened
