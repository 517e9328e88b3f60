"""Who is up, who is down, who disagrees, and what is proved; and the switch that makes one lie.

The switch is there only where nodes say that their operators allow it.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from client.api.routes import GLANCE_TIMEOUT_SECONDS, ApiError, Site
from client.dashboard.change_forms import ChangeForms
from client.dashboard.pages import Pages
from client.network.ballot_times import BUILDS_TOLD
from client.network.network_view import NetworkView, ReplicaState, iso_seconds, time_of_day
from client.network.nodes import NodeFailed
from client.storage.archive import BuildRecord
from client.views.build_times import span
from client.views.plots import Line, line
from common.clocks import in_words, own_error
from common.english import counted
from common.safe_text import escape_controls

REFRESH_SECONDS = 5
# Without JavaScript; somebody may be choosing a fault.
REFRESH_WITH_FORM_SECONDS = 30
DONE_QUERY = "done"
# What a page says after a form was taken. Only this: what an address says is anybody's text.
DONE = {"misbehave": "The node has accepted the change. Its new state is shown below."}
# The builds among which one to build again is looked for, and the branches that it should be of.
NEWEST_MAX = 50
MAIN_BRANCHES = ("master", "main")
# A replica that takes so many times as long as the others is called slow.
SLOW_PART_MIN = 1.25


class FaultChoice(msgspec.Struct, frozen=True):
    """The nodes that can be made to misbehave, and how: each fault with what it does."""

    replicas: tuple[str, ...]
    kinds: Mapping[str, str]


def add_replicas_page(
    application: web.Application, site: Site, pages: Pages, *, forms: ChangeForms
) -> None:
    """Add the routes of the page and of its switch."""
    page = _ReplicasPage(site, pages, forms)
    application.router.add_get("/replicas", page.show)
    application.router.add_post("/replicas/misbehave", page.misbehave)


class ReplicaSpeed(msgspec.Struct, frozen=True):
    """How long one replica builds, in words. usual: what eight of ten builds took.

    times_slower: its times by those that verdicts rest on, in words. None: nothing is known.
    """

    replica: str
    middle: str | None
    usual: str | None
    line: Line | None
    times_slower: str | None


class _ReplicasPage:
    def __init__(self, site: Site, pages: Pages, forms: ChangeForms) -> None:
        self._site = site
        self._pages = pages
        self._forms = forms

    async def show(self, request: web.Request) -> web.Response:
        """GET /replicas."""
        view = await self._site.network.look(GLANCE_TIMEOUT_SECONDS)
        faults = fault_choice(view)
        values: dict[str, Any] = {
            "refresh_seconds": REFRESH_SECONDS if faults is None else REFRESH_WITH_FORM_SECONDS,
            "view": view,
            "time_of_day": lambda at: time_of_day(at, iso_seconds(time.time())),
            "builds": self._builds(view),
            "speeds": speeds_of(view),
            "slowest": slowest_words(view),
            "clocks": clocks_of(view),
            "times_told": BUILDS_TOLD,
            "faults": faults,
            "done": DONE.get(request.query.get(DONE_QUERY, "")),
            "again": None if faults is None else self._newest_build(),
        }
        if faults is None:
            return self._pages.render("replicas.html", form=None, **values)
        return self._forms.render(request, "replicas.html", **values)

    async def misbehave(self, request: web.Request) -> web.Response:
        """POST /replicas/misbehave with `replica` and `fault` (empty: none from now on)."""
        fields, _ = await self._forms.check_form(request)
        faults = fault_choice(await self._site.network.look(GLANCE_TIMEOUT_SECONDS))
        if faults is None:
            raise ApiError(404, "no replica of this network allows fault injection")
        replica, fault = fields.get("replica", ""), fields.get("fault", "")
        if replica not in faults.replicas:
            raise ApiError(400, f"`replica` is one of {', '.join(faults.replicas)}")
        if fault and fault not in faults.kinds:
            raise ApiError(400, f"`fault` is empty or one of {', '.join(faults.kinds)}")
        try:
            await self._site.nodes.misbehave(replica, fault or None)
        except NodeFailed as error:
            raise ApiError(502, str(error)) from error
        await self._site.network.look_again(replica)
        location = f"/replicas?{DONE_QUERY}=misbehave"
        return web.Response(status=303, headers={"Location": location})

    def _builds(self, view: NetworkView) -> dict[str, str]:
        """The branches of the builds that the page names, of those that are here, by id."""
        named = {told.build for r in view.replicas for told in r.dissent.newest}
        records = {build: self._site.archive.get(bytes.fromhex(build)) for build in named}
        return {
            build: escape_controls(record.branch)
            for build, record in records.items()
            if record is not None
        }

    def _newest_build(self) -> BuildRecord | None:
        """A build to do again, to see what a misbehaving replica makes of it."""
        decided = [
            record
            for record in self._site.archive.page(None, NEWEST_MAX)
            if record.statement is not None
        ]
        of_main = [record for record in decided if record.branch in MAIN_BRANCHES]
        return next(iter(of_main or decided), None)


def speeds_of(view: NetworkView) -> tuple[ReplicaSpeed, ...]:
    """How long each replica builds. Pure."""
    return tuple(_speed(replica) for replica in view.replicas)


def _speed(replica: ReplicaState) -> ReplicaSpeed:
    times = replica.times
    if times.against_others is None:
        return ReplicaSpeed(replica.replica, None, None, None, None)
    ordered = sorted(times.seconds)
    cut = len(ordered) // 10
    return ReplicaSpeed(
        replica.replica,
        span(statistics.median(ordered)),
        f"{span(ordered[cut])} to {span(ordered[-1 - cut])}",
        line(times.seconds, span),
        f"{times.against_others:.2g} times",
    )


def slowest_words(view: NetworkView) -> str | None:
    """One sentence on which machine is slow, and one on whom verdicts wait for. Pure."""
    known = [
        (replica.times.against_others, replica.replica)
        for replica in view.replicas
        if replica.times.against_others is not None
    ]
    if len(known) < 2:
        return None
    part, slowest = max(known)
    waited = max(view.replicas, key=lambda replica: replica.times.completed)
    said = (
        f"{slowest} is the slowest: it takes {part:.2g} times as long as the ballots that verdicts "
        "rest on."
        if part >= SLOW_PART_MIN
        else "No replica is much slower than the others."
    )
    if waited.times.completed:
        of_all = counted(waited.times.verdicts, "newest verdict")
        said += f" {waited.times.completed} of the {of_all} waited longest for {waited.replica}."
    return said


def clocks_of(view: NetworkView) -> dict[str, str]:
    """How far each clock is from the middle one, of those that say what time it is. Pure."""
    ahead = {r.replica: r.ahead_seconds for r in view.replicas if r.ahead_seconds is not None}
    if not ahead:
        return {}
    own = own_error(ahead)
    return {
        name: in_words(seconds + own) if abs(seconds + own) >= 1 else "right, to a second"
        for name, seconds in ahead.items()
    }


def fault_choice(view: NetworkView) -> FaultChoice | None:
    """Who can be made to misbehave and how, as the nodes say; None: nobody. Pure."""
    replicas = []
    kinds: dict[str, str] = {}
    for replica in view.replicas:
        told = None if replica.status is None else replica.status.fault_kinds
        if told:
            replicas.append(replica.replica)
            kinds.update({kind: escape_controls(text) for kind, text in told.items()})
    return FaultChoice(tuple(replicas), kinds) if replicas else None
