"""Logging in by a browser's way, and what people with and without a role may do then."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest
from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from ci.ledger import ApproveEntry, NoteEntry, decode_entry
from client.api.routes import Site
from client.login.people import FAILURES_A_MINUTE_MAX, People
from client.serve import make_application
from client.storage.build_request import BuildRequest
from common.configuration.config import LoginConfig
from common.configuration.login_config import RoleRules
from tests.ci.builders import COMMIT
from tests.client.dashboard.forms import csrf_of, send_form
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of, until
from tests.client.login.identity_provider import IdentityProvider, started
from tests.client.login.test_providers import login_config
from tests.client.running_network import REPOSITORY, Network, Running, run_gateway
from tests.client.site import Client, site_of
from tests.secret_files import secret_file

REDIRECT_URL = "http://localhost:8080/login/callback"
ROLES = RoleRules(
    approve=("group:maintainers",), cancel=("group:maintainers",), note=("any",), rebuild=("any",)
)
COOKIE = "pbft_ci_session"


class World:
    """A gateway that is an operator, its provider, and browsers."""

    def __init__(self, running: Running, site: Site, provider: IdentityProvider) -> None:
        self.running = running
        self.site = site
        self.provider = provider
        self._opened = contextlib.AsyncExitStack()

    async def browser(self) -> Client:
        """A new browser. It reaches the gateway as localhost, whatever the port."""
        login = self.site.config.login
        assert login is not None
        people = People(self.site.config, self.running.database, draw=os.urandom)
        application = make_application(self.site, None, people)
        browser: Client = TestClient(TestServer(application), cookie_jar=CookieJar(unsafe=True))
        await browser.start_server()
        self._opened.push_async_callback(browser.close)
        return browser

    async def logged_in(self, user: str) -> Client:
        """The browser of somebody who logged in."""
        browser = await self.browser()
        answer = await self.come_back(browser, user)
        assert answer.status == 303, await answer.text()
        return browser

    async def leave(self, browser: Client, next_path: str = "/") -> dict[str, str]:
        """GET /login: what the browser is to tell the provider."""
        asked = f"/login?{urlencode({'next': next_path})}"
        answer = await browser.get(asked, allow_redirects=False)
        assert answer.status == 303, await answer.text()
        url = urlsplit(answer.headers["Location"])
        assert url._replace(path="", query="").geturl() == self.provider.issuer
        return dict(parse_qsl(url.query))

    async def come_back(
        self, browser: Client, user: str, next_path: str = "/", **changed: str
    ) -> ClientResponse:
        """Leave for the provider, log in there, and come back. changed: of the way back."""
        query = await self.leave(browser, next_path)
        back = {"code": self.provider.code_for(query, user), "state": query["state"]} | changed
        return await browser.get(f"/login/callback?{urlencode(back)}", allow_redirects=False)

    async def build(self, **named: Any) -> str:
        """A build that the network has, and that nobody finishes."""
        nobody_finishes(self.running.network)
        wanted = BuildRequest(REPOSITORY, "master", COMMIT, **named)
        build = (await self.running.gateway.order(wanted)).build
        await until(lambda: record_of(self.running, build).opened_at is not None)
        return build.hex()

    def events(self) -> list[tuple[str, str, str]]:
        """Who did what, the newest first."""
        audit = self.running.archive.audit
        return [(event.what, event.who, event.text) for event in audit.page(None, 100)]

    async def close(self) -> None:
        await self._opened.aclose()


@contextlib.asynccontextmanager
async def world_of(folder: Path, **changed: Any) -> AsyncIterator[World]:
    """changed: of the gateway's configuration."""
    network = Network(gateway_roles=("gateway", "operator"))
    await network.start()
    running = await run_gateway(network, folder)
    provider = IdentityProvider(REDIRECT_URL)
    server = await started(provider)
    site = site_of(running, folder)
    login = login_config(provider, folder, roles=ROLES)
    site.config = msgspec.structs.replace(site.config, **({"login": login} | changed))
    world = World(running, site, provider)
    yield world
    await world.close()
    await server.close()
    await running.close()
    await network.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as world:
        yield world


async def test_a_person_logs_in_and_their_name_goes_with_what_they_change(world: World) -> None:
    build = await world.build(needs_approval=True)
    browser = await world.browser()
    page = await (await browser.get(f"/builds/{build}")).text()
    assert "<button>" not in page, "nobody may change anything"
    assert f'href="/login?next=%2Fbuilds%2F{build}"' in page
    answer = await world.come_back(browser, "ana", f"/builds/{build}")
    assert (answer.status, answer.headers["Location"]) == (303, f"/builds/{build}")
    page = await (await browser.get(f"/builds/{build}")).text()
    assert '<a href="/account">ana</a>' in page
    assert 'name="token"' not in page
    csrf = await csrf_of(browser, f"/builds/{build}")
    answer = await send_form(browser, f"/builds/{build}/approve", {"csrf": csrf})
    assert answer.status == 303
    text = "line one\r\nline <b>two</b>"
    answer = await send_form(browser, f"/builds/{build}/note", {"csrf": csrf, "text": text})
    assert answer.status == 303
    ledger = world.running.network.nodes["replica-0"].ledger
    await until(lambda: len(ledger) == 2)
    entries = {type(body): body for body in (decode_entry(entry.body) for entry in ledger)}
    assert entries[ApproveEntry].person == "ana"  # type: ignore[union-attr]
    assert entries[NoteEntry].text == "line one\nline <b>two</b>"  # type: ignore[union-attr]
    events = world.events()
    assert [event[:2] for event in events] == [
        ("note", "ana"),
        ("approve", "ana"),
        ("login", "ana"),
    ]
    told = await (await browser.get("/audit")).text()
    assert "by the word of oidc" in told
    await world.site.network.look(60)
    page = await (await browser.get(f"/builds/{build}")).text()
    assert "Approved by <strong>ana, says gateway</strong>" in page
    assert "line &lt;b&gt;two&lt;/b&gt;" in page
    found = await (await browser.get(f"/api/v1/builds/{build}/notes")).json()
    assert [(told["kind"], told["person"]) for told in found["changes"]] == [
        ("approve", "ana"),
        ("note", "ana"),
    ]
    assert "1 note: line one" in await (await browser.get("/")).text()


async def test_a_person_without_the_role_is_refused_and_sees_no_button(world: World) -> None:
    build = await world.build(needs_approval=True)
    browser = await world.logged_in("bo")
    page = await (await browser.get(f"/builds/{build}")).text()
    assert f'action="/builds/{build}/note"' in page
    csrf = await csrf_of(browser, f"/builds/{build}")
    for what in ("approve", "cancel"):
        assert f'action="/builds/{build}/{what}"' not in page
        answer = await send_form(browser, f"/builds/{build}/{what}", {"csrf": csrf})
        assert answer.status == 403
        assert f"bo does not have the role {what}" in await answer.text()
    answer = await send_form(browser, "/replicas/misbehave", {"csrf": csrf})
    assert answer.status == 403
    assert record_of(world.running, bytes.fromhex(build)).withdrawn is None
    # the API takes tokens: another site's page can send a session along
    answer = await browser.post(f"/api/v1/builds/{build}/notes", json={"text": "x"})
    assert answer.status == 403
    assert [event[0] for event in world.events()] == ["login"]


async def test_nobody_on_this_machine_may_without_a_session(world: World) -> None:
    build = await world.build()
    browser = await world.logged_in("ana")
    csrf = await csrf_of(browser, f"/builds/{build}")
    browser.session.cookie_jar.clear(lambda cookie: cookie.key == COOKIE)
    answer = await send_form(browser, f"/builds/{build}/cancel", {"csrf": csrf})
    assert answer.status == 403, "the form was shown to ana"
    page = await (await browser.get(f"/builds/{build}")).text()
    assert "csrf" not in page


async def test_tokens_stay_as_they_are_beside_people(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "token", "a-token")
    async with world_of(tmp_path, api_token_file=file) as world:
        build = await world.build()
        browser = await world.browser()
        path = f"/api/v1/builds/{build}/notes"
        assert (await browser.post(path, json={"text": "x"})).status == 401
        shown = {"Authorization": "Bearer a-token"}
        assert (await browser.post(path, json={"text": "x"}, headers=shown)).status == 202
        csrf = await csrf_of(browser, f"/builds/{build}")
        answer = await send_form(
            browser, f"/builds/{build}/cancel", {"csrf": csrf, "token": "a-token"}
        )
        assert answer.status == 303
        expected = [("cancel", "API token 1", "cancelled"), ("note", "API token 1", "x")]
        assert world.events() == expected


async def test_each_login_is_a_new_session_and_the_cookie_is_for_browsers_alone(
    world: World,
) -> None:
    browser = await world.browser()
    planted = "ab" * 32
    browser.session.cookie_jar.update_cookies({COOKIE: planted}, browser.make_url("/"))
    answer = await world.come_back(browser, "ana")
    cookie = answer.cookies[COOKIE]
    assert cookie.value != planted
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert not cookie["domain"]
    again = await world.come_back(browser, "bo")
    assert again.cookies[COOKIE].value != cookie.value
    rows = world.running.database.rows("SELECT digest FROM sessions")
    assert all(bytes.fromhex(cookie.value) != digest for (digest,) in rows)


async def test_with_https_cookies_are_secure_and_of_this_host_alone(world: World) -> None:
    world.site.config = msgspec.structs.replace(
        world.site.config, public_url="https://ci.example.org"
    )
    world.provider.redirect_url = "https://ci.example.org/login/callback"
    browser = await world.browser()
    answer = await browser.get("/login", allow_redirects=False)
    cookie = answer.cookies["__Host-pbft_ci_login"]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")


async def test_a_session_outlives_a_restart_and_ends_with_a_logout(world: World) -> None:
    first, second = await world.logged_in("ana"), await world.logged_in("ana")
    # the browser goes on with another process of the gateway
    again = await world.browser()
    for cookie in first.session.cookie_jar:
        again.session.cookie_jar.update_cookies({cookie.key: cookie.value}, again.make_url("/"))
    assert "<h1>ana</h1>" in await (await again.get("/account")).text()
    csrf = await csrf_of(first, "/account")
    assert (await send_form(first, "/logout", {"csrf": "0" * 64})).status == 403
    assert (await send_form(first, "/logout", {"csrf": csrf})).status == 303
    for browser in (first, again):
        assert "Nobody is logged in" in await (await browser.get("/account")).text()
    assert "<h1>ana</h1>" in await (await second.get("/account")).text()
    third = await world.logged_in("ana")
    csrf = await csrf_of(third, "/account")
    answer = await send_form(third, "/logout", {"csrf": csrf, "everywhere": "yes"})
    assert answer.status == 303
    assert "Nobody is logged in" in await (await second.get("/account")).text()


async def test_an_answer_that_this_browser_did_not_ask_for_logs_nobody_in(world: World) -> None:
    """Somebody who has a victim's browser follow a link must not log it in as themselves."""
    attacker, victim = await world.browser(), await world.browser()
    query = await world.leave(attacker)
    code = world.provider.code_for(query, "bo")
    link = f"/login/callback?{urlencode({'code': code, 'state': query['state']})}"
    await world.leave(victim)
    for browser in (victim, await world.browser()):
        answer = await browser.get(link, allow_redirects=False)
        assert answer.status == 403
        assert COOKIE not in answer.cookies
    answer = await world.come_back(victim, "ana", error="access_denied", error_description="<no>")
    assert answer.status == 403
    assert "the provider answers: &lt;no&gt;" in await answer.text()
    assert {event[0] for event in world.events()} == {"login failed"}


async def test_after_a_login_no_other_site_is_gone_to(world: World) -> None:
    answer = await world.come_back(await world.browser(), "ana", "//evil.example.org/builds/x")
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_failures_are_recorded_within_bounds(world: World) -> None:
    browser = await world.browser()
    for _ in range(FAILURES_A_MINUTE_MAX + 20):
        assert (await browser.get("/login/callback?state=x&code=y")).status == 403
    assert len(world.events()) <= 2 * FAILURES_A_MINUTE_MAX


async def test_a_provider_that_does_not_answer_keeps_nobody_from_reading(world: World) -> None:
    world.provider.discovery = {"issuer": "https://other.example.org"}
    browser = await world.browser()
    answer = await browser.get("/login", allow_redirects=False)
    assert answer.status == 503
    assert "nobody can log in now" in await answer.text()
    assert (await browser.get("/")).status == 200


async def test_where_reading_takes_a_token_people_with_a_role_read(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "read", "a-read-token")
    async with world_of(tmp_path, read_token_file=file) as world:
        browser = await world.browser()
        answer = await browser.get(
            "/?branch=a", headers={"Accept": "text/html"}, allow_redirects=False
        )
        assert answer.headers["Location"] == "/login?next=/?branch%3Da"
        assert (await browser.get("/api/v1/builds")).status == 401
        assert (await world.come_back(browser, "bo")).status == 303
        assert (await browser.get("/api/v1/builds")).status == 200
        assert (await browser.get("/", headers={"Accept": "text/html"})).status == 200
        roles = RoleRules(note=("user:somebody else",))
        assert world.site.config.login is not None
        login = msgspec.structs.replace(world.site.config.login, roles=roles)
        world.site.config = msgspec.structs.replace(world.site.config, login=login)
        stranger = await world.logged_in("bo")
        assert (await stranger.get("/api/v1/builds")).status == 401
        csrf = await csrf_of(stranger, "/account")
        assert (await send_form(stranger, "/logout", {"csrf": csrf})).status == 303


async def test_a_proxys_header_counts_from_its_own_address_alone(world: World) -> None:
    build = await world.build()
    named = {"X-Forwarded-User": "ana", "X-Forwarded-Groups": "all, maintainers"}
    for proxies, is_believed in ((("192.0.2.7",), False), (("127.0.0.0/8", "::1"), True)):
        login = LoginConfig(
            provider="proxy",
            roles=ROLES,
            user_header="X-Forwarded-User",
            groups_header="X-Forwarded-Groups",
            proxies=proxies,
        )
        world.site.config = msgspec.structs.replace(world.site.config, login=login)
        browser = await world.browser()
        page = await (await browser.get(f"/builds/{build}", headers=named)).text()
        assert (f'action="/builds/{build}/cancel"' in page) is is_believed
        assert ('<a href="/account">ana</a>' in page) is is_believed
    # a proxy that adds its own header to the browser's vouches for neither
    twice = [("X-Forwarded-User", "ana"), ("X-Forwarded-User", "bo")]
    page = await (await browser.get("/account", headers=twice)).text()
    assert "Nobody is logged in" in page
