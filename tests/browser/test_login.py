"""A person logs in at a provider, approves a build, writes a note, and logs out."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import expect

from client.api.routes import Site
from client.login.people import People
from client.login.providers import CALLBACK_PATH
from client.serve import make_application
from client.storage.build_request import BuildRequest
from common.configuration.login_config import RoleRules
from scripts.free_ports import free_ports
from tests.browser.axe import faults_of
from tests.browser.conftest import VisitorMaker
from tests.ci.builders import COMMIT
from tests.client.gateway.test_gateway import record_of, until
from tests.client.login.identity_provider import IdentityProvider, started
from tests.client.login.test_providers import login_config
from tests.client.running_network import REPOSITORY, Network, Running, gateway_on
from tests.client.site import site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROLES = RoleRules(approve=("group:maintainers",), cancel=("any",), note=("any",))


@pytest_asyncio.fixture(loop_scope="session")
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that is an operator, whose nodes take builds and never end them."""
    async with gateway_on(Network(gateway_roles=("gateway", "operator")), tmp_path) as running:
        for node in running.network.nodes.values():
            node.finds = lambda build: None
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def served(
    running: Running, tmp_path: Path
) -> AsyncIterator[tuple[Site, str, IdentityProvider]]:
    """The site, where it is served, and its provider."""
    (port,) = free_ports(1)
    origin = f"http://127.0.0.1:{port}"
    provider = IdentityProvider(f"{origin}{CALLBACK_PATH}")
    provider_server = await started(provider)
    site = site_of(running, tmp_path)
    login = login_config(provider, tmp_path, roles=ROLES)
    site.config = msgspec.structs.replace(site.config, login=login, public_url=origin)
    people = People(site.config, running.database, draw=os.urandom)
    async with TestServer(make_application(site, None, people), port=port):
        yield site, origin, provider
    await provider_server.close()


async def test_a_person_logs_in_approves_a_build_writes_a_note_and_logs_out(
    running: Running, served: tuple[Site, str, IdentityProvider], visit: VisitorMaker
) -> None:
    site, origin, provider = served
    wanted = BuildRequest(REPOSITORY, "stranger", COMMIT, needs_approval=True)
    build = (await running.gateway.order(wanted)).build
    await until(lambda: record_of(running, build).opened_at is not None)
    # axe-core is a script that our policy would refuse
    visitor = await visit(origin, bypass_csp=True)
    visitor.allowed.add(provider.issuer)
    page = await visitor.open(f"/builds/{build.hex()}")
    await expect(page.locator("main").get_by_role("button")).to_have_count(0)
    await page.get_by_role("link", name="Log in").click()
    await page.get_by_role("button", name="ana").click()
    await expect(page.get_by_role("link", name="ana")).to_be_visible()
    assert page.url == f"{origin}/builds/{build.hex()}"
    await page.get_by_role("button", name="Approve").click()
    await expect(page.locator("main")).to_contain_text("Approval accepted")
    await page.get_by_role("textbox", name="Note").fill("Known flaky:\nsee issue 7.")
    await page.get_by_role("button", name="Add note").click()
    await expect(page.locator("main")).to_contain_text("Note accepted")
    await until(lambda: not running.gateway.waiting_notes(build))
    await site.network.look(60)
    await page.reload()
    people = page.locator("#people")
    await expect(people).to_contain_text("Approved by ana, says gateway")
    await expect(people).to_contain_text("see issue 7.")
    assert await faults_of(page) == []
    for path in ("/audit", "/account"):
        await page.goto(origin + path)
        assert await faults_of(page) == []
    await page.get_by_role("button", name="Log out here").click()
    await expect(page.get_by_role("link", name="Log in")).to_be_visible()
    assert {cookie["name"] for cookie in await visitor.context.cookies()} == {"pbft_ci_form"}
