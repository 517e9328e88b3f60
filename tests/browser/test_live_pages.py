"""live.js and times.js: a page is brought up to the server's, and nothing else of it changes."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from client.serve import make_application
from client.storage.build_request import BuildRequest
from client.views import formats
from client.views.build_view import iso_time
from scripts.free_ports import free_ports
from tests.browser.conftest import VisitorMaker
from tests.client.gateway.test_gateway import until
from tests.client.running_network import REPOSITORY, Network, Running, gateway_on
from tests.client.site import site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

STATE = "#live-state"


class Served:
    """A gateway without builds, and its server, which can go away and come back."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running = running
        self._folder = folder
        (self._port,) = free_ports(1)
        self.origin = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Serve, at the same address as before."""
        application = make_application(site_of(self.running, self._folder))
        self._server = TestServer(application, port=self._port)
        await self._server.start_server()

    async def stop(self) -> None:
        """Be gone."""
        await self._server.close()

    def add(self, branch: str) -> str:
        """A build that the network has not taken yet; its id."""
        build = branch.encode().hex().ljust(64, "0")
        wanted = BuildRequest(REPOSITORY, branch, "c" * 40)
        with self.running.database.transaction():
            self.running.archive.add(bytes.fromhex(build), wanted, time.time())
        return build

    def note(self, build: str, detail: str) -> None:
        """Say what that build waits for."""
        with self.running.database.transaction():
            self.running.archive.note_detail(bytes.fromhex(build), detail)


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with gateway_on(Network(), tmp_path) as running:
        served = Served(running, tmp_path)
        await served.start()
        yield served
        await served.stop()


async def names(page: Page) -> list[str]:
    """The branches of the rows, in their order."""
    texts = await page.locator("tbody tr .name").all_inner_texts()
    return [text.partition(",")[0].strip() for text in texts]


async def test_rows_come_change_and_go_under_ones_hands(
    served: Served, visit: VisitorMaker
) -> None:
    first, second = served.add("first"), served.add("second")
    page = await (await visit(served.origin)).open("/")
    await expect(page.locator(STATE)).to_have_text("live")
    await page.fill("#branch", "half a na")
    await page.focus(f"a[href='/builds/{first}']")
    await page.evaluate("window.row = document.activeElement.closest('tr')")
    await page.evaluate(
        "getSelection().selectAllChildren(document.querySelector('tbody tr:last-child .under'))"
    )
    await page.focus(f"a[href='/builds/{first}']")
    selected = await page.evaluate("String(getSelection())")
    served.add("third")
    await expect(page.locator("tbody tr")).to_have_count(3)
    served.note(second, "waits for the <git> server")
    await expect(page.locator(f"tr[data-key='{second}']")).to_contain_text("for the <git> server")
    with served.running.database.transaction():
        served.running.archive.remove(bytes.fromhex(second))
    await expect(page.locator("tbody tr")).to_have_count(2)
    assert await names(page) == ["third", "first"]
    kept = "document.activeElement.closest('tr') === window.row && window.row.isConnected"
    assert await page.evaluate(kept), "the focus is where it was, and the row is the same"
    assert await page.evaluate("String(getSelection())") == selected != ""
    assert await page.input_value("#branch") == "half a na"


async def test_a_page_that_could_not_be_fetched_is_fetched_again(
    served: Served, visit: VisitorMaker
) -> None:
    """Nothing else may happen for long: whoever looks must not take an old page for a live one."""
    page = await (await visit(served.origin)).open("/")
    await expect(page.locator(STATE)).to_have_text("live")
    await page.evaluate(
        """() => {
          const fetch_really = window.fetch;
          window.is_refused = true;
          window.fetch = (...asked) => window.is_refused
            ? Promise.resolve(new Response("", {status: 503}))
            : fetch_really(...asked);
        }"""
    )
    served.add("first")
    # as long as it takes for a busy machine to look
    await expect(page.locator(STATE)).to_contain_text("not connected")
    await page.evaluate("window.is_refused = false")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator(STATE)).to_have_text("live")


async def test_what_a_visitor_unfolded_and_what_scripts_fill_stays(
    served: Served, visit: VisitorMaker
) -> None:
    """Pages have such parts; here a page that has none is given them, as the server sends it."""
    build = served.add("first")
    visitor = await visit(served.origin)

    async def with_parts(route: object) -> None:
        answer = await route.fetch()  # type: ignore[attr-defined]
        parts = (
            '<details id="more"><summary>More</summary></details><div data-keep id="kept"></div>'
            '<p>one</p><form action="/somewhere" method="post"><input name="reason"></form>'
            if is_first
            else '<details id="more"><summary>Much more</summary></details>'
            '<div data-keep id="kept"></div><form action="/somewhere" method="post">'
            '<input name="reason"></form>'
        )
        body = (await answer.text()).replace(
            '<div id="builds" data-live>', f'<div id="builds" data-live>{parts}'
        )
        await route.fulfill(response=answer, body=body)  # type: ignore[attr-defined]

    is_first = True
    await visitor.context.route(served.origin + "/", with_parts)
    page = await visitor.open("/")
    await expect(page.locator(STATE)).to_have_text("live")
    await page.click("summary")
    await page.evaluate("document.getElementById('kept').textContent = 'by a script'")
    await page.fill("[name=reason]", "because")
    is_first = False
    served.note(build, "something new")
    await expect(page.locator("summary")).to_have_text("Much more")
    assert await page.locator("#more").get_attribute("open") is not None
    assert await page.inner_text("#kept") == "by a script"
    assert await page.input_value("[name=reason]") == "because"
    assert await page.evaluate("document.activeElement.name") == "reason"
    await expect(page.get_by_text("one", exact=True)).to_have_count(0)


async def test_a_lost_gateway_is_told_and_found_again(served: Served, visit: VisitorMaker) -> None:
    served.add("first")
    visitor = await visit(served.origin)
    page = await visitor.open("/")
    await expect(page.locator(STATE)).to_have_text("live")
    await served.stop()
    await expect(page.locator(STATE)).to_contain_text("not connected, as of ")
    served.add("second")
    await served.start()
    await expect(page.locator(STATE)).to_have_text("live")
    await expect(page.locator("tbody tr")).to_have_count(2)
    # the console says which connections were refused, and nothing else
    assert all("ERR_" in fault and "/events" in fault for fault in visitor.faults)
    visitor.faults.clear()


async def test_a_page_that_nobody_sees_keeps_no_connection(
    served: Served, visit: VisitorMaker
) -> None:
    visitor = await visit(served.origin)
    page = await visitor.open("/")
    await expect(page.locator(STATE)).to_have_text("live")

    async def become(hidden: str) -> None:
        await page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )

    def streams() -> int:
        return sum(request.resource_type == "eventsource" for request in visitor.requests)

    assert streams() == 1
    await become("true")
    served.add("first")
    await become("false")
    await until(lambda: streams() == 2)
    await expect(page.locator("tbody tr")).to_have_count(1)


async def test_times_in_the_page_are_told_as_the_server_tells_them(
    served: Served, visit: VisitorMaker
) -> None:
    served.add("first")
    page = await (await visit(served.origin)).open("/")
    now = time.time()
    # in the middle of what each is rounded to, so that some seconds more do not matter
    ages = [20, 90, 1830, 3600 * 1.5, 3600 * 23.5, 86400 * 1.5, 86400 * 40.5]
    told = await page.evaluate(
        """(times) => {
          const made = times.map((iso) => {
            const element = document.body.appendChild(document.createElement("time"));
            element.dateTime = iso;
            element.dataset.ago = "";
            return element;
          });
          document.dispatchEvent(new Event("renewed"));
          return made.map((element) => element.textContent);
        }""",
        [iso_time(now - age) for age in ages],
    )
    assert told == [formats.ago(str(iso_time(now - age)), now) for age in ages]
    spans = await page.evaluate(
        """(times) => {
          const made = times.map((iso) => {
            const element = document.body.appendChild(document.createElement("span"));
            element.dataset.since = iso;
            return element;
          });
          document.dispatchEvent(new Event("renewed"));
          return made.map((element) => element.textContent);
        }""",
        [iso_time(now - 3600 * 2 - 30), iso_time(now + 60)],
    )
    assert spans == ["2 h 00 min", "0 s"]
