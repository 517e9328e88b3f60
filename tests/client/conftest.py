"""A network in memory and a gateway on it, started and stopped around a test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client.storage.database import Database
from tests.client.running_network import Network, Running, run_gateway
from tests.client.site import Client, client_of


@pytest.fixture(autouse=True)
def _waits_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page does not wait long for a slow node; on a busy machine every node is one."""
    monkeypatch.setattr("client.api.routes.GLANCE_TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr("client.dashboard.build_logs.TAIL_TIMEOUT_SECONDS", 60.0)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    """Four nodes."""
    network = Network()
    await network.start()
    yield network
    await network.close()


@pytest.fixture
async def running(network: Network, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway whose branches all point at one commit."""
    running = await run_gateway(network, tmp_path)
    yield running
    await running.close()


@pytest.fixture
async def client(running: Running, tmp_path: Path) -> AsyncIterator[Client]:
    """An HTTP client of this gateway."""
    client = await client_of(running, tmp_path)
    yield client
    await client.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A gateway's database, of its own."""
    database = Database(tmp_path, bytes(32), "client")
    yield database
    database.close()
