"""What holds for every page: for all eyes, for both colours, on narrow screens, without scripts."""

from typing import Literal

import pytest
from playwright.async_api import Page, expect

from tests.browser.axe import ALL_RULES, COLOUR_RULES, faults_of
from tests.browser.conftest import VisitorMaker
from tests.browser.site import DISSENT_LINE, HOSTILE_BRANCH, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

Colours = Literal["light", "dark"]
# At each width all rules in one of the two colours, and what colours can change in the other.
VIEWS: tuple[tuple[int, Colours, Colours], ...] = (
    (1440, "light", "dark"),
    (768, "dark", "light"),
    (375, "light", "dark"),
)
HEIGHT = 900
# path -> what is to be read there; {branch} stands for the id of that branch's build
PAGES = {
    "/": "node3 dissents",
    "/?branch=dissent&outcome=passed": "node3 dissents",
    "/?branch=none": "No build matches",
    "/branches": "no build here passed before",
    "/queue": "verdict",
    "/trends": "Time in queue",
    "/builds/{master}": "passed",
    "/builds/{broken}": "failed",
    "/builds/{dissent}": "dissents",
    "/builds/{hostile}": "passed",
    "/builds/{dissent}/messages": "REQUEST",
    "/builds/{dissent}/compare?left=node0&right=node3": "The first difference",
    "/builds/{dissent}/log/node3": DISSENT_LINE,
    "/builds/{broken}/log/node0?times=yes&find=test": "lines with",
    "/builds/{broken}/proof": "signed the statement",
    "/builds/{tested}": "still failing",
    "/tests": "one machine",
    "/tests/{case}": "Only node3 ever differed",
    "/replicas": "waited longest for",
    "/ledger": "Verified by this gateway",
    "/audit": "Who changed what",
}


def path_of(site: Site, pattern: str) -> str:
    """The path with the ids of the site's builds in it."""
    builds = {name: site.builds[name] for name in ("master", "broken", "dissent", "tested")}
    return pattern.format(hostile=site.builds[HOSTILE_BRANCH], case=site.machine_case, **builds)


async def expect_text(page: Page, text: str) -> None:
    """Wait until that text is to be seen."""
    await expect(page.get_by_text(text).filter(visible=True).first).to_be_visible()


async def faults_in_all_views(page: Page) -> list[str]:
    """What axe-core finds at three widths in both colours, and what is beyond the right edge."""
    faults = []
    for width, colours, others in VIEWS:
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        for scheme, rules in ((colours, ALL_RULES), (others, COLOUR_RULES)):
            await page.emulate_media(color_scheme=scheme)
            where = f"{scheme}, {width} pixels"
            faults += [f"{where}: {fault}" for fault in await faults_of(page, rules)]
        beyond = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if beyond > 0:
            faults.append(f"{width} pixels: {beyond} pixels are beyond the right edge")
    return faults


@pytest.mark.parametrize("pattern", PAGES)
async def test_no_page_keeps_anybody_out(site: Site, visit: VisitorMaker, pattern: str) -> None:
    """At three widths in both colours: nothing that axe-core finds, nothing beyond the edge.

    The page's own policy is in force; at the end the visitor asserts that the console is empty.
    """
    visitor = await visit(site.origin)
    page = await visitor.open(path_of(site, pattern))
    await expect_text(page, PAGES[pattern])
    assert await page.title()
    faults = await faults_in_all_views(page)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("pattern", PAGES)
async def test_without_scripts_everything_can_be_read(
    site: Site, visit: VisitorMaker, pattern: str
) -> None:
    visitor = await visit(site.origin, java_script_enabled=False)
    page = await visitor.open(path_of(site, pattern))
    await expect_text(page, PAGES[pattern])


async def test_a_page_that_is_not_there_says_so(site: Site, visit: VisitorMaker) -> None:
    visitor = await visit(site.origin)
    page = await visitor.open("/builds/" + "0" * 64)
    await expect(page.locator("body")).to_contain_text("no such build")
    # the answer's code is shown on the console; nothing else is
    assert len(visitor.faults) == 1
    assert "404" in visitor.faults.pop()
