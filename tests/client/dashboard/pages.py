"""Pages as tests get them: with the headers that each must have, and once they show something."""

import asyncio
from collections.abc import Callable

from tests.client.site import Client

POLL_SECONDS = 0.05
TRIES_MAX = 1200


async def page(client: Client, path: str, status: int = 200) -> str:
    """A page, whose policy is in force and which has no style of its own."""
    answer = await client.get(path)
    assert answer.status == status
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = await answer.text()
    assert " style=" not in text
    return text


async def page_when(client: Client, path: str, condition: Callable[[str], bool]) -> str:
    """The page once it shows that: what nodes say comes a moment later on a busy machine."""
    for _ in range(TRIES_MAX):
        text = await page(client, path)
        if condition(text):
            return text
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(text)
