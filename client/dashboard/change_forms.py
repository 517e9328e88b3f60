"""Forms that change something: how a page gets one, and who may send it. No page has another way.

A form is taken from whoever may use the API's changes (client.api.change_routes.Authorizer: this
machine, or somebody with a token, typed into the form), and only where one of our own pages sent
it: the browser names this gateway as the page's origin, and the form holds what only a reader of
the page can know, bound to a cookie that no other site's page can have sent along.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from aiohttp import web

from client.api.change_routes import Authorizer
from client.api.routes import ApiError, Site
from client.dashboard.pages import FORM_POLICY, Pages
from client.login.people import current_person
from client.login.roles import Role
from client.storage.audit import Actor

COOKIE = "pbft_ci_form"
CSRF_FIELD = "csrf"
TOKEN_FIELD = "token"  # noqa: S105 - the name of a field
FORM_BYTES_MAX = 16 * 1024
FIELDS_MAX = 16
FORM_TYPE = "application/x-www-form-urlencoded"

# A page with a form may send it to us. Under `no-referrer`, which the other pages have, a browser
# would call the origin of the form's page `null` (Fetch standard, "append a request `Origin`").
HEADERS = {
    "Content-Security-Policy": FORM_POLICY,
    "Referrer-Policy": "same-origin",
}

_COOKIE_VALUE = re.compile(r"[0-9a-f]{64}")


class FormValues(msgspec.Struct, frozen=True):
    """What a template needs for its forms (templates/form.html).

    is_open: may anybody change something from this page at all? needs_token: by typing a token,
    which a person who is logged in need not. csrf: the hidden field's value.
    """

    is_open: bool
    needs_token: bool
    csrf: str


class SentForm(NamedTuple):
    """A form that was taken: its fields, and who sent it."""

    fields: Mapping[str, str]
    actor: Actor


class ChangeForms:
    """Makes and checks the forms of all pages, in one life of the gateway."""

    def __init__(
        self,
        site: Site,
        pages: Pages,
        authorizer: Authorizer,
        *,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """draw: gives that many random bytes."""
        self._site = site
        self._pages = pages
        self._authorizer = authorizer
        self._draw = draw
        self._secret = draw(32)
        self._public = urlsplit(site.config.public_url or "")

    def render(
        self, request: web.Request, template: str, status: int = 200, **values: Any
    ) -> web.Response:
        """A page with forms: the template gets `form`, a FormValues; the browser its cookie."""
        cookie = request.cookies.get(COOKIE, "")
        is_new = not _COOKIE_VALUE.fullmatch(cookie)
        if is_new:
            cookie = self._draw(32).hex()
        form = FormValues(
            self._authorizer.is_open_to(request),
            self._authorizer.needs_token and current_person() is None,
            self._csrf(cookie),
        )
        response = self._pages.render(template, status, form=form, **values)
        response.headers.update(HEADERS)
        if is_new:
            response.set_cookie(
                COOKIE,
                cookie,
                httponly=True,
                samesite="Strict",
                secure=self._own_origin(request).startswith("https://"),
            )
        return response

    def may(self, role: Role, repository: str) -> bool:
        """Whether the page has that form for who asks (client.api.change_routes.Authorizer)."""
        return self._authorizer.may(role, repository)

    async def check_form(
        self, request: web.Request, role: Role | None = None, repository: str = ""
    ) -> SentForm:
        """A form that one of our pages sent for somebody who may change something.

        role, repository: what a person needs for it; None: no person may, only a token or this
        machine. Raises ApiError: 401 (no right token, nobody logged in), 403 (no such role, changes
        are closed, and as for `read_form`), 400, 408, 413, 415, 503 (the form itself).
        """
        fields = await self.read_form(request)
        wanted = None if role is None else (role, repository)
        actor = self._authorizer.check_form(request, fields.pop(TOKEN_FIELD, ""), wanted)
        return SentForm(fields, actor)

    async def read_form(self, request: web.Request) -> dict[str, str]:
        """The fields of a form that one of our pages sent, whoever may send it.

        Raises ApiError: 403 (another site's page, a cookie or hidden field that is not ours), and
        for the form itself.
        """
        self._check_origin(request)
        if request.content_type != FORM_TYPE:
            raise ApiError(415, f"a form is sent as {FORM_TYPE}")
        fields = _read_fields(await self._site.read_body(request, FORM_BYTES_MAX))
        self._check_csrf(request.cookies.get(COOKIE, ""), fields.pop(CSRF_FIELD, ""))
        return fields

    def _check_origin(self, request: web.Request) -> None:
        own = self._own_origin(request)
        origin = request.headers.get("Origin")
        if origin is None:
            raise ApiError(403, "the browser did not say which page sent this form (Origin)")
        if origin.lower() != own:
            raise ApiError(
                403,
                f"this form was sent from {origin[:200]}, and the gateway is {own}: load the "
                "gateway's own page and send it from there. If the gateway is called by another "
                "address, by a proxy, that has to be its `public_url`.",
            )
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise ApiError(403, "this form was sent from another site's page")

    def _own_origin(self, request: web.Request) -> str:
        """The origin of our pages, as this request's browser sees it: scheme, host and port."""
        host = request.headers.get("Host", "").lower()
        if self._public.netloc and host == self._public.netloc.lower():
            return f"{self._public.scheme.lower()}://{host}"
        return f"http://{host}"

    def _check_csrf(self, cookie: str, given: str) -> None:
        if not _COOKIE_VALUE.fullmatch(cookie):
            raise ApiError(
                403,
                "the form's cookie is missing: allow cookies here, load the page, send it again",
            )
        if not hmac.compare_digest(given.encode(), self._csrf(cookie).encode()):
            raise ApiError(
                403,
                "the form does not belong to this gateway as it runs now (it may have been started "
                "again since): go back, load the page again, and send it once more",
            )

    def _csrf(self, cookie: str) -> str:
        """Of this browser, and of the person that it showed the page to: a form is not sent in
        another's name because somebody else logged in meanwhile."""
        person = current_person()
        whose = "" if person is None else person.subject
        return hmac.new(self._secret, f"{cookie}\0{whose}".encode(), hashlib.sha256).hexdigest()


def _read_fields(body: bytes) -> dict[str, str]:
    """Each field once. Raises ApiError."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError as error:
        raise ApiError(400, f"the form cannot be read: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ApiError(400, "the form has a field twice")
    return fields
