"""client.dashboard: what people see, and that nothing from outside becomes markup."""

import json
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.operations import Abstain
from client.serve import make_application
from tests.client.dashboard.pages import page
from tests.client.running_network import Running
from tests.client.site import Client, decided_build, site_of


async def test_text_from_outside_is_escaped(running: Running, client: Client) -> None:
    hostile = "<img/src=x>&\"'"
    for node in running.network.nodes.values():
        node.finds = lambda build: (Abstain(hostile), b"")
    build = await decided_build(running, client, hostile)
    for path in ("/", f"/builds/{build}"):
        text = await page(client, path)
        assert "<img" not in text
        assert "&lt;img/src=x&gt;" in text


async def test_a_build_that_is_not_there_is_a_page(client: Client) -> None:
    text = await page(client, "/builds/" + "0" * 64, status=404)
    assert "no such build" in text


async def test_the_style_is_a_file_of_its_own(client: Client) -> None:
    answer = await client.get("/static/style.css")
    assert answer.content_type == "text/css"
    assert "light-dark(" in await answer.text()


async def test_a_static_file_that_the_browser_has_is_not_sent_again(client: Client) -> None:
    first = await client.get("/static/live.js")
    assert first.headers["Cache-Control"] == "no-cache"
    etag = first.headers["ETag"]
    again = await client.get("/static/live.js", headers={"If-None-Match": f'"x", {etag}'})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == etag
    other = await client.get("/static/live.js", headers={"If-None-Match": '"x"'})
    assert (other.status, await other.read()) == (200, await first.read())
    assert (await client.get("/static/pages.py")).status == 404


async def test_every_page_says_where_it_is_and_lets_the_navigation_be_skipped(
    running: Running, client: Client
) -> None:
    build = await decided_build(running, client)
    for path in ("/", f"/builds/{build}", f"/builds/{build}/messages"):
        text = await page(client, path)
        assert text.count('aria-current="page"') == 1
        assert '<a href="/" aria-current="page">Builds</a>' in text
        assert '<a class="skip" href="#content">' in text
        assert text.count("<h1") == 1
        assert text.count("<main") == 1
        assert 'data-after="' in text
    assert "aria-current" not in await page(client, "/builds/" + "0" * 64, status=404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("GET", "/builds/xyz", 404), ("POST", "/ledger", 405)],
)
async def test_what_is_not_there_is_a_page_with_a_way_back_and_json_for_who_asks(
    client: Client, method: str, path: str, status: int
) -> None:
    for accepted in ("text/html,application/xhtml+xml,*/*;q=0.8", "*/*"):
        answer = await client.request(method, path, headers={"Accept": accepted})
        assert (answer.status, answer.content_type) == (status, "text/html")
        assert '<a href="/">All builds</a>' in await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    answer = await client.request(method, path, headers={"Accept": "application/json"})
    assert (answer.status, answer.content_type) == (status, "application/json")
    assert "error" in json.loads(await answer.text())


async def test_programs_get_json_whatever_they_accept(client: Client) -> None:
    for path in ("/api/v1/nope", "/api/v1/a%0Ab", "/api/v1/builds/" + "0" * 64, "/webHook"):
        answer = await client.get(path, headers={"Accept": "text/html"})
        assert answer.status in (404, 405)
        assert answer.content_type == "application/json"


async def test_a_hostile_address_stays_text(client: Client) -> None:
    answer = await client.get("/%3Cscript%3Ealert(1)%3C/script%3E")
    text = await answer.text()
    assert answer.status == 404
    assert "&lt;script&gt;alert(1)" in text


ASK = {"Accept-Encoding": "gzip, br"}


async def test_pages_are_compressed_and_asked_for_again(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    for path in ("/", "/ledger", f"/builds/{build}/log/replica-0", "/static/style.css"):
        answer = await client.get(path, headers=ASK)
        assert answer.headers["Content-Encoding"] == "gzip", path
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert "no-cache" in answer.headers["Cache-Control"]
        plain = await client.get(path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert plain.headers["Vary"] == "Accept-Encoding", "a cache must know"


async def test_what_has_a_secret_is_not_compressed(
    running: Running, client: Client, tmp_path: Path
) -> None:
    """A form's hidden value stands beside text of strangers; with read tokens all is secret."""
    build = await decided_build(running, client)
    answer = await client.get(f"/builds/{build}", headers=ASK)
    assert 'name="csrf"' in await answer.text()
    assert "Content-Encoding" not in answer.headers
    site = site_of(running, tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text("a-read-token-of-enough-characters-0123456789\n")
    tokens.chmod(0o600)
    site.config = msgspec.structs.replace(site.config, read_token_file=tokens)
    async with TestClient(TestServer(make_application(site))) as closed:
        bearer = {"Authorization": f"Bearer {tokens.read_text().strip()}"}
        for path in ("/", f"/builds/{build}/log/replica-0"):
            answer = await closed.get(path, headers=ASK | bearer)
            assert answer.status == 200
            assert "Content-Encoding" not in answer.headers
