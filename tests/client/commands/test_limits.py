"""`limits`: what is refused before anything is signed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from Crypto.PublicKey import ECC

from client.main import main
from common.address import Address
from node.web.limits_json import limits as limits_json
from tests.ci.operated_world import OperatedWorld
from tests.client.cluster_file import write_cluster
from tests.client.running_network import key_of
from tests.secret_files import secret_file

REPLICAS = ("replica-0", "replica-1", "replica-2", "replica-3")


class Nodes:
    """Four HTTP servers that answer /pbft/limits, or do not know it."""

    def __init__(self, world: OperatedWorld) -> None:
        self.world = world
        self.older: set[str] = set()
        # those that say no names of limits
        self.before_cells_max: set[str] = set()
        self.asked: list[str] = []

    def server(self, name: str) -> TestServer:
        async def limits(request: web.Request) -> web.Response:
            self.asked.append(name)
            if name in self.older:
                raise web.HTTPNotFound
            application = self.world.application
            said = limits_json(
                application.limit_changes, application.limits, self.world.cluster, executed=7
            )
            if name in self.before_cells_max:
                del said["known"]
            return web.json_response(said)

        app = web.Application()
        app.router.add_get("/pbft/limits", limits)
        return TestServer(app)


class Place:
    """Nodes, a cluster file that lists them, and the operators' keys."""

    def __init__(self, nodes: Nodes, cluster_file: Path, folder: Path) -> None:
        self.nodes = nodes
        self.cluster_file = cluster_file
        self.folder = folder

    async def type(self, *words: str) -> int:
        return await asyncio.to_thread(
            main, ["limits", *words, "--cluster", str(self.cluster_file)]
        )

    async def sign(self, operator: str, *words: str) -> int:
        key = self.folder / f"{operator}.private.pem"
        if not key.exists():
            secret_file(key, private_pem(operator))
        return await self.type(*words, "--operator-key", str(key))


def private_pem(name: str) -> str:
    key = ECC.construct(curve="Ed25519", seed=bytes(key_of(name)._key))
    return key.export_key(format="PEM")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    world = OperatedWorld({"anna": (0,), "olga": (0, 1, 2, 3)})
    nodes = Nodes(world)
    servers = {name: nodes.server(name) for name in REPLICAS}
    for server in servers.values():
        await server.start_server()
    addresses = {name: Address("127.0.0.1", server.port or 0) for name, server in servers.items()}
    yield Place(nodes, write_cluster(tmp_path, world.cluster, addresses), tmp_path)
    for server in servers.values():
        await server.close()


async def test_what_holds_is_what_the_replicas_say(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await place.type("show") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("limits of the genesis, according to replica-0, replica-1")
    assert '\n  executors: "all"\n' in shown
    assert await place.type("show", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["serial"], told["proposals"], told["limits"]["executors"]) == (0, 0, "all")
    assert "replica-0" in told["replicas"]
    assert await place.type("pending") == 0
    assert capsys.readouterr().out == "no change of limits is proposed\n"


@pytest.mark.parametrize("words", [("propose", "pids_max=99", "--yes"), ("approve", "--yes")])
async def test_nothing_is_signed_while_a_replica_does_not_know_the_operation(
    place: Place, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """It would refuse what the others execute, and come to another state."""
    place.nodes.older = {"replica-2"}
    assert await place.sign("olga", *words) == 3
    error = capsys.readouterr().err
    assert "replica-2: runs a version that knows no changes of limits" in error


async def test_a_limit_that_a_replica_does_not_know_is_not_proposed(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.nodes.before_cells_max = {"replica-2"}
    assert await place.sign("olga", "propose", "cells_max=20", "pids_max=99", "--yes") == 3
    error = capsys.readouterr().err
    assert "replica-2: runs a version that does not know cells_max" in error


@pytest.mark.parametrize(
    ("words", "code", "wrong"),
    [
        (("pids_max=512",), 2, "these are the limits that hold already"),
        (("pids_max=1",), 2, "limits.pids_max: is 1"),
        (("pids=99",), 2, "limits.pids: there is no such key (did you mean pids_max?)"),
        (("executors=some",), 2, "limits.executors: is 'some'"),
        (("waiting_builds_per_client_max=10000",), 2, "the state could have"),
        (("pids_max=99", "--until", "7"), 2, "--until 7: the sequence number is 7 already"),
        (("nothing.yml",), 2, "nothing.yml: cannot be read"),
        (("pids_max=99",), 2, "no terminal to ask for confirmation; add --yes"),
    ],
)
async def test_what_cannot_be_proposed_is_one_line(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    wrong: str,
) -> None:
    monkeypatch.setattr("sys.stdin", (place.folder / "empty").open("w+"))
    assert await place.sign("olga", "propose", *words) == code
    error = capsys.readouterr().err
    assert wrong in error
    assert error.count("\n") == 1


async def test_a_file_of_limits_and_the_table_of_what_would_change(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.folder / "new.yml"
    file.write_text("limits:\n  pids_max: 99\n  cpus: 2\n")
    monkeypatch.setattr("sys.stdin", (place.folder / "empty").open("w+"))
    assert await place.sign("olga", "propose", str(file)) == 2
    shown = capsys.readouterr().out
    assert "cpus      1.0  2.0" in shown
    assert "pids_max  512  99" in shown
    assert "(16 others stay as they are)" in shown
    assert "up to sequence number 100007" in shown


async def test_who_has_no_say_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert await place.sign("operator", "propose", "pids_max=99", "--yes") == 2
    assert "operator stands for no replica in the cluster file" in capsys.readouterr().err
    assert await place.sign("gateway", "propose", "pids_max=99", "--yes") == 2
    assert "gateway has not the role operator" in capsys.readouterr().err


async def test_which_proposal_is_meant(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert await place.sign("olga", "approve", "--yes") == 2
    assert "no proposed change is pending" in capsys.readouterr().err
    digest = place.nodes.world.proposed("anna").hex()
    assert await place.type("pending") == 0
    shown = capsys.readouterr().out
    assert f"digest    {digest}" in shown
    assert "approved  by anna, for 1 of the 3 replicas needed" in shown
    assert await place.sign("olga", "approve", "ffff", "--yes") == 2
    assert "no proposed change begins with ffff" in capsys.readouterr().err
