"""What a browser does with a form of our pages, for tests: read it, fill it in, send it."""

import re
from collections.abc import Mapping

from aiohttp import ClientResponse

from tests.client.site import Client

_CSRF = re.compile(r'<input type="hidden" name="csrf" value="([0-9a-f]{64})">')


async def csrf_of(client: Client, path: str) -> str:
    """Load a page with a form: its hidden field; the client keeps the cookie."""
    text = await (await client.get(path)).text()
    found = _CSRF.search(text)
    assert found is not None, "the page has no form"
    return found[1]


async def send_form(
    client: Client,
    path: str,
    fields: Mapping[str, str],
    *,
    origin: str | None = "",
    headers: Mapping[str, str] | None = None,
) -> ClientResponse:
    """POST a form as a browser does. origin: "" is the gateway's own, None sends none."""
    sent = dict(headers or {})
    if origin is not None:
        sent["Origin"] = origin or str(client.make_url("/").origin())
    return await client.post(path, data=dict(fields), headers=sent, allow_redirects=False)
