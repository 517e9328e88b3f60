"""build.js and log_pane.js: a build's logs in their columns, live; two of them compared."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Locator, Page, expect

from ci.operations import Outcome
from client.api import log_routes
from client.dashboard import build_logs
from client.serve import make_application
from tests.browser.conftest import VisitorMaker
from tests.ci.builders import finding
from tests.client.dashboard.test_build_page import finds, with_log
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Network, Running, gateway_on
from tests.client.site import site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST, OTHERS = "replica-0", ("replica-1", "replica-2", "replica-3")
HIDE = """is_hidden => {
    Object.defineProperty(document, 'hidden', {configurable: true, get: () => is_hidden});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


class Served:
    """A gateway whose replicas build nothing until a test says what they find."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.build = b""
        self._server: TestServer | None = None

    async def start(self, folder: Path) -> None:
        """Serve, and have one build open."""
        self._server = TestServer(make_application(site_of(self.running, folder)))
        await self._server.start_server()
        nobody_finishes(self.running.network)
        self.build = await self.running.gateway.submit(REPOSITORY, "live", "c" * 40)
        await until(lambda: record_of(self.running, self.build).opened_at is not None)

    async def stop(self) -> None:
        """Be gone."""
        if self._server is not None:
            await self._server.close()

    @property
    def origin(self) -> str:
        """Where it is."""
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    @property
    def path(self) -> str:
        """Of the build's page."""
        return f"/builds/{self.build.hex()}"

    def write(self, replica: str, text: str) -> None:
        """That replica's build writes."""
        node = self.running.network.nodes[replica]
        node.growing.add(self.build)
        node.logs[self.build] = node.logs.get(self.build, b"") + text.encode()

    async def end(self, *red: str) -> None:
        """All find it passed, and those failed, with the logs as they are."""
        for name, node in self.running.network.nodes.items():
            node.growing.discard(self.build)
            log = node.logs.get(self.build, b"")
            outcome = (Outcome.FAILED, 1) if name in red else (Outcome.PASSED, 0)
            node.finds = finds(with_log(finding(*outcome), log), log)
        await until(lambda: record_of(self.running, self.build).collected)


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    # on a busy machine too the page comes with the logs that there are
    monkeypatch.setattr(build_logs, "TAIL_TIMEOUT_SECONDS", 60.0)
    async with gateway_on(Network(), tmp_path) as running:
        served = Served(running)
        await served.start(tmp_path)
        yield served
        await served.stop()


def log_of(page: Page, replica: str) -> Locator:
    return page.locator(f"pre[data-replica={replica}]")


async def from_end(log: Locator) -> float:
    """How far a log is from being scrolled to its end, in pixels."""
    distance = await log.evaluate("log => log.scrollHeight - log.clientHeight - log.scrollTop")
    return float(distance)


async def test_all_logs_come_live_by_one_stream(served: Served, visit: VisitorMaker) -> None:
    served.write(FIRST, "before\n")
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    await expect(log_of(page, FIRST)).to_have_text("before\n")
    for name in (FIRST, *OTHERS):
        served.write(name, f"\x1b[31mof {name}\x1b[0m\n")
    for name in OTHERS:
        await expect(log_of(page, name)).to_have_text(f"of {name}\n")
        await expect(log_of(page, name).locator(".sgr-red")).to_have_text(f"of {name}")
    await expect(log_of(page, FIRST)).to_have_text(f"before\nof {FIRST}\n")
    await served.end()
    await expect(page.locator("article", has_text="agrees")).to_have_count(4)
    await expect(page.locator(".tail-state", has_text="Ended: the log is complete")).to_have_count(
        4
    )
    await expect(log_of(page, FIRST)).to_have_text(f"before\nof {FIRST}\n")
    streams = [request.url for request in visitor.requests if "/events" in request.url]
    assert sum("/logs/events" in url for url in streams) == 1, streams
    assert len(streams) <= 2, "the other one says that the page has changed"


async def test_a_reader_who_went_up_is_left_there(served: Served, visit: VisitorMaker) -> None:
    served.write(FIRST, "".join(f"line {number}\n" for number in range(50)))
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    log = log_of(page, FIRST)
    await expect(log).to_contain_text("line 49")
    assert await from_end(log) < 2, "it begins at the end"
    served.write(FIRST, "and more\n" * 9)
    await expect(log).to_contain_text("and more")
    await log.scroll_into_view_if_needed()
    await expect(log.locator("span").last).to_be_in_viewport()
    assert await from_end(log) < 2, "and stays there"
    await log.evaluate("log => log.scrollTop = 7")
    served.write(FIRST, "and more yet\n" * 9)
    await expect(log).to_contain_text("more yet")
    assert await log.evaluate("log => log.scrollTop") == 7


async def test_a_page_that_was_hidden_goes_on_from_where_it_was(
    served: Served, visit: VisitorMaker
) -> None:
    served.write(FIRST, "one\n")
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    served.write(FIRST, "two\n")
    await expect(log_of(page, FIRST)).to_have_text("one\ntwo\n")
    await page.evaluate(HIDE, True)
    served.write(FIRST, "three\n")
    await page.evaluate(HIDE, False)
    await expect(log_of(page, FIRST)).to_have_text("one\ntwo\nthree\n")
    streams = [request.url for request in visitor.requests if "/logs/events" in request.url]
    assert len(streams) == 2, streams
    assert "run1%3A8" in streams[1], "it goes on from where it was"


async def test_where_too_many_follow_a_page_tries_again(
    served: Served, visit: VisitorMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_routes, "FOLLOWERS_MAX", 3)
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    await expect(page.locator(".tail-state", has_text="trying again")).to_have_count(4)
    monkeypatch.setattr(log_routes, "FOLLOWERS_MAX", 4)
    served.write(FIRST, "now\n")
    await expect(log_of(page, FIRST)).to_have_text("now\n")
    # each refusal is shown on the console; nothing else is
    assert visitor.faults
    assert all("503" in fault for fault in visitor.faults)
    visitor.faults.clear()


async def test_what_a_log_holds_stays_text_as_it_comes(served: Served, visit: VisitorMaker) -> None:
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    hostile = "<img src=x onerror=alert(1)>\x1b]0;title\x07<script>alert(2)</script>"
    served.write(FIRST, hostile + "\x1b[2J" * 1000 + "\x00end")
    await expect(log_of(page, FIRST)).to_have_text(
        "<img src=x onerror=alert(1)><script>alert(2)</script>end"
    )
    await expect(log_of(page, FIRST).locator(":not(span)")).to_have_count(0)


async def test_the_command_is_copied(served: Served, visit: VisitorMaker) -> None:
    await served.end()
    visitor = await visit(served.origin, permissions=["clipboard-read", "clipboard-write"])
    page = await visitor.open(served.path)
    await page.get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert "python -m client verify verdict.intoto.json --cluster cluster.yml" in copied


async def test_two_logs_are_chosen_and_the_first_difference_is_in_sight(
    served: Served, visit: VisitorMaker
) -> None:
    same = "".join(f"line {number}\n" for number in range(100))
    served.write(FIRST, same + "red\n")
    for name in OTHERS:
        served.write(name, f"{same}green\n" + "x" * 2000 * (name == OTHERS[-1]) + same * 9)
    await served.end(FIRST)
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    first = page.locator("#first-difference")
    await expect(first).to_contain_text("green")
    await expect(first).to_contain_text("red")
    await page.get_by_label("Left").select_option(OTHERS[0])
    await page.get_by_label("Right").select_option(OTHERS[2])
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator("h1")).to_have_text(f"Logs of {OTHERS[0]} and {OTHERS[2]}")
    await expect(first).to_be_in_viewport()
    await expect(first).to_contain_text("102")
    await expect(page.get_by_label("Right")).to_have_value(OTHERS[2])


async def test_a_form_never_becomes_another_one_under_ones_hands(
    served: Served, visit: VisitorMaker
) -> None:
    """Whoever is about to cancel must not find that Enter builds it again."""
    visitor = await visit(served.origin)
    page = await visitor.open(served.path)
    await page.get_by_label("Reason").press_sequentially("not wan")
    await served.end()
    await expect(page.get_by_role("button", name="Rebuild")).to_be_visible()
    await expect(page.get_by_label("Reason")).to_have_count(0)
    await page.keyboard.type("ted")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Rebuild")).to_be_visible()
    assert served.running.archive.rebuilds(served.build) == []
