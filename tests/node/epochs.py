"""Members of later epochs as HTTP servers, and a replica that was away, for the tests of node."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from Crypto.PublicKey import ECC

from ci.state_partitions import LEDGER_PART, ChainPart
from common.address import Address
from common.configuration.config import NodeConfig
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster
from tests.ci.builders import cluster_of
from tests.client.cluster_file import write_cluster
from tests.client.commands.epoch_links import lead, state_at_end
from tests.client.running_network import key_of
from tests.node.storage.test_epoch_folder import chain
from tests.secret_files import secret_file

AWAY = "replica-0"
NEW = "replica-4"
LEDGER = chain()
_LEDGER_END = {LEDGER_PART: msgspec.msgpack.encode(ChainPart(LEDGER[-1].index, LEDGER[-1].head))}

FIRST = cluster_of()
GROWN = cluster_of(7)
TO_SECOND, SECOND = lead(FIRST, GROWN, more=_LEDGER_END)
TO_THIRD, THIRD = lead(SECOND, FIRST, more=_LEDGER_END)
# what the second and the third epoch begin with
STATES = {
    1: state_at_end(FIRST, GROWN, _LEDGER_END),
    2: state_at_end(SECOND, FIRST, _LEDGER_END),
}


class Others:
    """All replicas but the one that was away: what each gives, and what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # by epoch that they lead on from, and by epoch that begins with them
        self.links: dict[int, EpochLink | bytes] = {}
        self.states: dict[int, bytes] = {
            epoch: msgspec.msgpack.encode(parts) for epoch, parts in STATES.items()
        }
        # of some replicas: another state, or none for ever
        self.lies: dict[str, bytes] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.addresses: dict[str, Address] = {}
        self._servers: list[TestServer] = []

    async def start(self) -> None:
        for name in GROWN.replica_names:
            server = self._server(name)
            await server.start_server()
            self._servers.append(server)
            self.addresses[name] = Address(server.host, server.port or 0)

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    def _server(self, name: str) -> TestServer:
        async def links(request: web.Request) -> web.Response:
            link = self.links.get(int(request.query["after"]))
            if link is None or name == AWAY:
                raise web.HTTPNotFound
            body = link if isinstance(link, bytes) else msgspec.msgpack.encode(link)
            return web.Response(body=body)

        async def state(request: web.Request) -> web.StreamResponse:
            self.asked.append(name)
            if name in self.silent:
                answer = web.StreamResponse()
                await answer.prepare(request)
                while True:
                    await answer.write(b"\x80")
                    await asyncio.sleep(0.05)
            epoch = int(request.query["epoch"])
            if epoch not in self.states:
                raise web.HTTPGone
            return web.Response(body=self.lies.get(name, self.states[epoch]))

        app = web.Application()
        app.router.add_get("/pbft/links", links)
        app.router.add_get("/pbft/begin-state", state)
        return TestServer(app)

    def put_file(self, cluster: Cluster, name: str, more: Mapping[str, str] = {}) -> Path:
        """The cluster file of these members, as the file of that name."""
        folder = self.folder / f"for {name}"
        folder.mkdir(exist_ok=True)
        text = write_cluster(folder, cluster, self.addresses).read_text()
        file = self.folder / name
        file.write_text(text.replace("public_key_file: ", f"public_key_file: {folder}/"))
        return file

    def config(self, name: str, cluster_file: Path) -> NodeConfig:
        """A node's configuration and key."""
        key = ECC.construct(curve="Ed25519", seed=key_of(name).seed)
        file = self.folder / f"{name}.key"
        secret_file(file, key.export_key(format="PEM"))
        return NodeConfig(
            file=self.folder / "node.yml",
            cluster_file=cluster_file,
            name=name,
            private_key_file=file,
            listen=self.addresses[name],
            data_directory=self.folder / "data",
            log_file=self.folder / "log",
            repositories=(),
        )
