"""One build: the verdict and who agrees, a column per replica with its log, where they differ."""

import contextlib
import functools
import re
import shlex
from typing import NamedTuple

import msgspec
from aiohttp import web

from ci.ledger import STEP_RAN
from ci.limits import Limits
from ci.operations import NOTE_CHARACTERS_MAX, Event
from ci.statement import parse_statement
from client.api.history_routes import history_of
from client.api.input_routes import InputLists, NotHere
from client.api.routes import ApiError, Site
from client.dashboard.build_forms import done_text
from client.dashboard.build_logs import BuildLogs, PagePlace
from client.dashboard.change_forms import ChangeForms
from client.dashboard.compare_page import ComparedLogs, LogComparisons, pairs_to_compare
from client.dashboard.log_ends import ending_of, outputs_of, same_logs
from client.dashboard.pages import FORM_POLICY, Pages
from client.gateway.case_reader import CaseReader
from client.login.roles import Role
from client.logs.log_search import QUERY_CHARACTERS_MAX
from client.network.limits_history import LimitsHistory
from client.storage.archive import BuildRecord
from client.storage.outbox import Kind
from client.views import formats
from client.views.agreement import SIGNS, Agreement, agreement_of, stance_of, with_outputs
from client.views.build_times import building_seconds, span, time_parts
from client.views.build_view import BallotView, BuildView, ReplicaView, is_over, read_ballot
from client.views.formats import length
from client.views.input_view import InputsView
from common.installation import CLIENT_COMMAND
from common.safe_text import escape_controls

OPEN_REFRESH_SECONDS = 2
LATER_REFRESH_SECONDS = 5
# Of two logs that differ, what the build's page shows; the page for comparing shows more.
COMPARED_LINES_MAX = 12
COMPARED_PAIRS_MAX = 3
# A page that was open already asks with it (live.js): then nothing moves away under its reader.
RENEWED_HEADER = "Pbft-Renewed"
# Beyond that a reader looks for something else than each of them.
CASE_ROWS_MAX = 100
INPUT_ROWS_MAX = 20
_SUPERSEDED = re.compile(r"superseded by ([0-9a-f]{64})")


class ReplicaColumn(msgspec.Struct, frozen=True):
    """One replica on a build's page. stance: as in client.views.agreement."""

    replica: str
    ballot: BallotView | None
    stance: str
    has_log: bool
    is_signed: bool
    state: ReplicaView | None

    @property
    def sign(self) -> str:
        """Of the stance: beside the word, never instead of it."""
        return SIGNS[self.stance]

    @property
    def duration(self) -> str | None:
        """How long its checkout and its build took, by its own clock; None: it has not said."""
        ballot = self.ballot
        if ballot is None or ballot.build_milliseconds is None:
            return None
        return _span(ballot.build_milliseconds + (ballot.checkout_milliseconds or 0))

    @property
    def duration_parts(self) -> str | None:
        """What of it was what; None: it has not said."""
        ballot = self.ballot
        if ballot is None or ballot.build_milliseconds is None:
            return None
        checkout = _span(ballot.checkout_milliseconds or 0)
        return f"checkout {checkout}, build {_span(ballot.build_milliseconds)}"


class Fetched(NamedTuple):
    """What a build's page shows of what replicas have: logs, two beside each other, inputs."""

    logs: BuildLogs
    comparisons: LogComparisons
    inputs: InputLists


def add_build_page(
    application: web.Application,
    site: Site,
    pages: Pages,
    *,
    forms: ChangeForms,
    fetched: Fetched,
) -> None:
    """Add the routes of a build's page and of its logs."""
    page = _BuildPage(site, pages, forms, fetched=fetched)
    application.router.add_get("/builds/{build}", page.show)
    application.router.add_get("/builds/{build}/log/{replica}", page.show_log)


class _BuildPage:
    def __init__(self, site: Site, pages: Pages, forms: ChangeForms, *, fetched: Fetched) -> None:
        self._site = site
        self._pages = pages
        self._forms = forms
        self._logs = fetched.logs
        self._comparisons = fetched.comparisons
        self._inputs = fetched.inputs
        self._cases = CaseReader(site.archive, site.cluster.quorums)

    async def show(self, request: web.Request) -> web.Response:
        """GET /builds/<id>."""
        record = self._site.record(request)
        build = await self._site.fresh_view(record)
        seen = self._pages.seen
        tails = await self._logs.tails(record, build)
        ends = await self._logs.ends(record, build)
        outputs = outputs_of(build, ends)
        agreement = with_outputs(self._agreement(record, build), outputs)
        ending = ending_of(build, ends, self._site.cluster.quorums.weak)
        steps = () if ending is None else await self._logs.sections(record, ending.replica)
        compared = await self._compared(record, build, agreement)
        cases = await self._cases.build_cases(record)
        inputs, inputs_problem = await self._inputs_of(record)
        # What the archive has is read once more: the newest that there is.
        record = self._site.record(request)
        build = self._site.view(record)
        # Late ballots and logs still come in after the verdict, until they are given up.
        later = None if record.collected else LATER_REFRESH_SECONDS
        pages = self._site.about(record).pages
        gateway = self._site.gateway
        possible = gateway.possible_changes(record.build)
        may = functools.partial(self._forms.may, repository=record.repository)
        return self._forms.render(
            request,
            "build.html",
            refresh_seconds=later if is_over(record) else OPEN_REFRESH_SECONDS,
            seen=seen,
            is_over=is_over(record),
            is_renewed=RENEWED_HEADER in request.headers,
            done=done_text(request),
            can_cancel=Kind.CANCEL in possible and may(Role.CANCEL),
            can_approve=Kind.APPROVE in possible and may(Role.APPROVE),
            can_rebuild=is_over(record) and may(Role.REBUILD),
            can_note=record.opened_at is not None and may(Role.NOTE),
            note_characters_max=NOTE_CHARACTERS_MAX,
            waiting_notes=gateway.waiting_notes(record.build),
            waits_for_approval=gateway.waits_for_approval(record.build),
            build=build,
            trigger=trigger_text(build),
            pages_at_forge=pages,
            commit_url=None
            if pages is None or build.commit is None
            else pages.commit(build.commit),
            took=_took(build),
            times=time_parts(build),
            agreement=agreement,
            ending=ending,
            steps=steps,
            outputs=outputs,
            same_logs=same_logs(ends),
            columns=replica_columns(
                build, self._site.cluster.replica_names, is_collected=record.collected
            ),
            tails=tails,
            compared=compared,
            changed=history_of(self._site, record),
            cases=cases,
            case_rows_max=CASE_ROWS_MAX,
            inputs=inputs,
            inputs_problem=inputs_problem,
            input_rows_max=INPUT_ROWS_MAX,
            signatures=sum(reply.agrees and reply.signed for reply in build.replies),
            signatures_needed=self._site.cluster.quorums.weak,
            verify_command=verify_command(self._site, build),
            superseded_by=superseded_by(build),
        )

    async def show_log(self, request: web.Request) -> web.Response:
        """GET /builds/<id>/log/<replica>?page=<n>|line=<n>&times=yes&find=<text>: the log.

        It is followed while it grows.
        """
        record = self._site.record(request)
        replica = self._site.replica(request)
        number, line = (positive_number(request, name) for name in ("page", "line"))
        are_times_shown = request.query.get("times") == "yes"
        page = await self._logs.page(record, replica, PagePlace(number, line, are_times_shown))
        query = request.query.get("find", "").strip()
        if len(query) > QUERY_CHARACTERS_MAX:
            raise ApiError(400, f"`find` has at most {QUERY_CHARACTERS_MAX} characters")
        found = None
        if query and page is not None:
            found = await self._logs.find(record, replica, query)
        response = self._pages.render(
            "log.html",
            build=self._site.view(record),
            replica=replica,
            page=page,
            found=found,
            query=query,
            query_characters_max=QUERY_CHARACTERS_MAX,
            are_times_shown=are_times_shown,
            refresh_seconds=None,
        )
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response

    async def _inputs_of(self, record: BuildRecord) -> tuple[InputsView | None, str | None]:
        """What went in, without the rows, and why it is not here; None: there is no list."""
        try:
            return await self._inputs.view(record, limit=0), None
        except NotHere as error:
            return None, str(error)

    def _agreement(self, record: BuildRecord, build: BuildView) -> Agreement:
        cast = {
            ballot.replica: read_ballot(ballot.signed)
            for ballot in self._site.archive.ballots(record.build)
        }
        cluster = self._site.cluster
        return agreement_of(
            build,
            cast,
            cluster.replica_names,
            quorums=cluster.quorums,
            limits=_limits_of(record, self._site.network.limits),
            is_collected=record.collected,
        )

    async def _compared(
        self, record: BuildRecord, build: BuildView, agreement: Agreement
    ) -> list[tuple[ComparedLogs, ComparedLogs | None]]:
        """The verdict's side against each replica that found something else, with and without
        numbers (None: there is no difference to look through), where the logs are here."""
        found = []
        for left, right in pairs_to_compare(agreement.groups, build.logs)[:COMPARED_PAIRS_MAX]:
            # removed between two looks: as if it had never been here
            with contextlib.suppress(ApiError):
                compare = functools.partial(
                    self._comparisons.compare, record, left, right, lines_max=COMPARED_LINES_MAX
                )
                compared = await compare()
                without = None
                if compared.comparison.first is not None:
                    without = await compare(are_numbers_ignored=True)
                found.append((compared, without))
        return found


def replica_columns(
    build: BuildView, replicas: tuple[str, ...], *, is_collected: bool = False
) -> list[ReplicaColumn]:
    """One for each replica of the cluster, whether it has said something or not. Pure."""
    ballots = {ballot.replica: ballot for ballot in build.ballots}
    states = {row.replica: row for row in build.replicas}
    signed = {reply.replica for reply in build.replies if reply.agrees and reply.signed}
    return [
        ReplicaColumn(
            replica=replica,
            ballot=ballots.get(replica),
            stance=stance_of(build, replica, is_collected=is_collected),
            has_log=replica in build.logs,
            is_signed=replica in signed,
            state=states.get(replica),
        )
        for replica in replicas
    ]


def verify_command(site: Site, build: BuildView) -> str:
    """What to type to check the verdict without trusting the gateway.

    Whoever copies it should compare what it asks for with what they mean to use: this page is the
    gateway's word.
    """
    url = f"{site.public_url}/api/v1/builds/{build.id}/attestation"
    shown = "" if site.config.read_token_file is None else '-H "Authorization: Bearer $TOKEN" '
    asked = [("--repository", build.repository)]
    if build.commit is not None:
        asked.append(("--commit", build.commit))
    if build.verdict is not None:
        asked += [("--ref", build.verdict.ref), ("--event", build.event)]
        if build.verdict.target is not None:
            asked.append(("--target", build.verdict.target))
        if build.verdict.pipeline_sha256 is not None:
            asked.append(("--pipeline-sha256", build.verdict.pipeline_sha256))
        asked += [("--step", step.name) for step in build.verdict.steps if step.state == STEP_RAN]
    flags = [f"{flag} {shlex.quote(value)}" for flag, value in asked]
    if build.commit is None:
        flags.append("--any")
    return " \\\n  ".join(
        (
            f"curl -s {shown}{url} > verdict.intoto.json\n"
            f"{CLIENT_COMMAND} verify verdict.intoto.json --cluster cluster.yml",
            *flags,
        )
    )


def trigger_text(build: BuildView) -> str:
    """Who or what asked for a build, and whose word that is. Pure."""
    what = formats.words(build.event).capitalize()
    named = build.ref or build.schedule
    if named:
        what = f"{what} {escape_controls(named)}"
    if build.rebuild_of is not None:
        return f"{what}, rebuilt by hand"
    if build.sender is not None:
        return f"{what} by {build.sender} (as the forge reported it)"
    if build.event == Event.CRON or build.requested_by is None:
        return what
    return f"{what}, requested by member {build.requested_by}"


def positive_number(request: web.Request, name: str) -> int | None:
    """A number from 1 in the query; None: it is not there. Raises ApiError."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise ApiError(400, f"`{name}` is a number from 1")
    return int(text)


def superseded_by(build: BuildView) -> str | None:
    """The id of the build that took this one's place, if that is why it was cancelled. Pure."""
    found = _SUPERSEDED.fullmatch(build.withdrawn or "")
    return None if found is None else found[1]


def _took(build: BuildView) -> str | None:
    seconds = building_seconds(build)
    return None if seconds is None else span(seconds)


def _span(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds < 1000 else length(milliseconds / 1000)


def _limits_of(record: BuildRecord, limits: LimitsHistory) -> Limits:
    """The limits that a build was opened under; those of now while this gateway cannot tell."""
    if record.statement is None:
        return limits.now
    return limits.at(parse_statement(record.statement).verdict.opened)
