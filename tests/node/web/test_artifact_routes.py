"""node.web.artifact_routes: who takes nothing of an artifact has no place for long."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ci.operations import Artifact
from common.web import sent_file
from node.outputs.artifact_store import INDEX
from node.web import artifact_routes
from node.web.artifact_routes import ArtifactRoutes
from tests.node.conftest import PATIENCE_SECONDS
from tests.node.local_network import Client

PATH = f"/builds/{'ab' * 32}/artifacts/file?opened=7"
# more than the system takes for a reader who reads nothing
CONTENT = bytes(range(256)) * (32 * 2**20 // 256)


class OneBuild:
    """As a build runner that keeps what one build made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def artifacts_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.artifacts_path."""
        return self._folder


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    digest = hashlib.sha256(CONTENT).hexdigest()
    listed = (Artifact("file", digest, len(CONTENT)),)
    (tmp_path / INDEX).write_bytes(msgspec.json.encode(listed))
    (tmp_path / digest).write_bytes(CONTENT)
    application = web.Application()
    application.add_routes(ArtifactRoutes(OneBuild(tmp_path)).routes())
    async with TestClient(TestServer(application)) as made:
        yield made


async def status_of(client: Client) -> int:
    """The answer to somebody who reads all of it."""
    async with client.get(PATH) as response:
        assert await response.read() == CONTENT or response.status != 200
        return response.status


async def test_a_reader_who_takes_nothing_loses_its_place(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_routes, "SENDING_MAX", 1)
    monkeypatch.setattr(sent_file, "WRITE_TIMEOUT_SECONDS", 3.0)
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=1024)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert await status_of(client) == 503
    async with asyncio.timeout(PATIENCE_SECONDS):
        status = 503
        while status == 503:
            await asyncio.sleep(0.05)
            status = await status_of(client)
        assert status == 200
        # what was on its way still comes, and then the connection has ended
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(2**20):
                taken += len(data)
    assert taken < len(CONTENT)
    writer.close()
