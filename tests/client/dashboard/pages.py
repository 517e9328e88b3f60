"""Pages as tests get them: with the headers that each must have, and once they show something."""

import asyncio
import re
from collections.abc import Callable

from tests.client.site import Client

POLL_SECONDS = 0.05
TRIES_MAX = 1200


async def page(client: Client, path: str, status: int = 200) -> str:
    """A page, whose policy is in force, which has our scripts alone and no style of its own."""
    answer = await client.get(path)
    assert answer.status == status
    assert answer.content_type == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = await answer.text()
    scripts = re.findall(r"<script[^>]*>", text)
    assert '<script src="/static/live.js" defer>' in scripts
    # before anything is painted
    assert scripts.pop(0) == '<script src="/static/colours.js">'
    ours = re.compile(r'<script (type="module" src="/static/\w+\.js"|src="/static/\w+\.js" defer)>')
    assert all(ours.fullmatch(tag) for tag in scripts)
    assert " style=" not in text
    assert "<style" not in text
    return text


async def page_when(client: Client, path: str, condition: Callable[[str], bool]) -> str:
    """The page once it shows that: what nodes say comes a moment later on a busy machine."""
    for _ in range(TRIES_MAX):
        text = await page(client, path)
        if condition(text):
            return text
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(text)
