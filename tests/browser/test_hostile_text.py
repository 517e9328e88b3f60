"""Names and logs that are written to do harm to whoever looks at them."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import VisitorMaker
from tests.browser.site import HOSTILE_BRANCH, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

OUR_SCRIPTS = "script[src^='/static/']"


@pytest.mark.parametrize("path", ["/", "/builds/{build}", "/builds/{build}/log/node1"])
async def test_hostile_text_stays_text(site: Site, visit: VisitorMaker, path: str) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open(path.format(build=site.builds[HOSTILE_BRANCH]))
    await expect(page.get_by_text(HOSTILE_BRANCH).filter(visible=True).first).to_be_visible()
    harm = page.locator(f"script:not({OUR_SCRIPTS}), img, iframe, object, embed, base")
    await expect(harm).to_have_count(0)
    assert await page.locator("a[href^='javascript:']").count() == 0
