"""The page of a log of one megabyte in a real browser: how long until it is all there.

The product is the gateway's page, with numbers and an address for each line; the reference is the
same log as plain text from the same gateway in the same browser. The browser starts cold each time
(a new profile), and both are measured in turn.
"""

import shutil
import time

import msgspec
from playwright.async_api import Browser, async_playwright

from bench.context import Context
from bench.figures import ratios, spread
from bench.network import BenchFailed, open_network
from bench.rows import Row, State, Target
from scripts.harness import Network, pipeline

NAME = "log_page"
BROWSERS = ("chromium", "chromium-headless-shell")
LINES = 9718
PAIRS, PAIRS_QUICK = 9, 1
REPLICA = "node1"
# Numbers and addresses of lines cost a browser something; what a reader notices are the seconds.
TARGET = Target(10)
FIRST_SECONDS_MAX = 0.5
WHOLE_SECONDS_MAX = 2.0

_LINE = (
    "with as many words as it takes to make a megabyte of all these lines, one by one, by and by"
)
_COMMAND = f"seq -f '%05.0f {_LINE}' 1 {LINES}"


class _Loaded(msgspec.Struct, frozen=True):
    """Seconds from the first byte to the first contentful paint, and from the click to the load."""

    first_seconds: float
    whole_seconds: float


async def run(context: Context) -> list[Row]:
    """One row. Raises BenchFailed, NetworkFailed, StartFailed."""
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    against = "the same log as plain text in the same browser"
    what = "the page of a log of 1 MB, from the click to the end of loading"
    if path is None:
        note = "there is no Chromium here"
        return [Row(bench=NAME, what=what, against=against, state=State.LEFT_OUT, note=note)]
    branches = {"long": pipeline(_COMMAND)}
    with open_network(context, NAME, branches=branches) as network:
        network.start()
        build = network.post("long")
        network.complete(build)
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=path, chromium_sandbox=False)

            async def product() -> _Loaded:
                return await _load(browser, network, f"/builds/{build}/log/{REPLICA}", lines=LINES)

            async def reference() -> _Loaded:
                return await _load(
                    browser, network, f"/api/v1/builds/{build}/log/{REPLICA}", lines=0
                )

            pairs = PAIRS_QUICK if context.is_quick else PAIRS
            ours, theirs = await context.pairs(pairs, product, reference)
            await browser.close()
    whole = [loaded.whole_seconds for loaded in ours]
    first = [loaded.first_seconds for loaded in ours]
    plain = [loaded.whole_seconds for loaded in theirs]
    return [
        Row(
            bench=NAME,
            what=what,
            against=against,
            target=TARGET,
            ratio=ratios(whole, plain),
            figures={
                "first lines s": spread(first).median,
                "whole s": spread(whole).median,
                "plain text s": spread(plain).median,
            },
            note=f"wanted: first lines {FIRST_SECONDS_MAX} s, whole {WHOLE_SECONDS_MAX} s",
        )
    ]


async def _load(browser: Browser, network: Network, path: str, *, lines: int) -> _Loaded:
    """Load that page in a new profile. lines: how many it has to show. Raises BenchFailed."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = await context.new_page()
        begin = time.monotonic()
        await page.goto(network.gateway_url + path, wait_until="load")
        whole = time.monotonic() - begin
        text = await page.evaluate("document.body.textContent")
        if f"{LINES:05} {_LINE}" not in text:
            raise BenchFailed("the last line of the log is not on the page")
        shown = await page.locator("#log a").count()
        if shown < lines:
            raise BenchFailed(f"{shown} of {lines} lines have a number")
        painted = await page.evaluate(
            "() => (performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0)"
            " - performance.getEntriesByType('navigation')[0].responseStart"
        )
    finally:
        await context.close()
    return _Loaded(max(0.0, painted / 1000), whole)
