"""One build with what each replica found, and each replica's log."""

import re

import msgspec
from aiohttp import web

from ci.operations import Outcome
from client.api import Site
from client.dashboard.build_forms import done_text
from client.dashboard.change_forms import ChangeForms
from client.dashboard.pages import Pages
from client.outbox import Kind
from client.view import BallotView, BuildStatus, BuildView, ReplicaView

OPEN_REFRESH_SECONDS = 2
LATER_REFRESH_SECONDS = 5
_SUPERSEDED = re.compile(r"superseded by ([0-9a-f]{64})")


class ReplicaRow(msgspec.Struct, frozen=True):
    """One replica's line on a build's page; `stance`: agrees, dissents, abstains or none yet."""

    replica: str
    ballot: BallotView | None
    stance: str
    has_log: bool
    is_signed: bool
    state: ReplicaView | None


def add_build_page(
    application: web.Application, site: Site, pages: Pages, forms: ChangeForms
) -> None:
    """Add the routes of a build's page and of its logs."""
    page = _BuildPage(site, pages, forms)
    application.router.add_get("/builds/{build}", pages.bound(page.show))
    application.router.add_get("/builds/{build}/log/{replica}", pages.bound(page.show_log))


class _BuildPage:
    def __init__(self, site: Site, pages: Pages, forms: ChangeForms) -> None:
        self._site = site
        self._pages = pages
        self._forms = forms

    async def show(self, request: web.Request) -> web.Response:
        """GET /builds/<id>."""
        record = self._site.record(request)
        build = await self._site.fresh_view(record)
        is_open = build.status in (BuildStatus.QUEUED, BuildStatus.BUILDING)
        rows = replica_rows(build, self._site.cluster.replica_names)
        # Late ballots and logs still come in after the verdict, until they are given up.
        later = None if record.collected else LATER_REFRESH_SECONDS
        refresh = OPEN_REFRESH_SECONDS if is_open else later
        possible = self._site.gateway.possible_changes(record.build)
        return self._forms.render(
            request,
            "build.html",
            done=done_text(request),
            can_cancel=Kind.CANCEL in possible,
            can_approve=Kind.APPROVE in possible,
            waits_for_approval=self._site.gateway.waits_for_approval(record.build),
            build=build,
            rows=rows,
            refresh_seconds=refresh,
            verify_command=verify_command(self._site, build),
            superseded_by=superseded_by(build),
        )

    async def show_log(self, request: web.Request) -> web.Response:
        """GET /builds/<id>/log/<replica>: the log, followed while it grows."""
        record = self._site.record(request)
        replica = self._site.replica(request)
        build = self._site.view(record)
        return self._pages.render("log.html", build=build, replica=replica, refresh_seconds=None)


def replica_rows(build: BuildView, replicas: tuple[str, ...]) -> list[ReplicaRow]:
    """One row for each replica of the cluster, whether it has said something or not. Pure."""
    ballots = {ballot.replica: ballot for ballot in build.ballots}
    states = {row.replica: row for row in build.replicas}
    signed = {reply.replica for reply in build.replies if reply.agrees and reply.signed}
    rows = []
    for replica in replicas:
        ballot = ballots.get(replica)
        rows.append(
            ReplicaRow(
                replica=replica,
                ballot=ballot,
                stance=_stance(build, replica, ballot),
                has_log=replica in build.logs,
                is_signed=replica in signed,
                state=states.get(replica),
            )
        )
    return rows


def verify_command(site: Site, build: BuildView) -> str:
    """What to type to check the verdict without trusting the gateway."""
    url = f"{site.public_url}/api/v1/builds/{build.id}/attestation"
    return (
        f"curl -s {url} > verdict.intoto.json\n"
        "python -m client verify verdict.intoto.json --cluster cluster.yml"
    )


def _stance(build: BuildView, replica: str, ballot: BallotView | None) -> str:
    if ballot is not None and ballot.abstains is not None:
        return "abstains"
    if build.verdict is not None and replica in build.verdict.agreeing:
        return "agrees"
    if build.verdict is not None and replica in build.verdict.dissenting:
        return "dissents"
    if ballot is not None:
        return "found"
    is_cancelled = build.verdict is not None and build.verdict.outcome == Outcome.CANCELLED
    return "none" if is_cancelled else "none yet"


def superseded_by(build: BuildView) -> str | None:
    """The id of the build that took this one's place, if that is why it was cancelled. Pure."""
    found = _SUPERSEDED.fullmatch(build.withdrawn or "")
    return None if found is None else found[1]
