"""Where changes take one of the API's tokens, a person types it into the form."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from client.serve import make_application
from tests.browser.conftest import VisitorMaker
from tests.client.api.test_change_routes import token_file
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Network, Running, gateway_on
from tests.client.site import site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway whose nodes take builds and never end them."""
    async with gateway_on(Network(), tmp_path) as running:
        for node in running.network.nodes.values():
            node.finds = lambda build: None
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def origin(running: Running, tmp_path: Path) -> AsyncIterator[str]:
    """Where it is served."""
    site = site_of(running, tmp_path)
    site.config = msgspec.structs.replace(site.config, api_token_file=token_file(tmp_path))
    async with TestServer(make_application(site)) as server:
        yield str(server.make_url("")).rstrip("/")


async def cancel(page: Page, token: str) -> None:
    form = page.locator("form[action$='/cancel']")
    field = form.get_by_label("API token")
    await expect(field).to_have_attribute("type", "password")
    await field.fill(token)
    await form.get_by_role("button").click()


async def test_a_wrong_token_changes_nothing_and_the_right_one_does(
    running: Running, origin: str, visit: VisitorMaker
) -> None:
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    visitor = await visit(origin)
    page = await visitor.open(f"/builds/{build.hex()}")
    await cancel(page, "no-such-token")
    await expect(page.locator("main")).to_contain_text("nothing was changed")
    # the browser's own word about the status, and nothing else
    await until(lambda: visitor.faults != [])
    (fault,) = visitor.faults
    assert "401 (Unauthorized)" in fault
    visitor.faults.clear()
    assert "no-such-token" not in page.url + await page.content()
    assert record_of(running, build).withdrawn is None
    await page.go_back()
    await cancel(page, "new-token")
    await expect(page.locator("main")).to_contain_text("no longer requests this build")
    assert record_of(running, build).withdrawn is not None
    assert "new-token" not in page.url + await page.content()
