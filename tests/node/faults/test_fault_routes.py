"""POST /pbft/simulate-byzantine: only where it is allowed, and passed on to who is meant."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.address import Address
from common.web.peers import Peers
from common.web.request_body import Bodies
from node.faults.fault_routes import FaultRoutes
from node.faults.misbehaviours import DESCRIPTIONS, KINDS, Faults
from node.web.fault_switch import FaultSwitch, NoFaults

PATH = "/pbft/simulate-byzantine"


class Pair:
    """Two nodes' routes; node1 knows where node2 is."""

    def __init__(self, first: FaultRoutes, client: TestClient[Any, Any], second: FaultSwitch):
        self.first = first
        self.client = client
        self.second = second

    async def ask(self, body: object) -> tuple[int, dict[str, Any]]:
        answer = await self.client.post(PATH, json=body)
        return answer.status, await answer.json()


def served(routes: FaultSwitch) -> TestServer:
    application = web.Application()
    application.add_routes(routes.routes(Bodies(4096)))
    return TestServer(application)


@pytest.fixture(params=[True], ids=["both allow"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    second: FaultSwitch = NoFaults()
    if request.param:
        second = FaultRoutes(name="node2", faults=Faults(), peers=Peers({}))
    async with served(second) as server:
        peers = {"node2": Address("127.0.0.1", server.port or 0)}
        first = FaultRoutes(name="node1", faults=Faults(), peers=Peers(peers))
        async with TestClient(served(first)) as client:
            yield Pair(first, client, second)


async def test_a_node_is_switched_and_listed(pair: Pair) -> None:
    status, answer = await pair.ask({"node_id": "node1"})
    assert (status, answer["fault_injection"], answer["byzantine_nodes"]) == (
        200,
        "lying",
        ["node1"],
    )
    for kind in KINDS:
        assert (await pair.ask({"node_id": "node1", "fault": kind}))[0] == 200
        assert pair.first.kind == kind
    status, answer = await pair.ask({"node_id": "node1", "fault": None})
    assert (status, answer["byzantine_nodes"]) == (200, [])


async def test_another_node_is_asked_itself(pair: Pair) -> None:
    status, answer = await pair.ask({"node_id": "node2", "fault": "silent"})
    assert (status, answer["byzantine_nodes"]) == (200, ["node2"])
    assert pair.second.kind == "silent"
    assert pair.first.kind is None
    await pair.ask({"node_id": "node2", "fault": None})
    assert (pair.first.injected, pair.second.injected) == (set(), set())


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["node2 does not allow it"])
async def test_it_must_be_allowed_at_both(pair: Pair) -> None:
    status, answer = await pair.ask({"node_id": "node2"})
    assert status == 502
    assert "node2: fault injection is off here" in answer["error"]
    assert pair.first.injected == set()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"node_id": "node9"}, 404, "node1, node2"),
        ({"node_id": "node1", "fault": "cursing"}, 400, "equivocating"),
        ({"node_id": "node1", "falt": "lying"}, 400, "falt"),
        ({}, 400, "node_id"),
        (7, 400, "node_id"),
    ],
)
async def test_what_is_wrong_is_said(pair: Pair, body: object, status: int, says: str) -> None:
    got, answer = await pair.ask(body)
    assert (got, says in answer["error"]) == (status, True), answer


def test_each_kind_is_told_with_what_it_does_and_only_where_it_is_allowed() -> None:
    assert tuple(DESCRIPTIONS) == KINDS
    assert FaultRoutes(name="node1", faults=Faults(), peers=Peers({})).kinds == DESCRIPTIONS
    assert NoFaults().kinds is None
