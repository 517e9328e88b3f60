"""What `check` says of the other members, and of this machine's clock."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from common.address import Address
from common.checks.members import check_clock, check_members
from common.configuration.keys import SigningKey
from common.finding import Finding, State
from common.links.link import LINK_PATH, Inbox, Links
from common.version import VERSION
from common.web.limited_listener import LimitedListener
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from scripts.free_ports import free_ports

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "r1", "thief")}
CLUSTER = Cluster(
    Genesis(
        PROTOCOL_MIN,
        (Member("r0", KEYS["r0"].public_key, ("replica",)),),
        (Member("r1", KEYS["r1"].public_key, ("gateway",)),),
        128,
        256,
        256,
        b"",
    )
)
RIGHT = {"node_id": "r0", "version": VERSION, "cluster": CLUSTER.id.hex(), "later": 1}


@asynccontextmanager
async def replica(
    status: object, *, key: str = "r0", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Address]:
    """Who listens as r0, with that key and that status."""
    links = Links(
        Identity(CLUSTER, "r0", KEYS[key].sign),
        dial=Peers({}),
        inbox=Inbox(lambda peer, envelopes: None),
    )

    async def tell(request: web.Request) -> web.Response:
        return web.json_response(status, headers=headers)

    app = web.Application()
    app.router.add_get(LINK_PATH, links.handle)
    app.router.add_get("/pbft/status", tell)
    listener = LimitedListener(app)
    await listener.open(Address("127.0.0.1", 0))
    yield Address("127.0.0.1", listener.sockets[0].getsockname()[1])
    await links.close()
    await listener.end()


async def look(address: Address) -> tuple[Finding, Finding]:
    """What r1 finds of r0 at that address, and of the clock."""
    found = await check_members(Identity(CLUSTER, "r1", KEYS["r1"].sign), Peers({"r0": address}))
    of_replica, clock = found
    assert (of_replica.subject, clock.subject) == ("replica r0", "clock")
    return of_replica, clock


async def test_a_replica_proves_its_key_and_says_the_time() -> None:
    async with replica(RIGHT) as address:
        of_replica, clock = await look(address)
    assert of_replica.text == f"{address} proved its key; version {VERSION}"
    assert (of_replica.state, clock.state) == (State.OK, State.OK)


async def test_nobody_at_the_address_may_come_yet() -> None:
    address = Address("127.0.0.1", free_ports(1)[0])
    of_replica, clock = await look(address)
    assert (of_replica.state, "may not run yet" in of_replica.text) == (State.WARNING, True)
    assert (clock.state, "no replica answers" in clock.text) == (State.WARNING, True)


@pytest.mark.parametrize(
    ("status", "key", "state", "text"),
    [
        ({**RIGHT, "version": "0.0.1"}, "r0", State.WARNING, f"0.0.1, and this is {VERSION}"),
        ({**RIGHT, "cluster": 64 * "a"}, "r0", State.WRONG, "is of the cluster aaaaaaaaaaaaaaaa"),
        (RIGHT, "thief", State.WRONG, "no link: "),
        ({"status": "ok"}, "r0", State.WRONG, "is no node of PBFT/CI"),
    ],
    ids=["another version", "another cluster", "another key", "another program"],
)
async def test_whoever_is_not_as_the_cluster_file_has_it(
    status: object, key: str, state: State, text: str
) -> None:
    async with replica(status, key=key) as address:
        of_replica, _ = await look(address)
    assert of_replica.state is state, of_replica
    assert text in of_replica.text


async def test_a_clock_that_is_behind_is_told() -> None:
    later = {"Date": "Tue, 01 Jan 2999 00:00:00 GMT"}
    async with replica(RIGHT, headers=later) as address:
        _, clock = await look(address)
    assert (clock.state, "s behind, compared with r0: set it by NTP" in clock.text) == (
        State.WARNING,
        True,
    )


@pytest.mark.parametrize(
    ("ahead", "state", "text"),
    [
        ({"r1": 0.4, "r2": -0.3, "r3": 600.0}, State.OK, "right to 10 s"),
        ({"r1": 0.4, "r2": -0.3, "r3": -1e9}, State.OK, "right to 10 s"),
        ({"r1": -598.0, "r2": -600.0, "r3": 0.0}, State.WARNING, "598 s ahead"),
    ],
    ids=["one is ahead", "one lies", "ours is ahead"],
)
def test_one_liar_moves_no_clock(ahead: Mapping[str, float], state: State, text: str) -> None:
    found = check_clock(ahead)
    assert (found.state, text in found.text) == (state, True), found
