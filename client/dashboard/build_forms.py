"""Cancel, rebuild, approve, note, as forms of a build's page: what the JSON API does, as it does.

After each, 303 to a build's page, which says what was done.
"""

import msgspec
from aiohttp import web

from ci.operations import NOTE_CHARACTERS_MAX, NoteText
from client.api.change_routes import approve, cancel, note, rebuild
from client.api.routes import ApiError, Site
from client.dashboard.change_forms import ChangeForms
from client.dashboard.pages import Pages
from client.gateway.build_changes import CANCELLED, REASON_CHARACTERS_MAX
from client.login.roles import Role

DONE_QUERY = "done"
# What a page says after a form was taken. Only these: what an address says is anybody's text.
DONE = {
    "cancel": "Cancelled: this gateway no longer requests this build.",
    "rebuild": "Rebuild accepted: this is the new build of the same commit.",
    "approve": "Approval accepted: the gateway asks the replicas to begin.",
    "note": "Note accepted: it is in the ledger once the replicas ordered it.",
}


def add_build_forms(
    application: web.Application, site: Site, pages: Pages, *, forms: ChangeForms
) -> None:
    """Add the routes."""
    handlers = _BuildForms(site, forms)
    router = application.router
    router.add_post("/builds/{build}/cancel", handlers.cancel)
    router.add_post("/builds/{build}/rebuild", handlers.rebuild)
    router.add_post("/builds/{build}/approve", handlers.approve)
    router.add_post("/builds/{build}/note", handlers.note)


def done_text(request: web.Request) -> str | None:
    """What the form did after which this page is shown, if one did."""
    return DONE.get(request.query.get(DONE_QUERY, ""))


class _BuildForms:
    def __init__(self, site: Site, forms: ChangeForms) -> None:
        self._site = site
        self._forms = forms

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /builds/<id>/cancel, with a `reason` or none."""
        record = self._site.record(request)
        fields, actor = await self._forms.check_form(request, Role.CANCEL, record.repository)
        reason = fields.get("reason", "").strip() or CANCELLED
        if len(reason) > REASON_CHARACTERS_MAX:
            raise ApiError(400, f"the reason has more than {REASON_CHARACTERS_MAX} characters")
        await cancel(self._site, record.build, reason, actor=actor)
        return _see(record.build, "cancel")

    async def rebuild(self, request: web.Request) -> web.Response:
        """POST /builds/<id>/rebuild, with `cold` or not: leads to the new build."""
        record = self._site.record(request)
        fields, actor = await self._forms.check_form(request, Role.REBUILD, record.repository)
        build = await rebuild(self._site, record.build, actor=actor, is_cold="cold" in fields)
        return _see(build, "rebuild")

    async def approve(self, request: web.Request) -> web.Response:
        """POST /builds/<id>/approve."""
        record = self._site.record(request)
        _, actor = await self._forms.check_form(request, Role.APPROVE, record.repository)
        await approve(self._site, record.build, actor)
        return _see(record.build, "approve")

    async def note(self, request: web.Request) -> web.Response:
        """POST /builds/<id>/note with a `text`."""
        record = self._site.record(request)
        fields, actor = await self._forms.check_form(request, Role.NOTE, record.repository)
        # A browser sends line ends as CR LF (HTML standard, "form submission").
        sent = fields.get("text", "").replace("\r\n", "\n").strip()
        try:
            text = msgspec.convert(sent, NoteText)
        except msgspec.ValidationError as error:
            raise ApiError(
                400,
                f"a note is plain text of 1 to {NOTE_CHARACTERS_MAX} characters, without controls",
            ) from error
        await note(self._site, record.build, text, actor=actor)
        return _see(record.build, "note")


def _see(build: bytes, done: str) -> web.Response:
    location = f"/builds/{build.hex()}?{DONE_QUERY}={done}"
    return web.Response(status=303, headers={"Location": location})
