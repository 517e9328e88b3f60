"""client.api.routes: the HTTP interface, on a gateway with real replicas in memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from ci.operations import Outcome
from ci.statement import verify_envelope
from client.gateway.resolve import Unreachable
from client.serve import make_application
from client.storage.database import StorageFailed
from common.address import Address
from common.configuration.keys import verify
from common.forges.shared.event import PLAIN_BODY_BYTES_MAX
from common.web.limited_listener import LimitedListener
from tests.ci.builders import COMMIT, FAILED
from tests.client.gateway.test_gateway import until
from tests.client.running_network import (
    REPOSITORY,
    FixedResolver,
    Network,
    Running,
    run_gateway,
)
from tests.client.site import Client, client_of, decided_build, get, post, site_of


@pytest.mark.parametrize("path", ["/webHook", "/webhook"])
@pytest.mark.parametrize("kind", [None, "application/json", "application/x-www-form-urlencoded"])
async def test_a_webhook_is_accepted(
    running: Running, client: Client, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await client.post(path, data=b'{"branch":"master"}', headers=headers)
    assert answer.status == 202
    accepted = await answer.json()
    assert accepted["url"] == f"http://localhost:8080/builds/{accepted['build']}"
    assert running.archive.get(bytes.fromhex(accepted["build"])) is not None


async def test_a_plain_post_is_always_a_new_build(client: Client) -> None:
    builds = [(await post(client, {"branch": "master"}))[1]["build"] for _ in range(3)]
    assert len(set(builds)) == 3


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "JSON"),
        ({"branch": "a b"}, 400, "`branch`"),
        ({"branch": "m", "repoCloneUrl": "file:///etc"}, 404, "`repositories:` in client.yml"),
    ],
)
async def test_a_refused_webhook_says_why(
    running: Running, client: Client, body: object, status: int, word: str
) -> None:
    got, answer = await post(client, body)
    assert got == status
    assert word in answer["error"]
    assert running.archive.page(None, 1) == []


async def test_a_body_that_is_announced_too_large_is_not_read(client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        % (PLAIN_BODY_BYTES_MAX + 1)
    )
    status = await asyncio.wait_for(reader.readline(), 60)
    assert b" 413 " in status
    writer.close()


async def test_a_body_that_turns_out_too_large_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.gateway.webhook_router.PLAIN_BODY_BYTES_MAX", 1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    answer = await client.post("/webHook", data=chunks())
    assert answer.status == 413


async def test_a_body_that_stops_half_way_does_not_stay(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.web.request_body.BODY_TIMEOUT_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    status = await asyncio.wait_for(reader.readline(), 60)
    assert b" 408 " in status
    writer.close()


async def test_a_body_that_is_cut_off_is_no_fault_of_ours(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers must not be able to fill the log with a trace for each."""
    half = b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    for end in (asyncio.StreamWriter.write_eof, lambda writer: writer.transport.abort()):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(half)
        # by an answer of the same loop later it was taken in
        assert (await get(client, "/healthz"))[0] == 200
        end(writer)
        assert (await get(client, "/healthz"))[0] == 200
        writer.close()
    assert "Traceback" not in caplog.text


async def test_what_all_send_together_is_bounded(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sends half of what all may have in memory, and then waits: the next one is refused."""
    monkeypatch.setattr("client.api.routes.BODIES_BYTES_MAX", 1000)
    client = await client_of(running, tmp_path)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 700\r\n\r\n")
    writer.write(b" " * 600)
    await writer.drain()

    async def refused() -> bool:
        return (await client.post("/webHook", data=b" " * 600)).status == 503

    for _ in range(1200):
        if await refused():
            break
        await asyncio.sleep(0.05)
    assert await refused()
    assert (await post(client, {"branch": "master"}))[0] == 202
    writer.write(b'{"branch":"master"}' + b" " * 81)
    assert b" 202 " in await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    assert not await refused()
    await client.close()


async def test_a_header_that_stops_half_way_does_not_stay(running: Running, tmp_path: Path) -> None:
    listener = LimitedListener(make_application(site_of(running, tmp_path)), header_seconds=0.3)
    await listener.open(Address("127.0.0.1", 0))
    port = listener.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nX-Half")
    assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()
    await listener.end()


async def test_a_full_queue_says_when_to_come_back(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")), 1)
    client = await client_of(running, tmp_path)
    assert (await post(client, {"branch": "m"}))[0] == 202
    answer = await client.post("/webHook", data=b'{"branch":"m"}')
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "waiting" in (await answer.json())["error"]
    await client.close()
    await running.close()


async def test_a_disk_that_takes_nothing_is_a_503(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise StorageFailed("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(running.archive, "add", failing)
        answer = await client.post("/webHook", data=b'{"branch":"m"}')
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert (await post(client, {"branch": "m"}))[0] == 202
    assert len(running.archive.page(None, 10)) == 1


async def test_a_build_is_shown_as_documented(running: Running, client: Client) -> None:
    running.network.nodes["replica-1"].finds = lambda build: (FAILED, b"log")
    build = await decided_build(running, client)
    status, shown = await get(client, f"/api/v1/builds/{build}")
    assert status == 200
    assert (shown["id"], shown["repository"], shown["branch"]) == (build, REPOSITORY, "master")
    assert (shown["commit"], shown["status"]) == (COMMIT, "decided")
    assert shown["verdict"]["outcome"] == "passed"
    assert shown["verdict"]["exit_code"] == 0
    assert sorted(shown["verdict"]["agreeing"]) == ["replica-0", "replica-2", "replica-3"]
    assert shown["verdict"]["dissenting"] == ["replica-1"]
    assert [ballot["outcome"] for ballot in shown["ballots"]] == [
        *("passed", "failed", "passed", "passed"),
    ]
    assert all(shown["times"].values())


async def test_builds_are_paged_newest_first(running: Running, client: Client) -> None:
    builds = [(await post(client, {"branch": f"b{index}"}))[1]["build"] for index in range(5)]
    shown: list[str] = []
    path = "/api/v1/builds?limit=2"
    while True:
        _, page = await get(client, path)
        shown.extend(build["id"] for build in page["builds"])
        if page["next"] is None:
            break
        path = f"/api/v1/builds?limit=2&after={page['next']}"
    assert shown == builds[::-1]


async def test_builds_are_listed_by_repository_branch_and_outcome(
    running: Running, client: Client
) -> None:
    green = await decided_build(running, client, "green")
    for node in running.network.nodes.values():
        node.finds = lambda build: (FAILED, b"log")
    red = await decided_build(running, client, "red")
    again = await decided_build(running, client, "red")

    async def listed(query: str) -> list[str]:
        _, page = await get(client, f"/api/v1/builds?{query}")
        return [build["id"] for build in page["builds"]]

    assert await listed("outcome=passed") == [green]
    assert await listed("outcome=failed&branch=") == [again, red]
    assert await listed(f"repository={REPOSITORY}&branch=red&limit=1") == [again]
    assert await listed(f"repository={REPOSITORY}&branch=red&limit=1&after={again}") == [red]
    assert await listed("branch=green&outcome=failed") == []
    assert await listed("repository=nowhere") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 400),
        ("limit=x", 400),
        ("limit=-1", 400),
        ("limit=²", 400),
        ("after=x", 404),
        ("outcome=green", 400),
        ("branch=" + 256 * "b", 400),
    ],
)
async def test_a_wrong_page_is_refused(client: Client, query: str, status: int) -> None:
    got, answer = await get(client, f"/api/v1/builds?{query}")
    assert got == status
    assert "`" in answer["error"]


@pytest.mark.parametrize("build", ["x", "0" * 64, "%2e%2e", "A" * 64])
async def test_an_unknown_build_is_a_404(client: Client, build: str) -> None:
    for tail in ("", "/attestation", "/log/replica-0"):
        status, answer = await get(client, f"/api/v1/builds/{build}{tail}")
        assert status == 404
        assert answer["error"]


async def test_a_log_is_plain_text(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    answer = await client.get(f"/api/v1/builds/{build}/log/replica-2")
    assert answer.status == 200
    assert answer.content_type == "text/plain"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert await answer.read() == b"log"


@pytest.mark.parametrize("replica", ["replica-9", "..", "%2e%2e%2fgateway.sqlite", "gateway"])
async def test_there_are_logs_of_replicas_only(
    running: Running, client: Client, replica: str
) -> None:
    build = await decided_build(running, client)
    status, _ = await get(client, f"/api/v1/builds/{build}/log/{replica}")
    assert status == 404


async def test_the_attestation_is_a_verifiable_envelope(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    answer = await client.get(f"/api/v1/builds/{build}/attestation")
    assert answer.status == 200
    verified = verify_envelope(await answer.read(), running.network.cluster, verify)
    assert verified.statement.verdict.build == build
    assert verified.statement.verdict.outcome is Outcome.PASSED
    assert len(verified.replicas) >= 2


async def test_there_is_no_attestation_before_the_verdict(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")))
    client = await client_of(running, tmp_path)
    _, accepted = await post(client, {"branch": "m"})
    status, answer = await get(client, f"/api/v1/builds/{accepted['build']}/attestation")
    assert status == 404
    assert "queued" in answer["error"]
    await client.close()
    await running.close()


async def test_an_append_is_answered_with_the_journal(running: Running, client: Client) -> None:
    assert (await post(client, {"text": "a"}, "/api/v1/append"))[1]["length"] == 1
    status, answer = await post(client, {"text": ""}, "/api/v1/append")
    assert (status, answer["length"]) == (200, 2)
    node = running.network.nodes["replica-0"]
    await until(lambda: node.application.journal_length == 2)
    assert answer["digest"] == node.application.journal_digest.hex()


@pytest.mark.parametrize(
    "body", [b"", b"x", {}, {"text": 1}, {"text": "x" * 16385}, b'{"text": "\\ud800"}']
)
async def test_a_wrong_append_is_refused(client: Client, body: object) -> None:
    status, answer = await post(client, body, "/api/v1/append")
    assert status == 400
    assert "text" in answer["error"]


async def test_an_append_that_takes_long_is_not_lost(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.api.routes.APPEND_TIMEOUT_SECONDS", 0.1)
    for node in network.nodes.values():
        node.is_down = True
    running = await run_gateway(network, tmp_path)
    client = await client_of(running, tmp_path)
    status, answer = await post(client, {"text": "a"}, "/api/v1/append")
    assert status == 202
    assert "do not send it again" in answer["detail"]
    for name, node in network.nodes.items():
        node.is_down = False
        running.gateway.on_connected(name)
    await until(lambda: running.gateway.unfinished == 0)
    assert network.nodes["replica-0"].application.journal_length == 1
    await client.close()
    await running.close()


async def test_the_network_is_shown_with_who_does_not_answer(
    running: Running, client: Client
) -> None:
    running.network.nodes["replica-2"].is_down = True
    status, answer = await get(client, "/api/v1/network")
    assert status == 200
    assert (answer["faults_max"], answer["needed"]) == (1, 3)
    by_name = {replica["replica"]: replica for replica in answer["replicas"]}
    assert by_name["replica-0"]["connected"] is True
    assert by_name["replica-0"]["status"]["node_id"] == "replica-0"
    assert by_name["replica-2"]["status"] is None
    assert "replica-2" in by_name["replica-2"]["error"]


async def test_health(client: Client) -> None:
    status, answer = await get(client, "/healthz")
    assert (status, answer["status"], answer["version"]) == (200, "ok", "1.2.3")
    assert answer["connected"] == ["replica-0"]


async def test_what_does_not_exist_is_json_too(client: Client) -> None:
    assert (await get(client, "/api/v1/nope"))[0] == 404
    answer = await client.get("/webHook")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    assert "error" in await answer.json()


async def test_thirty_webhooks_at_once(running: Running, client: Client) -> None:
    assert client.server is not None
    url = client.server.make_url("/webHook")

    async with ClientSession() as session:

        async def one(index: int) -> str:
            async with session.post(url, data=b'{"branch":"b%d"}' % index) as answer:
                return str((await answer.json())["build"])

        builds = await asyncio.gather(*(one(index) for index in range(30)))
    await until(lambda: running.gateway.unfinished == 0)
    lines = running.results_file.read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(builds)
