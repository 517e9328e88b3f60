"""client.api.change_routes: cancel, rebuild and approve over HTTP, and who may."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.statement import parse_statement
from client.serve import make_application
from common.address import Address
from common.configuration.config import ConfigError
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import decided, record_of, until
from tests.client.running_network import Network, Running, run_gateway
from tests.client.site import Client, client_of, decided_build, post, site_of
from tests.secret_files import secret_file


async def open_build(running: Running, client: Client) -> str:
    nobody_finishes(running.network)
    _, accepted = await post(client, {"branch": "master"})
    build = str(accepted["build"])
    await until(lambda: record_of(running, bytes.fromhex(build)).opened_at is not None)
    return build


async def change(
    client: Client, build: str, what: str, body: object = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    answer = await client.post(f"/api/v1/builds/{build}/{what}", json=body, headers=headers)
    value: dict[str, Any] = await answer.json()
    return answer.status, value


async def test_a_build_is_cancelled(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    status, view = await change(client, build, "cancel", {"reason": "not <b>wanted</b>"})
    assert status == 200
    assert view["withdrawn"] == "not <b>wanted</b>"
    await until(lambda: record_of(running, bytes.fromhex(build)).statement is not None)
    view = await (await client.get(f"/api/v1/builds/{build}")).json()
    assert view["verdict"]["outcome"] == "cancelled"
    assert view["detail"] == "not <b>wanted</b>"
    page = await (await client.get(f"/builds/{build}")).text()
    assert "not &lt;b&gt;wanted&lt;/b&gt;" in page
    status, _ = await change(client, build, "cancel")
    assert status == 200, "it is withdrawn already"


async def test_a_build_that_is_over_is_not_cancelled(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    status, error = await change(client, build, "cancel")
    assert (status, error) == (409, {"error": "it is over already: passed"})


async def test_a_rebuild_is_linked_both_ways(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    status, accepted = await change(client, build, "rebuild")
    assert status == 202
    again = accepted["build"]
    assert accepted["url"] == f"http://localhost:8080/builds/{again}"
    views = [await (await client.get(f"/api/v1/builds/{id}")).json() for id in (build, again)]
    assert views[0]["rebuilds"] == [again]
    assert views[1]["rebuild_of"] == build
    pages = [await (await client.get(f"/builds/{id}")).text() for id in (build, again)]
    assert f'href="/builds/{again}"' in pages[0]
    assert f'href="/builds/{build}"' in pages[1]
    assert not views[1]["is_cold"]


async def test_a_rebuild_without_caches_says_so(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    status, error = await change(client, build, "rebuild", {"cold": 1})
    assert (status, '{"cold": true}' in error["error"]) == (400, True)
    status, accepted = await change(client, build, "rebuild", {"cold": True})
    assert status == 202
    again = accepted["build"]
    record = await decided(running, bytes.fromhex(again))
    assert parse_statement(record.statement or b"").verdict.is_cold
    assert (await (await client.get(f"/api/v1/builds/{again}")).json())["is_cold"]
    assert ", without caches" in await (await client.get(f"/builds/{again}")).text()


async def test_a_gateway_that_is_no_operator_says_so(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    status, error = await change(client, build, "approve")
    assert status == 409
    assert "gateway is no operator" in error["error"]


@pytest.mark.parametrize("body", [[], {"reason": ""}, {"reason": "x" * 201}, {"reason": 1}, "x"])
async def test_a_wrong_body(running: Running, client: Client, body: object) -> None:
    build = await open_build(running, client)
    status, error = await change(client, build, "cancel", body)
    assert status == 400
    assert '{"reason": "..."}' in error["error"]
    assert record_of(running, bytes.fromhex(build)).withdrawn is None


@pytest.mark.parametrize("what", ["cancel", "rebuild", "approve"])
async def test_no_such_build_and_no_get(client: Client, what: str) -> None:
    assert (await change(client, "0" * 64, what))[0] == 404
    assert (await client.get(f"/api/v1/builds/{'0' * 64}/{what}")).status == 405


async def test_more_than_one_repository_may_have_is_429(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, queue_max=1)
    client = await client_of(running, tmp_path)
    build = await open_build(running, client)
    answer = await client.post(f"/api/v1/builds/{build}/rebuild")
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "10"
    await client.close()
    await running.close()


# --- who may --------------------------------------------------------------------------------------


async def guarded(running: Running, folder: Path, **changes: Any) -> Client:
    site = site_of(running, folder)
    site.config = msgspec.structs.replace(site.config, **changes)
    client: Client = TestClient(TestServer(make_application(site)))
    await client.start_server()
    return client


def token_file(folder: Path, text: str = "old-token\nnew-token\n") -> Path:
    return secret_file(folder / "tokens", text)


CHANGES = ("builds/{}/cancel", "builds/{}/rebuild", "builds/{}/approve", "append")


@pytest.mark.parametrize("path", CHANGES)
async def test_with_tokens_only_who_has_one_may_change_something(
    running: Running, tmp_path: Path, path: str
) -> None:
    client = await guarded(running, tmp_path, api_token_file=token_file(tmp_path))
    url = "/api/v1/" + path.format("0" * 64)
    for wrong in ("", "Bearer", "Bearer x", "Bearer old-token2", "Basic old-token", "old-token"):
        answer = await client.post(url, data=b"{}", headers={"Authorization": wrong})
        assert answer.status == 401, wrong
        assert "Bearer TOKEN" in (await answer.json())["error"]
    assert (await client.post(url, data=b"{}")).status == 401
    for token in ("old-token", "new-token"):
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.post(url, data=b"[", headers=headers)
        assert answer.status in (400, 404), "it came through to the handler"
    assert (await client.get("/api/v1/builds")).status == 200, "reading takes no token"
    await client.close()


@pytest.mark.parametrize("path", CHANGES)
async def test_without_tokens_only_this_machine_may(
    running: Running, tmp_path: Path, path: str
) -> None:
    client = await guarded(running, tmp_path, listen=Address("192.0.2.1", 8080))
    answer = await client.post("/api/v1/" + path.format("0" * 64), data=b"{}")
    assert answer.status == 403
    assert "api_token_file" in (await answer.json())["error"]
    await client.close()


PUBLIC_URL = "https://ci.example.org/"
PROXIED = (
    {"X-Forwarded-For": "203.0.113.7"},
    {"Forwarded": "for=203.0.113.7"},
    {"X-Real-IP": "203.0.113.7"},
    {"X-Forwarded-Host": "ci.example.org"},
    {"Via": "1.1 proxy"},
)


@pytest.mark.parametrize("path", CHANGES)
async def test_without_tokens_nobody_may_by_way_of_a_proxy(client: Client, path: str) -> None:
    for headers in PROXIED:
        url = "/api/v1/" + path.format("0" * 64)
        answer = await client.post(url, data=b"{}", headers=headers)
        assert answer.status == 403, headers
        assert "api_token_file" in (await answer.json())["error"]


@pytest.mark.parametrize("path", CHANGES)
async def test_without_tokens_nobody_may_where_there_is_a_public_url(
    running: Running, tmp_path: Path, path: str
) -> None:
    """A proxy that rewrites `Host` and adds no header looks like a person on this machine."""
    client = await guarded(running, tmp_path, public_url=PUBLIC_URL)
    for host in ("localhost", "127.0.0.1:8080", "[::1]", "ci.example.org", "CI.example.org:443"):
        url = "/api/v1/" + path.format("0" * 64)
        answer = await client.post(url, data=b"{}", headers={"Host": host})
        assert answer.status == 403, host
        assert "`public_url`" in (await answer.json())["error"]
    await client.close()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080"])
async def test_without_tokens_this_machine_may_by_each_of_its_names(
    client: Client, host: str
) -> None:
    assert (await change(client, "0" * 64, "cancel", Host=host))[0] == 404, "it came through"


async def test_with_a_token_one_may_by_way_of_a_proxy(running: Running, tmp_path: Path) -> None:
    client = await guarded(
        running, tmp_path, api_token_file=token_file(tmp_path), public_url=PUBLIC_URL
    )
    for headers in (*PROXIED, {"Host": "ci.example.org"}, {"Host": "localhost"}):
        given = headers | {"Authorization": "Bearer old-token"}
        assert (await change(client, "0" * 64, "cancel", **given))[0] == 404, "it came through"
    await client.close()


async def test_a_page_from_elsewhere_cannot_make_a_browser_change_something(
    running: Running, client: Client
) -> None:
    build = await open_build(running, client)
    status, _ = await change(client, build, "cancel", Origin="https://evil.example")
    assert status == 403
    assert record_of(running, bytes.fromhex(build)).withdrawn is None


async def test_a_token_file_that_others_may_read_is_refused(
    running: Running, tmp_path: Path
) -> None:
    file = token_file(tmp_path)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read this API token"):
        await guarded(running, tmp_path, api_token_file=file)


async def test_a_token_that_nobody_could_show_is_refused_at_the_start(
    running: Running, tmp_path: Path
) -> None:
    file = token_file(tmp_path, "two words\n")
    with pytest.raises(ConfigError, match="has a space inside"):
        await guarded(running, tmp_path, api_token_file=file)
