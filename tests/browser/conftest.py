"""One browser and one site for all tests of the pages in a browser, in one event loop.

They end with the last of these tests, and not with the worker's last test. They live in the
session's loop; so do the tests, whose modules say so in their `pytestmark`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import NoBrowser, Visitor, chromium, chromium_program
from tests.browser.site import Site

VisitorMaker = Callable[..., Awaitable[Visitor]]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium; where there is none, the tests are skipped."""
    try:
        path = chromium_program()
    except NoBrowser as error:
        pytest.skip(str(error))
    async with chromium(path) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncIterator[VisitorMaker]:
    """`await visit(origin, ...)`: a person with a new profile, options as for a playwright context.

    At the end it is asserted that no page did what pages may not do.
    """
    visitors: list[Visitor] = []

    async def make(origin: str, **options: Any) -> Visitor:
        visitors.append(Visitor(await browser.new_context(**options), origin))
        return visitors[-1]

    yield make
    faults: list[str] = []
    for visitor in visitors:
        try:
            await visitor.leave()
        except AssertionError as error:
            faults.append(str(error))
    assert not faults, "\n".join(faults)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The site, started, with a finished build of each kind."""
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        await made.start()
        yield made
    finally:
        made.network.close()
