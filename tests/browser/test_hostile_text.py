"""Names and logs that are written to do harm to whoever looks at them."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import VisitorMaker
from tests.browser.site import HOSTILE_BRANCH, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

OUR_SCRIPTS = "script[src^='/static/']"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/builds/{build}",
        "/builds/{build}/log/node1",
        "/ledger",
        "/builds/{build}/compare?left=node0&right=node1",
    ],
)
async def test_hostile_text_stays_text(site: Site, visit: VisitorMaker, path: str) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open(path.format(build=site.builds[HOSTILE_BRANCH]))
    await expect(page.get_by_text(HOSTILE_BRANCH).filter(visible=True).first).to_be_visible()
    harm = page.locator(f"script:not({OUR_SCRIPTS}), img, iframe, object, embed, base")
    await expect(harm).to_have_count(0)
    assert await page.locator("a[href^='javascript:']").count() == 0


async def test_a_hostile_log_is_shown_whole_and_as_text(site: Site, visit: VisitorMaker) -> None:
    """Tags and a terminal's commands are letters, or nothing; what comes after them is there."""
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{site.builds[HOSTILE_BRANCH]}/log/node1")
    title = await page.title()
    await expect(page.locator("#log-state")).to_contain_text("Lines 1 to")
    text = await page.locator("#log").inner_text()
    for part in (
        "<script>alert(3)</script>",
        "<iframe",
        "after the questions",
        "coloured",
        "the end",
    ):
        assert part in text
    assert "xxx" * 1000 in text
    assert not {"\x1b", "\x07", "\x00", "\x08"} & set(text)
    assert await page.title() == title
    assert HOSTILE_BRANCH in title
