"""client.dashboard.events: pages hear that something changed, without asking again and again."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from client.dashboard import events
from client.serve import make_application
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, client_of, site_of

SECONDS_MAX = 60


async def next_event(answer: ClientResponse) -> dict[str, str]:
    """The next event's fields; heartbeats are passed over."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            line = (await answer.content.readline()).decode()
            assert line, "the stream ended"
            name, separator, value = line.strip().partition(": ")
            if separator and name:
                fields[name] = value
            if not line.strip() and fields:
                return fields


async def test_a_commit_about_a_build_is_told(running: Running, client: Client) -> None:
    async with client.get("/events") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        build = await running.gateway.submit(REPOSITORY, "master", None)
        event = await next_event(answer)
        assert event["event"] == "changed"
        assert json.loads(event["data"])["build"] in (build.hex(), None)
        assert int(event["id"]) > 0


async def test_what_was_missed_is_told_at_once(running: Running, client: Client) -> None:
    build = await running.gateway.submit(REPOSITORY, "master", None)
    async with client.get("/events?after=1") as answer:
        event = await next_event(answer)
        assert json.loads(event["data"]) == {"build": None}
    await until(lambda: record_of(running, build).collected)
    async with client.get(f"/events?after=1&build={build.hex()}") as answer:
        event = await next_event(answer)
        assert json.loads(event["data"]) == {"build": build.hex()}
    headers = {"Last-Event-ID": "1"}
    async with client.get("/events", headers=headers) as answer:
        await next_event(answer)


async def test_an_open_build_is_looked_at_while_it_is_followed(
    running: Running, client: Client
) -> None:
    """Nobody tells the gateway what a node does before the verdict: it asks for its followers."""
    nodes = running.network.nodes
    for node in nodes.values():
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    await until(lambda: build in nodes["replica-1"].application.open_builds())
    for query in (f"?build={build.hex()}", ""):
        nodes["replica-1"].growing ^= {build}
        expected = "building" if build in nodes["replica-1"].growing else "none"
        async with client.get(f"/events{query}") as answer:
            while running.collector.states(build)[1].state != expected:
                await next_event(answer)


async def test_a_lost_link_is_told(running: Running, tmp_path: Path) -> None:
    site = site_of(running, tmp_path)
    client: Client = TestClient(TestServer(make_application(site)))
    await client.start_server()
    async with client.get("/events?build=" + "0" * 64) as answer:
        site.connected = lambda: frozenset({"replica-0", "replica-1"})
        event = await next_event(answer)
        assert event["event"] == "changed"
    await client.close()


async def test_what_is_no_build_is_refused(client: Client) -> None:
    answer = await client.get("/events?build=x")
    assert answer.status == 400
    assert "64 hexadecimal digits" in (await answer.json())["error"]


async def test_followers_are_bounded_and_make_room(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FOLLOWERS_MAX", 2)
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    client = await client_of(running, tmp_path)
    answers = [await client.get("/events"), await client.get("/events")]
    assert [answer.status for answer in answers] == [200, 200]
    refused = await client.get("/events")
    assert refused.status == 503
    assert "Retry-After" in refused.headers
    answers[0].close()
    for _ in range(10 * SECONDS_MAX):
        again = await client.get("/events")
        if again.status != 503:
            break
        await asyncio.sleep(0.1)
    assert again.status == 200
    await client.close()


def test_many_followers_together_are_told_no_more_often_than_some() -> None:
    assert events.pause_seconds(1) == events.EVENT_SECONDS
    for followers in (1, 10, 50, events.FOLLOWERS_MAX):
        rate = followers / events.pause_seconds(followers)
        assert rate <= events.EVENTS_PER_SECOND_MAX


async def test_what_is_looked_at_is_looked_at_after_any_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError

    task = asyncio.ensure_future(events._every(0.01, look))
    await until(lambda: looks > 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "ZeroDivisionError" in caplog.text
