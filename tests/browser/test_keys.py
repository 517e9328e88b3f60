"""Keys, colours that are remembered, and paper."""

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import VisitorMaker
from tests.browser.site import Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

DARK_PAPER, LIGHT_PAPER = "rgb(20, 23, 26)", "rgb(251, 251, 250)"


async def paper(page: Page) -> str:
    """The colour behind everything."""
    colour: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


async def focused_row(page: Page) -> int:
    """Which row of the list has the focus; -1: none."""
    index: int = await page.evaluate(
        "[...document.querySelectorAll('tbody tr')].indexOf(document.activeElement.closest('tr'))"
    )
    return index


async def test_keys_lead_through_a_list_and_stay_out_of_fields(
    site: Site, visit: VisitorMaker
) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    keys = page.keyboard
    await keys.press("j")
    await keys.press("j")
    await keys.press("k")
    await keys.press("j")
    assert await focused_row(page) == 1
    await keys.press("Control+k")
    assert await focused_row(page) == 1
    await keys.press("/")
    field = page.get_by_label("Repository")
    await expect(field).to_be_focused()
    await keys.type("j/k?")
    await expect(field).to_have_value("j/k?")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await field.blur()
    await keys.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    await expect(dialog).to_be_visible()
    await keys.press("j")
    await expect(dialog.get_by_role("button", name="Close")).to_be_visible()
    # a letter can be in the way of speech or of somebody's own keys: they can be switched off
    await dialog.get_by_role("checkbox").uncheck()
    await keys.press("Escape")
    await expect(dialog).to_be_hidden()
    await page.reload()
    await keys.press("j")
    assert await focused_row(page) == -1
    await page.get_by_role("button", name="Keys").click()
    await dialog.get_by_role("checkbox").check()
    await dialog.get_by_role("button", name="Close").click()
    await page.locator("main").focus()
    await keys.press("j")
    address = await page.locator("tbody tr a").first.get_attribute("href")
    await keys.press("Enter")
    await page.wait_for_url(f"**{address}")
    # a page without a search leads to that of builds
    await page.goto(site.origin + "/replicas")
    await keys.press("/")
    await expect(page.get_by_label("Repository")).to_be_focused()


async def test_chosen_colours_are_there_before_anything_is_painted(
    site: Site, visit: VisitorMaker
) -> None:
    visitor = await visit(site.origin, color_scheme="light")
    page = await visitor.open("/")
    button = page.get_by_role("button", name="Dark colours")
    await expect(button).to_have_attribute("aria-pressed", "false")
    assert await paper(page) == LIGHT_PAPER
    await button.click()
    assert await paper(page) == DARK_PAPER
    # the other scripts have not run yet when the first frame can be painted
    await page.route("**/static/keys.js", lambda route: route.abort())
    await page.route("**/static/live.js", lambda route: route.abort())
    await page.goto(site.origin + "/branches")
    assert await paper(page) == DARK_PAPER
    visitor.faults.clear()
    await page.unroute_all()
    await page.reload()
    await expect(button).to_have_attribute("aria-pressed", "true")
    # on paper it is light all the same, without what cannot be used there
    await page.emulate_media(media="print")
    await expect(page.locator("header.site")).to_be_hidden()
    assert (
        await page.evaluate("getComputedStyle(document.documentElement).colorScheme")
    ) == "light"
    await page.emulate_media(media="screen")
    # who chooses what the system says follows the system from then on
    await button.click()
    assert await paper(page) == LIGHT_PAPER
    await page.emulate_media(color_scheme="dark")
    await expect(button).to_have_attribute("aria-pressed", "true")
    assert await paper(page) == DARK_PAPER
