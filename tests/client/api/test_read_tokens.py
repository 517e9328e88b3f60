"""The gateway with `read_token_file`: nothing but webhooks and health without a token."""

import hashlib
import html
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client.commands.gateway_client import GatewayApi
from client.commands.outcome import CommandFailed
from common.address import Address
from common.web.http_tokens import ask_for_token
from scripts.folders import EXAMPLE_CONFIG
from tests.client.api.test_change_routes import PUBLIC_URL, guarded, token_file
from tests.client.commands.test_commands import Terminal
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Running
from tests.client.site import Client
from tests.common.web.test_http_tokens import basic
from tests.secret_files import secret_file

OPEN = {"/webHook", "/webhook", "/healthz", "/readyz"}
READ = {"Authorization": "Bearer read-token"}


def read_token_file(folder: Path) -> Path:
    return secret_file(folder / "read-tokens", "read-token\n")


@pytest.fixture
async def client(running: Running, tmp_path: Path) -> AsyncIterator[Client]:
    client = await guarded(
        running,
        tmp_path,
        read_token_file=read_token_file(tmp_path),
        api_token_file=token_file(tmp_path),
        public_url=PUBLIC_URL,
    )
    yield client
    await client.close()


async def test_every_route_but_webhooks_and_health_takes_a_token(client: Client) -> None:
    """Also a route that is added tomorrow."""
    routes = [route for route in client.app.router.routes() if route.resource is not None]
    assert len(routes) > 30
    for route in routes:
        pattern = route.resource.canonical if route.resource is not None else ""
        path = re.sub(r"\{[^}]*\}", "0", pattern)
        answer = await client.request(route.method, path, allow_redirects=False)
        assert (answer.status == 401) == (pattern not in OPEN), f"{route.method} {pattern}"
        if answer.status == 401 and route.method != "HEAD":
            assert "read_token_file" in (await answer.json())["error"]
    assert (await client.get("/no-such-page")).status == 401


async def test_a_webhook_takes_no_token(client: Client) -> None:
    answer = await client.post("/webHook", json={"branch": "master"})
    assert answer.status == 202


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/builds", "/replicas", "/ledger"])
async def test_a_read_token_reads_in_programs_and_browsers(client: Client, path: str) -> None:
    assert (await client.get(path, headers=READ)).status == 200
    assert (await client.get(path, headers={"Authorization": basic("me:read-token")})).status == 200
    # whoever may change something may see it
    assert (await client.get(path, headers={"Authorization": "Bearer new-token"})).status == 200


async def test_a_read_token_changes_nothing(client: Client) -> None:
    answer = await client.post("/api/v1/append", json={"text": "x"}, headers=READ)
    assert answer.status == 401
    assert "the API's tokens" in (await answer.json())["error"]
    headers = {"Authorization": basic("me:new-token")}
    answer = await client.post("/api/v1/append", json={"text": "x"}, headers=headers)
    assert answer.status == 401, "what a browser sends by itself never changes anything"
    headers = {"Authorization": "Bearer new-token"}
    answer = await client.post("/api/v1/append", data=b"[", headers=headers)
    assert answer.status == 400, "it came through"


async def test_on_this_machine_too_who_may_not_read_changes_nothing(
    running: Running, tmp_path: Path
) -> None:
    client = await guarded(running, tmp_path, read_token_file=read_token_file(tmp_path))
    assert (await client.post("/api/v1/append", data=b"[")).status == 401
    assert (await client.post("/api/v1/append", data=b"[", headers=READ)).status == 400
    await client.close()


async def test_the_command_line_shows_the_tokens_of_its_configuration(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.server is not None
    address = Address("127.0.0.1", client.server.port or 0)
    text = (EXAMPLE_CONFIG / "client.yml").read_text()
    text = re.sub(r"(?m)^listen: .*", f"listen: {address}", text)
    plain, telling = tmp_path / "plain.yml", tmp_path / "telling.yml"
    plain.write_text(text)
    tokens = f"read_token_file: {tmp_path}/read-tokens\napi_token_file: {tmp_path}/tokens\n"
    telling.write_text(f"{text}\npublic_url: {PUBLIC_URL}\n{tokens}")
    terminal = Terminal(address.url, tmp_path / "cluster.yml", capsys)

    code, out, _ = await terminal.type("list", "--config", str(telling))
    assert (code, out) == (0, "")
    code, out, _ = await terminal.type("append", "abc", "--config", str(telling))
    assert (code, out[:3]) == (0, "1  ")
    code, _, err = await terminal.type("list", "--config", str(plain))
    assert code != 0
    assert "read_token_file" in err
    code, _, err = await terminal.type(
        "append", "abc", "--config", str(plain), "--token-file", str(tmp_path / "read-tokens")
    )
    assert code != 0
    assert "the API's tokens" in err
    for words in (["list"], ["append", "abc"]):
        code, _, _ = await terminal.type(
            *words, "--config", str(plain), "--token-file", str(tmp_path / "tokens")
        )
        assert code == 0


async def test_a_file_is_fetched_with_the_token_too() -> None:
    async def send(request: web.Request) -> web.Response:
        return web.Response(body=b"made")

    application = web.Application(middlewares=[ask_for_token([b"read-token"], lambda route: True)])
    application.router.add_get("/{path:.*}", send)
    async with TestServer(application) as server:
        url = str(server.make_url("/"))
        async with GatewayApi(url, token=b"read-token") as gateway:
            digest = await gateway.artifact("0" * 64, "a.txt", 4, file=io.BytesIO())
        assert digest == hashlib.sha256(b"made").hexdigest()
        async with GatewayApi(url) as gateway:
            with pytest.raises(CommandFailed, match="read_token_file"):
                await gateway.artifact("0" * 64, "a.txt", 4, file=io.BytesIO())


async def test_the_command_to_copy_shows_the_token(running: Running, client: Client) -> None:
    accepted = await (await client.post("/webHook", json={"branch": "master"})).json()
    build = accepted["build"]
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    page = await (await client.get(f"/builds/{build}", headers=READ)).text()
    assert 'curl -s -H "Authorization: Bearer $TOKEN" http' in html.unescape(page)
