"""A person looks at the messages of a build, as a picture and as a table."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import VisitorMaker
from tests.browser.site import DISSENTER, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]


async def test_the_diagram_of_a_build_under_way_grows_to_its_verdict(
    site: Site, visit: VisitorMaker
) -> None:
    """Nobody loads the page again, and what was unfolded stays so."""
    build = await site.begin("slow")
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{build}")
    await expect(page.locator("h1")).to_contain_text("building")
    await page.get_by_role("link", name="The messages of this build").click()
    picture = page.locator(".picture")
    await expect(picture).to_contain_text("2 equal REPLYs: opened")
    await expect(picture).not_to_contain_text("2 equal REPLYs: decided")
    await page.evaluate("window.before = true")
    await page.locator("summary").click()
    table = page.get_by_role("table")
    await expect(table).to_contain_text("PRE-PREPARE")
    site.let_end(build)
    await expect(picture).to_contain_text("2 equal REPLYs: decided")
    await expect(table).to_contain_text("2 equal REPLYs: decided")
    await expect(table).to_be_visible()
    assert await page.evaluate("window.before === true")


async def test_a_dissent_is_seen_in_the_picture_and_read_in_the_table(
    site: Site, visit: VisitorMaker
) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{site.builds['dissent']}/messages")
    mark = page.locator(".picture text", has_text="dissents: failed 3")
    await expect(mark).to_be_visible()
    await page.locator("summary").click()
    row = page.get_by_role("row").filter(has_text="dissents: failed 3")
    await expect(row).to_contain_text(DISSENTER)


async def test_the_picture_is_scrolled_by_the_keyboard_where_it_is_wider_than_the_screen(
    site: Site, visit: VisitorMaker
) -> None:
    visitor = await visit(site.origin, viewport={"width": 390, "height": 800})
    page = await visitor.open(f"/builds/{site.builds['master']}/messages")
    picture = page.locator(".picture")
    await picture.focus()
    await page.keyboard.press("ArrowRight")
    await expect(picture).to_be_focused()
    await page.wait_for_function("document.querySelector('.picture').scrollLeft > 0")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
