"""The watch over the pages sees what it is there for, and so does axe-core."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser

from tests.browser.axe import faults_of
from tests.browser.chromium import Visitor
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLICY = "default-src 'none'; script-src 'nonce-1'; connect-src http://127.0.0.1:9"


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[TestServer]:
    """Serves as a page whatever the query says is to be in it."""

    async def show(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY}
        body = f"<!DOCTYPE html><title>t</title>{request.query['body']}"
        return web.Response(text=body, content_type="text/html", headers=headers)

    async def show_icon(request: web.Request) -> web.Response:
        return web.Response(status=204)

    application = web.Application()
    application.router.add_get("/", show)
    application.router.add_get("/favicon.ico", show_icon)
    started = TestServer(application)
    await started.start_server()
    yield started
    await started.close()


async def faults_with(browser: Browser, server: TestServer, body: str, wanted: str) -> None:
    """Assert that a page with this in it is a fault that names what is wanted."""
    visitor = Visitor(await browser.new_context(), str(server.make_url("")).rstrip("/"))
    page = await visitor.open("/?body=x")
    assert visitor.faults == []
    await page.evaluate("body => location.search = '?body=' + encodeURIComponent(body)", body)
    await wait_until(
        lambda: any(wanted in fault for fault in visitor.faults),
        f"{wanted} among {visitor.faults}",
        60,
    )
    with pytest.raises(AssertionError, match=wanted):
        await visitor.leave()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("<script nonce=1>console.error('an error')</script>", "an error"),
        ("<script nonce=1>throw Error('thrown')</script>", "thrown"),
        ("<script nonce=1>alert('a dialog')</script>", "a dialog"),
        ("<script nonce=1>fetch('http://127.0.0.1:9/')</script>", "a request to"),
        ("<script>not_ours()</script>", "Content Security Policy"),
        ("<p style='color: red'>x</p>", "Content Security Policy"),
    ],
)
async def test_what_no_page_may_do_is_seen(
    browser: Browser, server: TestServer, body: str, wanted: str
) -> None:
    await faults_with(browser, server, body, wanted)


async def test_a_window_that_nobody_asked_for_is_seen(browser: Browser, server: TestServer) -> None:
    visitor = Visitor(await browser.new_context(), str(server.make_url("")).rstrip("/"))
    page = await visitor.open("/?body=<a href='/?body=x' target=_blank>x</a>")
    async with visitor.context.expect_page():
        await page.locator("a").click()
    with pytest.raises(AssertionError, match="windows"):
        await visitor.leave()


async def test_axe_finds_faults(browser: Browser, server: TestServer) -> None:
    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    await page.goto(str(server.make_url("/").with_query(body="<p style='color:#ccc'>pale</p>")))
    assert any("contrast" in fault for fault in await faults_of(page))
    await context.close()
