"""client.going_over: a link is followed to the members of the operator's file, and no others."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from Crypto.PublicKey import ECC

from client import going_over
from client.going_over import GoingOver
from client.serve import read_member
from common.address import Address
from common.configuration.config import ClientConfig
from common.membership.confirmation import read_cluster
from common.membership.epochs import earlier_ids, in_present_epoch
from common.web.bounded_http import bounded_session
from common.web.peers import Peers
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster
from tests.ci.builders import GATEWAY, cluster_of
from tests.client.cluster_file import write_cluster
from tests.client.commands.epoch_links import lead, rekeyed
from tests.client.running_network import key_of
from tests.secret_files import secret_file

FIRST = cluster_of()
GROWN = cluster_of(7)
TO_GROWN, SECOND = lead(FIRST, GROWN)
TO_THIRD, THIRD = lead(SECOND, FIRST)
# of other members, also signed by strong replicas of the first epoch
TO_OTHER, OTHER = lead(FIRST, rekeyed(FIRST))


def without_gateway(cluster: Cluster) -> Cluster:
    others = tuple(client for client in cluster.genesis.clients if client.name != GATEWAY)
    return Cluster(msgspec.structs.replace(cluster.genesis, clients=others))


class Place:
    """Four HTTP servers that give links, and a gateway of the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links: dict[str, EpochLink | bytes] = {}
        # what they give to whoever has the first one
        self.further: dict[str, EpochLink | bytes] = {}
        self.asked: list[str] = []
        self.connected: frozenset[str] = frozenset()
        self.addresses: dict[str, Address] = {}
        self.going_over: GoingOver | None = None

    def server(self, name: str) -> TestServer:
        async def links(request: web.Request) -> web.Response:
            self.asked.append(name)
            given = self.links if request.query["after"] == "0" else self.further
            if name not in given:
                raise web.HTTPNotFound
            link = given[name]
            return web.Response(
                body=link if isinstance(link, bytes) else msgspec.msgpack.encode(link)
            )

        app = web.Application()
        app.router.add_get("/pbft/links", links)
        return TestServer(app)

    def begin(self) -> ClientConfig:
        """The gateway's files."""
        key = ECC.construct(curve="Ed25519", seed=key_of(GATEWAY).seed)
        secret_file(self.folder / "key.pem", key.export_key(format="PEM"))
        self.config = ClientConfig(
            file=self.folder / "client.yml",
            cluster_file=write_cluster(self.folder, FIRST, self.addresses),
            name=GATEWAY,
            private_key_file=self.folder / "key.pem",
            listen=Address("127.0.0.1", 8080),
            data_directory=self.folder / "data",
            log_file=self.folder / "log",
            results_file=self.folder / "results",
            repositories=(),
        )
        self.peers = Peers(self.addresses)
        return self.config

    def put_next(self, cluster: Cluster) -> None:
        """The operator gives the file of these members."""
        addresses = {
            name: self.addresses.get(name, Address("127.0.0.1", 1 + index))
            for index, name in enumerate(cluster.replica_names)
        }
        folder = self.folder / "next"
        folder.mkdir(exist_ok=True)
        file = write_cluster(folder, cluster, addresses)
        text = file.read_text().replace("public_key_file: ", f"public_key_file: {folder}/")
        (self.folder / "cluster.next.yml").write_text(text)

    async def look(self) -> str | None:
        """One look; `over`, or what the gateway waits for."""
        if self.going_over is None:
            self.going_over = GoingOver(
                self.config,
                FIRST,
                self.peers,
                connected=lambda: self.connected,
                on_over=lambda: None,
            )
        async with bounded_session() as session:
            is_over = await self.going_over.look(session)
        return "over" if is_over else self.going_over.waits_for

    def epoch(self) -> int:
        """Where the gateway starts now."""
        return read_member(in_present_epoch(self.config)).cluster.epoch


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    servers = [(name, made.server(name)) for name in FIRST.replica_names]
    try:
        for name, server in servers:
            await server.start_server()
            made.addresses[name] = Address(server.host, server.port or 0)
        made.begin()
        yield made
    finally:
        for _, server in servers:
            await server.close()


async def test_a_gateway_goes_over_once_a_replica_proves_the_next_epoch(place: Place) -> None:
    place.put_next(GROWN)
    assert await place.look() is None
    place.links["replica-2"] = TO_GROWN
    assert place.epoch() == 0
    assert await place.look() == "over"
    assert place.epoch() == 1
    present = in_present_epoch(place.config)
    assert read_cluster(present.cluster_file)[1].id == SECOND.id
    # of the epoch after that, the operator puts the file in the same place
    assert present.next_cluster_file == place.folder / "cluster.next.yml"


async def test_replicas_with_a_link_are_in_this_epoch_and_not_asked(place: Place) -> None:
    place.connected = frozenset(FIRST.replica_names) - {"replica-1"}
    assert await place.look() is None
    assert place.asked == ["replica-1"]


async def test_a_replica_that_moves_is_asked_where_the_next_file_has_it(place: Place) -> None:
    place.links["replica-0"] = TO_GROWN
    place.put_next(GROWN)
    place.peers = Peers(dict.fromkeys(place.addresses, Address("127.0.0.1", 1)))
    assert await place.look() == "over"


@pytest.mark.parametrize(
    "link",
    [
        msgspec.structs.replace(TO_GROWN, checkpoints=TO_GROWN.checkpoints[:2]),
        msgspec.structs.replace(TO_GROWN, configuration=OTHER.encoded),
        b"no link",
    ],
)
async def test_what_strong_replicas_did_not_sign_leads_nowhere(
    place: Place, link: EpochLink | bytes
) -> None:
    place.put_next(GROWN)
    place.links["replica-0"] = link
    assert await place.look() is None
    assert place.epoch() == 0


async def test_a_link_is_followed_to_the_members_of_the_operators_file_alone(place: Place) -> None:
    place.links["replica-0"] = TO_GROWN
    told = await place.look()
    assert told is not None
    assert "epoch 0 has ended, and the next one cannot begin here" in told
    assert "cluster.next.yml" in told
    place.put_next(OTHER)
    told = await place.look()
    assert told is not None
    assert "take the file that was proposed" in told
    assert place.epoch() == 0
    # it looks again, and asks nobody for what it has
    place.asked.clear()
    place.put_next(GROWN)
    assert await place.look() == "over"
    assert not place.asked


async def test_a_gateway_that_was_away_for_two_changes_passes_over_the_epoch_between(
    place: Place,
) -> None:
    place.links["replica-0"] = TO_GROWN
    place.further["replica-0"] = TO_THIRD
    place.put_next(FIRST)
    assert await place.look() == "over"
    assert place.epoch() == 2
    present = in_present_epoch(place.config)
    assert read_cluster(present.cluster_file)[1].id == THIRD.id
    # a database of an epoch that it was in is taken over, however long ago that was
    assert earlier_ids(present, THIRD) == (SECOND.id, FIRST.id)
    _, fourth = lead(THIRD, GROWN)
    _, fifth = lead(fourth, GROWN)
    assert earlier_ids(present, fifth) == (fourth.id, FIRST.id, THIRD.id)
    assert earlier_ids(present, FIRST) == ()


async def test_two_links_are_both_left_alone(place: Place) -> None:
    place.put_next(GROWN)
    place.links = {"replica-0": TO_GROWN, "replica-1": TO_OTHER}
    told = await place.look()
    assert told is not None
    assert "epoch 1 is proved twice" in told
    assert place.epoch() == 0


async def test_a_gateway_that_leaves_stays_and_says_so(place: Place) -> None:
    alone = without_gateway(FIRST)
    place.put_next(alone)
    place.links["replica-0"], _ = lead(FIRST, alone)
    told = await place.look()
    assert told is not None
    assert "gateway is no client of epoch 1" in told
    assert place.epoch() == 0


async def test_a_gateway_that_lacks_its_new_key_waits_for_it(place: Place) -> None:
    *others, last = FIRST.genesis.clients
    assert last.name != GATEWAY
    changed = tuple(
        msgspec.structs.replace(client, public_key=key_of("new").public_key)
        if client.name == GATEWAY
        else client
        for client in (*others, last)
    )
    named = Cluster(msgspec.structs.replace(FIRST.genesis, clients=changed))
    place.put_next(named)
    new = ECC.construct(curve="Ed25519", seed=key_of("new").seed)
    (place.folder / "next" / f"{GATEWAY}.pem").write_text(new.public_key().export_key(format="PEM"))
    place.links["replica-0"], _ = lead(FIRST, named)
    told = await place.look()
    assert told is not None
    assert "is not the key of gateway in epoch 1" in told
    secret_file(place.folder / "new.pem", new.export_key(format="PEM"))
    place.config = msgspec.structs.replace(
        place.config, next_private_key_file=place.folder / "new.pem"
    )
    place.going_over = None
    assert await place.look() == "over"
    assert place.epoch() == 1


async def test_a_crash_at_any_write_ends_in_the_old_epoch_or_the_new_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the next epoch's folder fails once; then the gateway tries again."""
    place.put_next(GROWN)
    place.links["replica-0"] = TO_GROWN
    for step in ("new_file", "write_new_file"):
        with monkeypatch.context() as patched:

            def fail(*_: object) -> None:
                raise OSError("the power is gone")

            patched.setattr(going_over, step, fail)
            told = await place.look()
            assert told is not None
            assert "the power is gone" in told
        assert place.epoch() == 0
    assert await place.look() == "over"
    assert place.epoch() == 1
