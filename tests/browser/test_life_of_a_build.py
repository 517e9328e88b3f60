"""A person follows builds in a browser, from the push to the verdict, and changes their course."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import VisitorMaker
from tests.browser.site import DISSENT_LINE, DISSENTER, LIAR, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

REMEMBER = "window.before = true"
REMEMBERED = "window.before === true"
# What moves under a reader's eyes, as browsers count it (Layout Instability, "good" below 0.1).
LAYOUT_SHIFT_MAX = 0.1
ADD_SHIFTS = """() => {
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


async def open_build(visit: VisitorMaker, site: Site, build: str) -> Page:
    """The page of a build; that it is never loaded anew can be asked with REMEMBERED."""
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{build}")
    await page.evaluate(REMEMBER)
    return page


async def test_a_build_is_followed_to_its_verdict(site: Site, visit: VisitorMaker) -> None:
    """Nobody loads the page again, and what its reader does there is not disturbed."""
    build = await site.begin("slow")
    page = await open_build(visit, site, build)
    await expect(page.locator("h1")).to_contain_text("building")
    await page.evaluate(ADD_SHIFTS)
    log = page.get_by_role("link", name="Whole log").first
    await log.focus()
    site.let_end(build)
    await expect(page.locator("h1")).to_contain_text("passed")
    await expect(page.locator("article", has_text="agrees")).to_have_count(4)
    assert await page.evaluate(REMEMBERED)
    await expect(log).to_be_focused()
    assert await page.evaluate("window.shift") < LAYOUT_SHIFT_MAX


async def test_a_new_build_appears_among_the_builds(site: Site, visit: VisitorMaker) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    await page.evaluate(REMEMBER)
    build = await site.begin("master")
    row = page.locator("tr", has=page.locator(f"a[href='/builds/{build}']"))
    await expect(row).to_contain_text("passed")
    assert await page.evaluate(REMEMBERED)


async def test_a_log_is_followed_while_it_is_written(site: Site, visit: VisitorMaker) -> None:
    build = await site.begin("slow")
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{build}/log/node2")
    log = page.locator("#log")
    await expect(log).to_contain_text("waiting")
    await expect(log).not_to_contain_text("opened")
    site.let_end(build)
    await expect(log).to_contain_text("opened")
    await expect(page.locator("#log-state")).to_contain_text("Ended")


async def test_a_build_is_cancelled_by_its_button(site: Site, visit: VisitorMaker) -> None:
    build = await site.begin("slow")
    page = await open_build(visit, site, build)
    await page.get_by_label("Reason").fill("not wanted <b>any more</b>")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_contain_text("cancelled")
    await expect(page.locator("main")).to_contain_text("no longer requests this build")
    await expect(page.locator("main")).to_contain_text("not wanted <b>any more</b>")
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


async def test_a_build_is_built_again_by_its_button(site: Site, visit: VisitorMaker) -> None:
    build = site.builds["broken"]
    page = await open_build(visit, site, build)
    await page.get_by_role("button", name="Rebuild").click()
    await expect(page.get_by_role("link", name=build[:12])).to_be_visible()
    again = re.search(r"/builds/([0-9a-f]{64})", page.url)
    assert again is not None
    assert again[1] != build
    await expect(page.locator("h1")).to_contain_text("failed")
    assert (await site.view(again[1]))["rebuild_of"] == build


async def test_a_dissent_is_found_and_its_first_differing_line_shown(
    site: Site, visit: VisitorMaker
) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    build = site.builds["dissent"]
    row = page.locator("tr", has=page.locator(f"a[href='/builds/{build}']"))
    await expect(row).to_contain_text(f"{DISSENTER} dissents")
    await row.get_by_role("link").first.click()
    first = page.locator("#first-difference")
    await expect(first).to_contain_text("checksum: ok")
    await expect(first).to_contain_text(DISSENT_LINE)
    await expect(first.locator(f"td[data-side={DISSENTER}]")).to_have_text(DISSENT_LINE)


async def test_two_logs_are_compared_by_choice(site: Site, visit: VisitorMaker) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open(f"/builds/{site.builds['dissent']}")
    await page.locator("select[name=left]").select_option(DISSENTER)
    await page.locator("select[name=right]").select_option("node0")
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator("h1")).to_contain_text(f"Logs of {DISSENTER} and node0")
    first = page.locator("#first-difference")
    await expect(first).to_be_in_viewport()
    await expect(first.locator(f"td[data-side={DISSENTER}]")).to_have_text(DISSENT_LINE)
    await page.locator("select[name=left]").select_option("node1")
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator("h1")).to_contain_text("Logs of node1 and node0")
    await expect(page.locator("main")).to_contain_text("Both logs are the same")


async def test_a_replica_is_made_to_lie_and_is_seen_to(site: Site, visit: VisitorMaker) -> None:
    """The switch of the lab, the next build, and what everybody sees of it."""
    visitor = await visit(site.origin)
    page = await visitor.open("/replicas")
    card = page.locator(f"#replica-{LIAR}")
    before = await card.inner_text()
    assert "misbehaves" not in before
    await tell(page, "lying")
    await expect(card).to_contain_text("misbehaves on purpose: lying")
    build = await site.begin("master")
    await site.complete(build)
    await expect(card).to_contain_text("differed from")
    await tell(page, "")
    await expect(card).not_to_contain_text("misbehaves on purpose")
    await page.goto(f"{site.origin}/builds/{build}")
    await expect(page.locator("h1")).to_contain_text("passed")
    await expect(page.locator("main")).to_contain_text("dissents")


async def tell(page: Page, fault: str) -> None:
    """Tell the replica that may be told to misbehave like this; empty: no longer."""
    await page.locator("select[name=replica]").select_option(LIAR)
    await page.locator("select[name=fault]").select_option(fault)
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_text("The node has accepted the change")).to_be_visible()


async def test_builds_are_filtered_with_the_keyboard_alone(site: Site, visit: VisitorMaker) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    await tab_to(page, "#branch")
    await page.keyboard.type("broken")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**branch=broken**")
    rows = page.locator("tbody tr")
    shown = await rows.count()
    assert shown >= 1
    await expect(rows.filter(has_text="failed")).to_have_count(shown)


async def test_a_build_is_opened_and_cancelled_with_the_keyboard_alone(
    site: Site, visit: VisitorMaker
) -> None:
    build = await site.begin("slow")
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    await expect(page.locator(f"a[href='/builds/{build}']")).to_be_visible()
    await tab_to(page, f"a[href='/builds/{build}']")
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/builds/{build}")
    await tab_to(page, "form[action$='/cancel'] button")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("cancelled")


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until that element has the focus, which is to be seen. Raises AssertionError."""
    for _ in range(200):
        await page.keyboard.press("Tab")
        if await page.evaluate(f"document.activeElement.matches({selector!r})"):
            width = await page.evaluate(
                "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
            )
            assert width >= 1, f"{selector} has the focus, and nobody sees it"
            return
    raise AssertionError(f"Tab never comes to {selector}")
