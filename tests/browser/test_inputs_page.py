"""The page of what went into a build. The other pages' site has builds without dependencies."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from client.serve import make_application
from tests.browser.conftest import VisitorMaker
from tests.browser.test_every_page import expect_text, faults_in_all_views
from tests.client.api.test_input_routes import files
from tests.client.network.test_artifact_fetch import built
from tests.client.running_network import Network, gateway_on
from tests.client.site import Client, site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG_NAME = "x" * 180


@pytest_asyncio.fixture(loop_scope="session")
async def page_of_inputs(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """A gateway's origin, and a build whose inputs are others than those of the one before."""
    async with gateway_on(Network(), tmp_path) as running:
        client: Client = TestClient(TestServer(make_application(site_of(running, tmp_path))))
        await client.start_server()
        build = ""
        for packages in (("six-1.16", "gone-1.0"), ("six-1.17", f"{LONG_NAME}-2.0", "<b>-1.1")):
            folder = tmp_path / packages[0]
            folder.mkdir()
            build = await built(running, client, folder, *[files(*packages)] * 4)
        yield str(client.make_url("")).rstrip("/"), build
        await client.close()


@pytest.mark.parametrize("has_scripts", [True, False])
async def test_what_went_in_keeps_nobody_out(
    page_of_inputs: tuple[str, str], visit: VisitorMaker, has_scripts: bool
) -> None:
    origin, build = page_of_inputs
    visitor = await visit(origin, java_script_enabled=has_scripts)
    page = await visitor.open(f"/builds/{build}/inputs")
    for text in ("removed", "changed", LONG_NAME, "<b>"):
        await expect_text(page, text)
    if has_scripts:
        faults = await faults_in_all_views(page)
        assert not faults, "\n".join(faults)
