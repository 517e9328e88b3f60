"""`members`: what is shown, and what is refused before anything is signed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from Crypto.PublicKey import ECC

from ci.limits import Limits
from ci.member_changes import ready_bytes
from ci.operations import ProposeMembers, Ready
from client.commands.members import _print_changes
from client.main import main
from common.address import Address
from common.membership.confirmation import read_cluster
from node.web.members_json import members as members_json
from pbft.genesis import Cluster
from tests.ci.builders import cluster_of, signing_key
from tests.ci.operated_world import UNTIL, OperatedWorld
from tests.client.cluster_file import write_cluster
from tests.client.running_network import Node, key_of
from tests.secret_files import secret_file

REPLICAS = ("replica-0", "replica-1", "replica-2", "replica-3")
NEW_KEY = "the new key of replica-3"


class Place:
    """Four HTTP servers that answer /pbft/members, the cluster file, and the operators' keys."""

    def __init__(self, folder: Path) -> None:
        self.world = OperatedWorld({"anna": (0,), "olga": (1, 2, 3)})
        self.core = Node(self.world.cluster, REPLICAS[0], Limits()).replica.core
        self.older: set[str] = set()
        self.folder = folder
        self.cluster_file = folder / "cluster.yml"

    def server(self, name: str) -> TestServer:
        async def members(request: web.Request) -> web.Response:
            if name in self.older:
                raise web.HTTPNotFound
            return web.json_response(members_json(self.world.application.member_changes, self.core))

        app = web.Application()
        app.router.add_get("/pbft/members", members)
        return TestServer(app)

    async def type(self, *words: str) -> int:
        return await asyncio.to_thread(
            main, ["members", *words, "--cluster", str(self.cluster_file)]
        )

    async def sign(self, operator: str, *words: str) -> int:
        key = self.folder / f"{operator}.private.pem"
        if not key.exists():
            secret_file(key, private_pem(operator))
        return await self.type(*words, "--operator-key", str(key))

    def next(self, name: str = "next.yml", **changed: Any) -> Path:
        """The cluster file with another key for replica-3, and with these keys changed."""
        settings = yaml.safe_load(self.cluster_file.read_text())
        key = bytes(signing_key(NEW_KEY).verify_key).hex()
        _set_key(settings["replicas"][3], f"ed25519:{key}")
        for place, value in changed.items():
            settings[place] = value(settings[place]) if callable(value) else value
        file = self.folder / name
        file.write_text(yaml.safe_dump(settings))
        return file

    def readies(self, following: Path, *names: str) -> tuple[str, ...]:
        """Files in which these replicas of the next epoch say that they are ready."""
        files = []
        for ready in self.signed(read_cluster(following)[1], *names):
            file = self.folder / f"{following.stem}.{ready.replica}.ready.yml"
            said = {"replica": ready.replica, "signature": ready.signature.hex()}
            file.write_text(yaml.safe_dump(said))
            files.append(str(file))
        return tuple(files)

    def signed(self, following: Cluster, *names: str) -> tuple[Ready, ...]:
        message = ready_bytes(self.world.cluster.id, following.configuration)
        keys = {name: signing_key(NEW_KEY if name == REPLICAS[3] else name) for name in names}
        return tuple(Ready(name, key.sign(message).signature) for name, key in keys.items())

    def proposed(self, following: Cluster) -> str:
        """Anna has proposed these members; the digest."""
        operation = ProposeMembers(UNTIL, following.encoded, self.signed(following, *REPLICAS))
        applied = self.world.apply("anna", operation)
        assert applied.kind == "done", applied.result
        return applied.subject.hex()


def _set_key(entry: dict[str, Any], key: str) -> dict[str, Any]:
    entry.pop("public_key_file", None)
    entry["public_key"] = key
    return entry


def private_pem(name: str) -> str:
    key = ECC.construct(curve="Ed25519", seed=bytes(key_of(name)._key))
    return key.export_key(format="PEM")


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    servers = {name: place.server(name) for name in REPLICAS}
    for server in servers.values():
        await server.start_server()
    addresses = {name: Address("127.0.0.1", server.port or 0) for name, server in servers.items()}
    write_cluster(tmp_path, place.world.cluster, addresses)
    monkeypatch.setattr("sys.stdin", (tmp_path / "empty").open("w+"))
    yield place
    for server in servers.values():
        await server.close()


async def test_nothing_is_signed_while_a_replica_does_not_know_the_operation(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would refuse what the others execute, and come to another state."""
    place.older = {"replica-2"}
    following = place.next()
    ready = ("--ready", *place.readies(following, *REPLICAS))
    assert await place.sign("olga", "propose", str(following), *ready, "--yes") == 3
    assert await place.sign("olga", "approve", str(following), "--yes") == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    for error in errors:
        assert "replica-2: runs a version that knows no changes of members" in error


def _vacate_two(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*entries[:2], *(_set_key(entry, "vacant") for entry in entries[2:])]


@pytest.mark.parametrize(
    ("changed", "ready", "flags", "wrong"),
    [
        ({"limits": {"pids_max": 99}}, (), (), "the limits are others than those"),
        ({"replicas": _vacate_two}, (), (), "2 seats are vacant, and f is 1"),
        ({}, REPLICAS[:3], (), "a replica with a new key is not ready"),
        ({}, REPLICAS[2:], (), "2 replicas are ready, and it takes 3"),
        ({}, REPLICAS, ("--until", "0"), "--until 0: the sequence number is 0 already"),
        ({}, REPLICAS, (), "no terminal to ask for confirmation; add --yes"),
    ],
)
async def test_what_cannot_be_proposed_is_one_line(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    ready: tuple[str, ...],
    flags: tuple[str, ...],
    wrong: str,
) -> None:
    following = place.next(**changed)
    files = place.readies(following, *ready) or place.readies(place.next("other.yml"), REPLICAS[3])
    words = ("propose", str(following), "--ready", *files, *flags)
    assert await place.sign("olga", *words) == 2
    error = capsys.readouterr().err
    assert wrong in error
    assert error.count("\n") == 1


async def test_the_present_members_and_others_readies_cannot_be_proposed(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    following = place.next()
    of_another = place.readies(place.next("other.yml", checkpoint_interval=64), *REPLICAS)
    words = ("propose", str(place.cluster_file), "--ready", *of_another)
    assert await place.sign("olga", *words) == 2
    assert "this is the configuration of the present epoch" in capsys.readouterr().err
    assert await place.sign("olga", "propose", str(following), "--ready", *of_another) == 2
    assert "said to be ready does not hold" in capsys.readouterr().err


async def test_who_comes_goes_and_has_another_key_is_shown(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    following = place.next(
        clients=lambda entries: [entry for entry in entries if entry["name"] != "olga"],
        protocol=2,
        client_window=100,
    )
    ready = ("--ready", *place.readies(following, *REPLICAS))
    assert await place.sign("olga", "propose", str(following), *ready) == 2
    shown = capsys.readouterr().out
    key = bytes(signing_key(NEW_KEY).verify_key).hex()
    assert f"has another key  replica-3  replica  ed25519:{key}" in shown
    assert "goes             olga" in shown
    assert "4 replicas of which 1 may fail -> 4 replicas of which 1 may fail" in shown
    assert "  protocol 1 -> 2\n  client_window 256 -> 100\n" in shown
    assert "checkpoint_interval" not in shown
    assert "warning: fewer than 3 of the next replicas have an operator" in shown


def test_a_change_that_leaves_nobody_with_the_ledger_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warning = "warning: no replica stays, so nobody in the next epoch has the ledger"
    first, new = cluster_of(), cluster_of(prefix="new")
    _print_changes(first, new)
    assert warning in capsys.readouterr().out
    replicas = (first.genesis.replicas[0], *new.genesis.replicas[1:])
    _print_changes(first, Cluster(msgspec.structs.replace(new.genesis, replicas=replicas)))
    assert warning not in capsys.readouterr().out


async def test_an_approval_is_of_the_members_in_the_own_file(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    following = place.next()
    assert await place.type("pending") == 0
    assert capsys.readouterr().out == "no change of members is proposed\n"
    digest = place.proposed(read_cluster(following)[1])
    assert await place.type("pending") == 0
    shown = capsys.readouterr().out
    assert f"digest    {digest}" in shown
    assert "approved  by anna, for 1 of the 3 replicas needed" in shown
    assert "has another key  replica-3" in shown
    other = place.next("other.yml", checkpoint_interval=64)
    assert await place.sign("olga", "approve", str(other), "--yes") == 2
    assert "no pending proposal has these members" in capsys.readouterr().err
    assert await place.sign("olga", "approve", str(following), "ffff", "--yes") == 2
    assert "no pending proposal has these members" in capsys.readouterr().err
    assert await place.sign("olga", "withdraw") == 2
    assert "no pending proposal is one that olga approved" in capsys.readouterr().err
    assert await place.sign("olga", "approve", str(following), digest[:6]) == 2
    assert "no terminal to ask" in capsys.readouterr().err


async def test_what_a_node_shows_under_a_digest_of_something_else_is_left_out(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.proposed(read_cluster(place.next())[1])
    real = members_json(place.world.application.member_changes, place.core)
    lie = json.loads(json.dumps(real))
    lie["pending"][0]["until"] += 1
    monkeypatch.setattr(f"{__name__}.members_json", lambda changes, core: lie)
    assert await place.type("pending") == 0
    assert capsys.readouterr().out == "no change of members is proposed\n"
