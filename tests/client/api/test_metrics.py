"""The gateway's metrics, readiness and badges over HTTP, of a network in memory."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from client.api.metrics import GatewayMetrics
from client.network import network_watch
from tests.client.commands.test_commands import finds_failed
from tests.client.gateway.test_gateway import until
from tests.client.running_network import Running
from tests.client.site import Client, client_of


async def samples(client: Client) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status == 200
    found = {}
    for family in text_string_to_metric_families(await answer.text()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


async def decide(client: Client, running: Running, branch: str) -> None:
    answer = await client.post("/webHook", json={"branch": branch})
    build = bytes.fromhex((await answer.json())["build"])

    def is_decided() -> bool:
        record = running.archive.get(build)
        return record is not None and record.statement is not None

    await until(is_decided)


async def test_answers_builds_and_times_are_counted(running: Running, tmp_path: Path) -> None:
    client: Client = await client_of(running, tmp_path)
    await decide(client, running, "master")
    for path in ("/api/v1/builds/1", "/api/v1/builds/2", "/nowhere/1", "/nowhere/2"):
        assert (await client.get(path)).status == 404
    await client.request("BREW", "/")
    found = await samples(client)
    assert found["pbftci_http_requests_total{method=POST,route=/webHook,status=202}"] == 1
    assert (
        found["pbftci_http_requests_total{method=GET,route=/api/v1/builds/{build},status=404}"] == 2
    )
    assert found["pbftci_http_requests_total{method=GET,route=other,status=404}"] == 2
    assert not any("BREW" in name for name in found)
    assert found["pbftci_build_seconds_count{until=verdict}"] == 1
    assert found["pbftci_build_seconds_count{until=order}"] == 1
    assert (found["pbftci_builds{status=decided}"], found["pbftci_unfinished{}"]) == (1, 0)
    again = await samples(client)
    assert again["pbftci_build_seconds_count{until=verdict}"] == 1, "each verdict counts once"
    await client.close()


async def test_ready_means_links_to_a_quorum(running: Running) -> None:
    connected: set[str] = set()
    metrics = GatewayMetrics(
        name="client",
        version="1",
        cluster=running.network.cluster,
        archive=running.archive,
        connected=lambda: frozenset(connected),
        unfinished=lambda: 0,
    )
    application = web.Application()
    metrics.add_to(application)
    async with TestClient(TestServer(application)) as client:
        for count, status in ((2, 503), (3, 200)):
            connected.update(f"replica-{index}" for index in range(count))
            answer = await client.get("/readyz")
            assert (answer.status, await answer.json()) == (
                status,
                {"ready": status == 200, "connected": count, "needed": 3},
            )
        found = await samples(client)
        assert found["pbftci_peer_connected{replica=replica-2}"] == 1
        assert found["pbftci_peer_connected{replica=replica-3}"] == 0


async def test_what_the_gateway_found_out_about_replicas(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_watch, "FRESH_SECONDS", 0.0)
    client: Client = await client_of(running, tmp_path)
    running.network.nodes["replica-1"].date = "Tue, 01 Jan 2030 00:00:00 GMT"
    assert (await client.get("/api/v1/network")).status == 200
    found = await samples(client)
    assert found["pbftci_clock_ahead_seconds{replica=replica-1}"] > 60
    assert abs(found["pbftci_clock_ahead_seconds{replica=replica-2}"]) < 60
    assert found["pbftci_evidence_pairs{replica=replica-1}"] == 0
    assert found["pbftci_ledger_differs{replica=replica-1}"] == 0
    assert (found["pbftci_ledger_alarm{}"], found["pbftci_links_needed{}"]) == (0, 3)
    assert 0 < found["pbftci_disk_bytes{what=free}"] < found["pbftci_disk_bytes{what=total}"]
    running.network.nodes["replica-1"].is_down = True
    assert (await client.get("/api/v1/network")).status == 200
    found = await samples(client)
    assert "pbftci_clock_ahead_seconds{replica=replica-1}" not in found
    await client.close()


async def test_a_badge_follows_the_newest_verdict(running: Running, tmp_path: Path) -> None:
    client: Client = await client_of(running, tmp_path)

    async def shown(query: str = "?branch=master", repository: str = "r") -> str:
        answer = await client.get(f"/badge/{repository}.svg{query}")
        assert (answer.status, answer.content_type) == (200, "image/svg+xml")
        assert answer.headers["Cache-Control"] == "no-cache, max-age=0"
        return (await answer.text()).partition("<title>build: ")[2].partition("<")[0]

    assert await shown() == "none"
    await decide(client, running, "master")
    assert (await shown(), await shown("")) == ("passing", "passing")
    assert await shown("?branch=other") == "none"
    assert await shown(repository="example.org/r") == "passing"
    assert await shown(repository="unknown/repository") == "none"
    finds_failed(running)
    await decide(client, running, "master")
    assert await shown() == "failing"
    tag = (await client.get("/badge/r.svg")).headers["ETag"]
    answer = await client.get("/badge/r.svg", headers={"If-None-Match": tag})
    assert (answer.status, await answer.read()) == (304, b"")
    await client.close()
