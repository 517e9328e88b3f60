"""Logging in and out, a person's own page, and the page of who changed what.

GET /login leads to the provider, and GET /login/callback back: to the page that was asked for, with
a new session. Whatever a provider or a stranger's address says is shown as text, and cut.
"""

import logging
from typing import Any

from aiohttp import web

from client.api.audit_routes import audit_page
from client.api.routes import ApiError, Site
from client.dashboard.change_forms import ChangeForms
from client.dashboard.pages import COMPRESSIBLE, HEADERS, Pages
from client.login.attempts import ATTEMPT_SECONDS, AttemptLost
from client.login.attempts import COOKIE as ATTEMPT_COOKIE
from client.login.people import LOGIN_PATH, People, current_person
from client.login.person import NoPerson, Person
from client.login.providers import CALLBACK_PATH, CODE_CHARACTERS_MAX, Provider, ProviderFailed
from client.login.roles import Role
from common.safe_text import log_text

STATE_CHARACTERS_MAX = 200
AGAIN_SECONDS = 5

_log = logging.getLogger(__name__)


def add_audit_page(application: web.Application, site: Site, pages: Pages) -> None:
    """Add the page of who changed what."""

    async def show(request: web.Request) -> web.Response:
        """GET /audit?before=<number>."""
        found = audit_page(site.archive.audit, request)
        return pages.render(
            "audit.html",
            events=found.events,
            older=found.next,
            is_newest="before" not in request.query,
        )

    application.router.add_get("/audit", show)


def add_login_pages(
    application: web.Application, pages: Pages, people: People, *, forms: ChangeForms
) -> None:
    """Add the routes of people."""
    handlers = _LoginPages(pages, people, forms)
    application.router.add_get("/account", handlers.account)
    if people.provider is not None:
        application.router.add_get(LOGIN_PATH, handlers.login, allow_head=False)
        application.router.add_get(CALLBACK_PATH, handlers.callback, allow_head=False)
        application.router.add_post("/logout", handlers.logout)


class _LoginPages:
    def __init__(self, pages: Pages, people: People, forms: ChangeForms) -> None:
        self._pages = pages
        self._people = people
        self._forms = forms

    @property
    def _provider(self) -> Provider:
        assert self._people.provider is not None, "the routes are there with a provider alone"
        return self._people.provider

    async def login(self, request: web.Request) -> web.Response:
        """GET /login?next=<path>: 303 to the provider."""
        people = self._people
        attempt = people.attempts.begin(
            people.draw(32), request.query.get("next", "/"), people.clock()
        )
        try:
            url = await self._provider.login_url(attempt)
        except ProviderFailed as error:
            raise self._unreachable(error) from error
        response = _see_other(url)
        people.set_cookie(response, ATTEMPT_COOKIE, attempt.cookie, seconds=ATTEMPT_SECONDS)
        return response

    async def callback(self, request: web.Request) -> web.Response:
        """GET /login/callback?code=&state=: 303 to where the person wanted to go, logged in."""
        try:
            person, next_path = await self._come_back(request)
        except (AttemptLost, NoPerson) as error:
            self._people.note_failure(str(error))
            _log.info("a login failed: %s", log_text(str(error)))
            response = self._pages.render("login_failed.html", 403, text=str(error))
            self._people.delete_cookie(response, ATTEMPT_COOKIE)
            return response
        except ProviderFailed as error:
            raise self._unreachable(error) from error
        response = _see_other(next_path)
        self._people.begin(person, response)
        self._people.delete_cookie(response, ATTEMPT_COOKIE)
        return response

    async def _come_back(self, request: web.Request) -> tuple[Person, str]:
        """Who came back, and where they wanted to go. Raises AttemptLost, NoPerson,
        ProviderFailed."""
        people = self._people
        query = request.query
        cookie = request.cookies.get(people.cookie_name(ATTEMPT_COOKIE), "")
        # the state first: what comes without it is nobody's answer to anything
        state = query.get("state", "")[:STATE_CHARACTERS_MAX]
        attempt = people.attempts.finish(cookie, state, people.clock())
        if "error" in query:
            reason = log_text(query.get("error_description") or query["error"], 200)
            raise NoPerson(f"the provider answers: {reason}")
        code = query.get("code", "")
        if not 1 <= len(code) <= CODE_CHARACTERS_MAX:
            raise NoPerson("the provider sent no code")
        return await self._provider.person(code, attempt), attempt.next_path

    async def logout(self, request: web.Request) -> web.Response:
        """POST /logout, with `everywhere` for all sessions of this person."""
        fields = await self._forms.read_form(request)
        response = _see_other("/")
        self._people.end(request, response, is_all="everywhere" in fields)
        return response

    async def account(self, request: web.Request) -> web.Response:
        """GET /account: who one is here, and what one may do."""
        person = current_person()
        values: dict[str, Any] = {
            "account": person,
            "can_leave": self._people.provider is not None,
            "session_hours": self._people.login.session_hours,
            "roles": {} if person is None else self._people.roles.of(person),
            "all_roles": tuple(Role),
            "vouched": self._people.vouched,
        }
        response = self._forms.render(request, "account.html", **values)
        # it has a form's hidden value whoever may change builds
        response[COMPRESSIBLE] = False
        return response

    def _unreachable(self, error: ProviderFailed) -> ApiError:
        self._people.note_failure(str(error))
        text = f"nobody can log in now: {log_text(str(error), 300)}"
        _log.warning("%s", text)
        return ApiError(503, text, AGAIN_SECONDS)


def _see_other(url: str) -> web.Response:
    return web.Response(
        status=303, headers={**HEADERS, "Location": url, "Cache-Control": "no-store"}
    )
