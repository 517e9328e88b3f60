"""node.web.kept_file_routes: what a node keeps beside a build's log, as others fetch it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from node.web import kept_file_routes
from node.web.kept_file_routes import KeptFileRoutes
from tests.node.local_network import Client

PATH = f"/builds/{'ab' * 32}/tests"


class OneBuild:
    """As a build runner that keeps the test cases of one build."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def cases_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.cases_path."""
        return self._file if (build, opened) == (b"\xab" * 32, 7) else Path("/nowhere")

    def commits_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.commits_path."""
        return self._file.with_name("commits")

    def times_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.times_path."""
        return self._file.with_name("log-times")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    application = web.Application()
    application.add_routes(KeptFileRoutes(OneBuild(tmp_path / "tests.json")).routes())
    async with TestClient(TestServer(application)) as made:
        yield made


async def test_the_file_is_served_as_it_is(client: Client, tmp_path: Path) -> None:
    content = b'{"report_sha256":null,"problem":"said","cases":[]}'
    (tmp_path / "tests.json").write_bytes(content)
    async with client.get(PATH, params={"opened": "7"}) as response:
        assert (response.status, await response.read()) == (200, content)
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_commits_and_times_have_routes_of_their_own(client: Client, tmp_path: Path) -> None:
    for path, name, kind in (
        ("commits", "commits", "application/octet-stream"),
        ("log/times", "log-times", "text/plain"),
    ):
        (tmp_path / name).write_bytes(name.encode())
        async with client.get(PATH.replace("tests", path), params={"opened": "7"}) as response:
            assert (response.status, await response.read()) == (200, name.encode())
            assert response.headers["Content-Type"] == kind


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{PATH}?opened=7", 404),
        (f"{PATH}?opened=8", 404),
        (PATH, 404),
        (f"{PATH}?opened=-1", 400),
        (f"{PATH}?opened=x", 400),
        ("/builds/ab/tests", 404),
    ],
)
async def test_what_is_not_there(client: Client, path: str, status: int) -> None:
    async with client.get(path) as response:
        assert response.status == status


async def test_few_are_sent_at_once(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests.json").write_bytes(b"{}")
    monkeypatch.setattr(kept_file_routes, "SENDING_MAX", 0)
    async with client.get(PATH, params={"opened": "7"}) as response:
        assert response.status == 503
    monkeypatch.setattr(kept_file_routes, "SENDING_MAX", 1)
    for _ in range(2):
        async with client.get(PATH, params={"opened": "7"}) as response:
            assert response.status == 200
