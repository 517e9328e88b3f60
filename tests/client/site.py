"""A gateway over HTTP: what it serves, and a client of it."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from client.api.routes import Site
from client.network.limits_history import LimitsHistory
from client.network.network_watch import NetworkWatch
from client.serve import make_application
from common.address import Address
from common.configuration.config import ClientConfig, GatewayRepository
from tests.ci.builders import GATEWAY
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Running, repositories

Client = TestClient[web.Request, web.Application]


def site_of(
    running: Running, folder: Path, listed: tuple[GatewayRepository, ...] | None = None
) -> Site:
    """What a gateway of these tests serves."""
    config = ClientConfig(
        file=folder / "client.yml",
        cluster_file=folder / "cluster.yml",
        name=GATEWAY,
        private_key_file=folder / "key",
        listen=Address("127.0.0.1", 8080),
        data_directory=folder / "data",
        log_file=folder / "log",
        results_file=running.results_file,
        repositories=listed or repositories(),
        public_url="http://localhost:8080/",
    )
    return Site(
        config=config,
        version="1.2.3",
        gateway=running.gateway,
        archive=running.archive,
        collector=running.collector,
        network=NetworkWatch(
            running.network.cluster,
            running.nodes,
            lambda: frozenset({"replica-0"}),
            limits=LimitsHistory(running.network.limits),
        ),
    )


async def client_of(running: Running, folder: Path) -> Client:
    """A client of its HTTP server, which is started."""
    client: Client = TestClient(TestServer(make_application(site_of(running, folder))))
    await client.start_server()
    return client


async def post(client: Client, body: object, path: str = "/webHook") -> tuple[int, dict[str, Any]]:
    """Status and answer of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post(path, data=data)
    return answer.status, await answer.json()


async def get(client: Client, path: str) -> tuple[int, dict[str, Any]]:
    """Status and answer of a GET."""
    answer = await client.get(path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.status, await answer.json()


async def decided_build(running: Running, client: Client, branch: str = "master") -> str:
    """The id of a new build, once its verdict is known."""
    _, accepted = await post(client, {"branch": branch})
    build = str(accepted["build"])
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    return build
