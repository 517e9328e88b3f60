"""The page of a log: all of it is there, with numbers, whether it is finished or still grows."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from playwright.async_api import expect

from client.serve import make_application
from tests.browser.conftest import VisitorMaker
from tests.client.api.test_change_routes import open_build
from tests.client.dashboard.test_build_page import finds
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.running_network import Network, Running, gateway_on, passed
from tests.client.site import Client, decided_build, site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

LINES = 9718
LOG = "".join(f"{i} ok, with some more words, so that all of it is about a megabyte {'.' * 30}\n"
              for i in range(1, LINES + 1))  # fmt: skip


class Served:
    """A gateway on a network whose replicas write what a test says."""

    def __init__(self, running: Running, client: Client) -> None:
        self.running = running
        self.client = client
        self.origin = str(client.make_url("")).rstrip("/")


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with gateway_on(Network(), tmp_path) as running:
        client: Client = TestClient(TestServer(make_application(site_of(running, tmp_path))))
        await client.start_server()
        yield Served(running, client)
        await client.close()


@pytest.mark.parametrize("has_scripts", [True, False])
async def test_a_finished_log_of_a_megabyte_is_whole(
    served: Served, visit: VisitorMaker, has_scripts: bool
) -> None:
    assert len(LOG) > 900_000
    for node in served.running.network.nodes.values():
        node.finds = finds(*passed(LOG))
    build = await decided_build(served.running, served.client)
    visitor = await visit(served.origin, java_script_enabled=has_scripts)
    page = await visitor.open(f"/builds/{build}/log/replica-1?line=9000#L9000")
    await expect(page.locator("#log-state")).to_have_text(f"Lines 1 to {LINES} of {LINES}")
    await expect(page.locator("#log a")).to_have_count(LINES)
    await expect(page.locator("#L9000")).to_be_in_viewport()
    if has_scripts:
        shown = await page.evaluate(
            "() => { for (const a of document.querySelectorAll('#log a')) a.remove();"
            " return document.getElementById('log').textContent; }"
        )
        assert shown == LOG


async def test_a_growing_log_is_shown_whole_up_to_a_bound_and_says_what_went(
    served: Served, visit: VisitorMaker
) -> None:
    nobody_finishes(served.running.network)
    build = await open_build(served.running, served.client)
    node = served.running.network.nodes["replica-1"]
    key = bytes.fromhex(build)
    node.growing.add(key)
    node.logs[key] = LOG.encode()
    page = await (await visit(served.origin)).open(f"/builds/{build}/log/replica-1")
    log = page.locator("#log")
    await expect(log).to_contain_text(f"{LINES} ok")
    text = await log.text_content()
    assert text == LOG
    node.logs[key] += b"another line\n" * 12_000 + b"the newest line\n"
    await expect(log).to_contain_text("the newest line")
    text = await log.text_content() or ""
    told = re.match(r"\[(\d+) lines before this one are not shown while the log grows\]\n", text)
    assert told is not None
    kept = text[told.end() :]
    assert int(told[1]) + kept.count("\n") == LINES + 12_001
    assert kept.startswith(f"{int(told[1]) + 1} ok")
