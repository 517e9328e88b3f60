"""client.dashboard: what people see, and that nothing from outside becomes markup."""

from ci.operations import Abstain
from tests.client.dashboard.pages import page
from tests.client.running_network import Running
from tests.client.site import Client, decided_build


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
    assert "prefers-color-scheme: dark" in await answer.text()


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
