"""A gateway's pages, for the tests of those that tell of the nodes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.network import network_watch, nodes
from tests.client.running_network import Running
from tests.client.site import Client, client_of


@pytest.fixture
async def client(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """It asks the nodes anew for each page, and waits for them."""
    monkeypatch.setattr(network_watch, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "STATUS_TIMEOUT_SECONDS", 60.0)
    client = await client_of(running, tmp_path)
    yield client
    await client.close()
