"""http_tokens: which tokens are taken, in which forms, and what is said to all others."""

import base64
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.configuration.secret_file import BEARER_TOKEN_CHARACTERS_MAX
from common.web.http_tokens import ask_for_token

LONG = "t" * BEARER_TOKEN_CHARACTERS_MAX
TOKENS = (b"old-token", b"new-token", LONG.encode())


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture
async def client() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async def show(request: web.Request) -> web.Response:
        return web.Response(text="shown")

    asked = ask_for_token(TOKENS, lambda route: route != "/open/{name}")
    application = web.Application(middlewares=[asked])
    application.router.add_get("/open/{name}", show)
    application.router.add_get("/closed/{name}", show)
    async with TestClient(TestServer(application)) as client:
        yield client


@pytest.mark.parametrize(
    "shown",
    [
        "Bearer old-token",
        "bearer  new-token ",
        f"Bearer {LONG}",
        basic("anybody:old-token"),
        basic(":new-token"),
        basic(f"somebody-with-a-name:{LONG}"),
    ],
)
async def test_a_token_is_taken_as_bearer_or_as_the_password_of_basic(
    client: TestClient[web.Request, web.Application], shown: str
) -> None:
    answer = await client.get("/closed/x", headers={"Authorization": shown})
    assert (answer.status, await answer.text()) == (200, "shown")


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "old-token",
        "Bearer",
        "Bearer old-toke",
        "Bearer old-token2",
        "Bearer old-token new-token",
        f"Bearer {LONG}t",
        "Bearer " + "\u00e9",
        "Basic old-token",
        "Basic =",
        "Basic abc",
        basic("old-token"),
        basic("old-token:"),
        basic("name:OLD-TOKEN"),
        basic("name:\u00e9\u20ac"),
        basic("name:" + "x" * 3000),
        "Digest old-token",
    ],
)
async def test_anything_else_is_401_and_says_how(
    client: TestClient[web.Request, web.Application], shown: str
) -> None:
    for path in ("/closed/x", "/no-such-route"):
        answer = await client.get(path, headers={"Authorization": shown})
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert "Authorization: Bearer TOKEN" in (await answer.json())["error"]
    assert (await client.get("/open/x", headers={"Authorization": shown})).status == 200
