"""client.dashboard: what people see, and that nothing from outside becomes markup."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from ci.operations import Abstain
from client.archive import ReplyRecord
from client.dashboard.build_page import replica_rows
from client.resolve import Unreachable
from client.view import build_view
from tests.ci.builders import FAILED, PASSED
from tests.client.network import REPOSITORY, FixedResolver, Network, Running, run_gateway
from tests.client.test_api import client_of, decided_build
from tests.client.test_gateway import record_of, until
from tests.client.test_view import decided, record

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(running: Running, tmp_path: Path) -> AsyncIterator[Client]:
    client = await client_of(running, tmp_path)
    yield client
    await client.close()


async def page(client: Client, path: str, status: int = 200) -> str:
    answer = await client.get(path)
    assert answer.status == status
    assert answer.content_type == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = await answer.text()
    # our scripts, and nothing else that runs or styles
    scripts = re.findall(r"<script[^>]*>", text)
    assert '<script src="/static/live.js" defer>' in scripts
    assert all(re.fullmatch(r'<script src="/static/\w+\.js" defer>', tag) for tag in scripts)
    assert " style=" not in text
    assert "<style" not in text
    return text


async def test_a_build_shows_each_replica(running: Running, client: Client) -> None:
    running.network.nodes["replica-1"].finds = lambda build: (FAILED, b"log")
    running.network.nodes["replica-2"].finds = lambda build: (PASSED, b"log")
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    assert re.search(r"replica-1</td>\s*<td class=\"failed\">failed</td>\s*<td>1</td>", text)
    assert '<td class="dissents">dissents</td>' in text
    assert f'href="/builds/{build}/log/replica-1"' in text
    assert "python -m client verify" in text
    assert 'http-equiv="refresh"' not in text


async def test_an_open_build_refreshes_itself(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("<b>down</b>")))
    client = await client_of(running, tmp_path)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).detail is not None)
    text = await page(client, f"/builds/{build.hex()}")
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', text)
    assert f'data-build="{build.hex()}"' in text
    assert "&lt;b&gt;down&lt;/b&gt;" in text
    await client.close()
    await running.close()


async def test_text_from_outside_is_escaped(running: Running, client: Client) -> None:
    hostile = "<img/src=x>&\"'"
    for node in running.network.nodes.values():
        node.finds = lambda build: (Abstain(hostile), b"")
    build = await decided_build(running, client, hostile)
    for path in ("/", f"/builds/{build}"):
        text = await page(client, path)
        assert "<img" not in text
        assert "&lt;img/src=x&gt;" in text


async def test_the_page_of_a_log_has_our_script_and_no_other(
    running: Running, client: Client
) -> None:
    build = await decided_build(running, client, "<script>alert(1)</script>")
    answer = await client.get(f"/builds/{build}/log/replica-1")
    text = await answer.text()
    assert text.count("<script") == 2
    assert '<script src="/static/log.js"></script>' in text
    assert f'data-events="/api/v1/builds/{build}/replicas/replica-1/log/events"' in text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    script = await client.get("/static/log.js")
    assert script.content_type == "text/javascript"
    assert "innerHTML" not in await script.text()
    assert "no replica of that name" in await page(client, f"/builds/{build}/log/x", status=404)


async def test_a_replica_without_a_ballot_is_shown_with_what_it_does(
    running: Running, client: Client
) -> None:
    node = running.network.nodes["replica-1"]
    for other in running.network.nodes.values():
        other.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    node.growing.add(build)
    await until(lambda: record_of(running, build).opened_at is not None)
    await until(lambda: build in node.application.open_builds())
    text = await page(client, f"/builds/{build.hex()}")
    assert re.search(r"replica-1</td>\s*<td class=\"soft\">building", text)
    assert "live log" in text
    view = await (await client.get(f"/api/v1/builds/{build.hex()}")).json()
    states = {row["replica"]: row for row in view["replicas"]}
    assert states["replica-1"]["state"] == "building"
    assert states["replica-1"]["seen"].endswith("Z")
    assert states["replica-1"]["problem"] is None


async def test_a_superseded_build_links_to_the_one_that_took_its_place(
    running: Running, client: Client
) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    await running.gateway.cancel(build, f"superseded by {'ab' * 32}")
    await until(lambda: record_of(running, build).statement is not None)
    text = await page(client, f"/builds/{build.hex()}")
    assert f'<a href="/builds/{"ab" * 32}">' in text
    assert '<td class="none">none</td>' in text
    assert "does not know" not in text


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


def test_a_row_for_every_replica() -> None:
    _, build, statement, ballots = decided([PASSED, FAILED, PASSED, PASSED])
    replies = [ReplyRecord("replica-0", True, bytes(64)), ReplyRecord("replica-1", False, None)]
    view = build_view(record(build=build, statement=statement), ballots[:2], replies)
    names = ("replica-0", "replica-1", "replica-2", "replica-9")
    rows = replica_rows(view, names)
    assert [row.stance for row in rows] == ["agrees", "dissents", "agrees", "none yet"]
    assert [row.is_signed for row in rows] == [True, False, False, False]
    assert [row.ballot is not None for row in rows] == [True, True, False, False]
