"""Questions of a developer: the first page leads to each answer with at most two clicks."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.axe import faults_of
from tests.browser.conftest import VisitorMaker
from tests.browser.site import DISSENT_LINE, DISSENTER, Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

CLICKS_MAX = 2
ROW = "tbody tr:has(a.name:has-text('{}'))"
# question -> what is clicked on, one after the other, and what is to be read then.
# A click is a selector of playwright.
QUESTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "why is this branch red?": (
        (f"{ROW.format('broken')} a.name",),
        r"Step build \(1 of 1\) failed, exit code 7",
    ),
    "since when, and what passed last?": (
        ("nav >> text=Branches",),
        r"broken.*failed.*ago.*no build here passed before",
    ),
    "how often does it pass, and how long does it take?": (
        ("nav >> text=Branches",),
        r"tested.*0 of 2.*\d m?s",
    ),
    "is it flaky?": (
        ("nav >> text=Tests", "text=test_summer_time"),
        rf"Only {DISSENTER} ever differed",
    ),
    "which machine is slow?": (
        ("nav >> text=Replicas",),
        r"(is the slowest: it takes|No replica is much slower)",
    ),
    "which machine disagrees?": (
        ("nav >> text=Replicas",),
        rf"{DISSENTER} disagreed with \d+ of the newest \d+ verdicts",
    ),
    "where do two machines differ?": (
        (f"{ROW.format('dissent')} a.name", "text=Where they differ"),
        DISSENT_LINE,
    ),
    "what does my build wait for?": (
        ("nav >> text=Queue",),
        r"slow.*node0.*node3",
    ),
    "does it get slower from week to week?": (
        ("nav >> text=Trends",),
        r"Time in build.*The same in numbers",
    ),
    "how do I prove this verdict to somebody?": (
        (f"{ROW.format('master')} a.name",),
        r"client verify",
    ),
    "who cancelled this, or approved it?": (
        ("nav >> text=Ledger",),
        r"cancel by client",
    ),
    "what did this machine print?": (
        (f"{ROW.format('dissent')} a.name", "a:has-text('Whole log') >> nth=-1"),
        DISSENT_LINE,
    ),
}


async def answer(page: Page, clicks: tuple[str, ...]) -> None:
    """Follow these links."""
    assert 1 <= len(clicks) <= CLICKS_MAX
    for click in clicks:
        await page.locator(click).first.click()


async def test_each_question_is_answered_within_two_clicks(site: Site, visit: VisitorMaker) -> None:
    """In one window, so that the test costs one browser context."""
    await site.cancel(await site.begin("slow"))
    slow = await site.begin("slow")
    visitor = await visit(site.origin)
    page = await visitor.open("/")
    for question, (clicks, expected) in QUESTIONS.items():
        await page.goto(site.origin)
        await answer(page, clicks)
        pattern = re.compile(expected, re.DOTALL)
        await expect(page.locator("main"), question).to_contain_text(pattern)
    await page.goto(f"{site.origin}/queue")
    assert not await faults_of(page), "with something in it"
    site.let_end(slow)
    await site.complete(slow)
