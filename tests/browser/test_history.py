"""A gateway with ten thousand builds behind it: its pages stay small, and people find their way."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import expect

from client.serve import make_application
from client.storage.archive import ReplyRecord
from client.storage.build_request import BuildRequest
from tests.browser.conftest import VisitorMaker
from tests.ci.builders import COMMIT, FAILED, PASSED
from tests.client.running_network import REPOSITORY, Network, Running, gateway_on
from tests.client.site import site_of
from tests.client.views.test_build_view import decided

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUILDS = 10_000
FIRST_PAGE_BYTES_MAX = 100_000
STARTED_AT = 1_700_000_000.0


def fill(running: Running) -> None:
    """An archive of BUILDS decided builds, every third of which failed."""
    green, red = decided([PASSED] * 4), decided([FAILED, FAILED, PASSED, FAILED])
    with running.database.transaction():
        for number in range(BUILDS):
            _, _, statement, ballots = red if number % 3 == 0 else green
            build, at = hashlib.sha256(b"%d" % number).digest(), STARTED_AT + 60 * number
            wanted = BuildRequest(REPOSITORY, f"branch-{number % 7}", COMMIT)
            running.archive.add(build, wanted, at)
            running.archive.note_opened(build, at)
            running.archive.note_decided(build, statement, at + 5)
            for ballot in ballots:
                running.archive.put_ballot(build, ballot.replica, ballot.signed)
                running.archive.put_reply(build, ReplyRecord(ballot.replica, True, bytes(64)))
            running.archive.note_collected(build)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def origin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where the gateway with the long history is served."""
    folder: Path = tmp_path_factory.mktemp("history")
    async with gateway_on(Network(), folder) as running:
        fill(running)
        async with TestServer(make_application(site_of(running, folder))) as server:
            yield str(server.make_url("")).rstrip("/")


async def test_the_first_page_is_small(origin: str, visit: VisitorMaker) -> None:
    """Everything that it takes, with its scripts and styles, as it comes over the wire."""
    visitor = await visit(origin)
    page = await visitor.open("/")
    await expect(page.locator("tbody tr").first).to_be_visible()
    total = 0
    for request in visitor.requests:
        # followed for as long as the page is open, and of a few bytes
        if request.resource_type != "eventsource":
            sizes = await request.sizes()
            total += sizes["responseBodySize"] + sizes["responseHeadersSize"]
    assert 1000 < total < FIRST_PAGE_BYTES_MAX


async def test_older_builds_are_a_page_away(origin: str, visit: VisitorMaker) -> None:
    visitor = await visit(origin)
    page = await visitor.open("/")
    newest = await page.locator("tbody a").first.get_attribute("href")
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("tbody a").first).not_to_have_attribute("href", newest or "")
    await page.get_by_role("link", name="Newest builds").click()
    await expect(page.locator("tbody a").first).to_have_attribute("href", newest or "")


async def test_a_branch_is_found_among_all(origin: str, visit: VisitorMaker) -> None:
    visitor = await visit(origin)
    page = await visitor.open("/")
    await page.get_by_label("Branch").fill("branch-4")
    await page.get_by_label("Outcome").select_option("failed")
    await page.get_by_role("button", name="Filter").click()
    await page.wait_for_url("**branch=branch-4**")
    rows = page.locator("tbody tr")
    shown = await rows.count()
    assert shown > 10
    await expect(rows.filter(has_text="branch-4")).to_have_count(shown)
    await expect(rows.filter(has_text="failed")).to_have_count(shown)
