"""client.network.nodes: bounded questions, and one kind of error for every wrong answer."""

import base64
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client.network.nodes import NodeFailed, Nodes, NotThere, evidence_bytes_max
from common.address import Address
from common.web.peers import Peers
from pbft.codec import decode_signed, encode_signed
from pbft.genesis import Cluster, window_max
from pbft.messages import Signed
from tests.ci.builders import cluster_of


class Script:
    """A node that answers what a test says."""

    def __init__(self) -> None:
        self.answer = web.Response(status=200)
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        return self.answer


@pytest.fixture
async def script() -> AsyncIterator[tuple[Script, Nodes]]:
    script = Script()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", script.handle)
    server = TestServer(application)
    await server.start_server()
    async with Nodes(Peers({"node0": Address("127.0.0.1", int(server.port or 0))})) as nodes:
        yield script, nodes
    await server.close()


BUILD = bytes(range(32))


async def test_a_build(script: tuple[Script, Nodes]) -> None:
    node, nodes = script
    ballot = {"replica": "node0", "signed": base64.b64encode(b"x").decode()}
    answer = {"build": "00", "opened": 7, "state": "none", "decided": True, "ballots": [ballot]}
    node.answer = web.json_response(answer)
    served = await nodes.build("node0", BUILD)
    assert (served.opened, served.ballots[0].signed) == (7, b"x")
    assert node.asked == [f"/builds/{BUILD.hex()}"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"build": 1}', b"\xff", b"[" * 100_000])
async def test_nonsense_is_a_failure(script: tuple[Script, Nodes], body: bytes) -> None:
    node, nodes = script
    node.answer = web.Response(body=body)
    with pytest.raises(NodeFailed, match="node0"):
        await nodes.build("node0", BUILD)


async def test_what_is_not_there_and_what_fails(script: tuple[Script, Nodes]) -> None:
    node, nodes = script
    node.answer = web.Response(status=404)
    with pytest.raises(NotThere):
        await nodes.log("node0", BUILD, 1, bytes_max=100)
    node.answer = web.Response(status=500)
    with pytest.raises(NodeFailed, match="500"):
        await nodes.log("node0", BUILD, 1, bytes_max=100)


async def test_a_redirect_is_not_followed(script: tuple[Script, Nodes]) -> None:
    node, nodes = script
    node.answer = web.Response(status=302, headers={"Location": "/elsewhere"})
    with pytest.raises(NodeFailed, match="302"):
        await nodes.status("node0")
    assert node.asked == ["/pbft/status"]


async def test_a_log_is_bounded(script: tuple[Script, Nodes]) -> None:
    node, nodes = script
    node.answer = web.Response(body=bytes(100))
    assert await nodes.log("node0", BUILD, 3, bytes_max=100) == bytes(100)
    node.answer = web.Response(body=bytes(101))
    with pytest.raises(NodeFailed, match="longer than 100"):
        await nodes.log("node0", BUILD, 3, bytes_max=100)
    assert node.asked[0] == f"/builds/{BUILD.hex()}/log?opened=3"


async def test_a_ledger_that_ends_early_is_a_failure(script: tuple[Script, Nodes]) -> None:
    node, nodes = script
    node.answer = web.json_response({"entries": [], "index": 3, "head": "00"})
    with pytest.raises(NodeFailed, match=r"has 3 entries and does not give entry 1: ask"):
        await nodes.ledger("node0")
    assert node.asked == ["/ledger?from=1&limit=200", "/pbft/status"]


@pytest.mark.parametrize("head", ["", "00", "zz" * 32, "00" * 33])
async def test_a_ledger_head_that_is_none_is_a_failure(
    script: tuple[Script, Nodes], head: str
) -> None:
    node, nodes = script
    entries = [{"index": 1, "body": "", "head": head}]
    node.answer = web.json_response({"entries": entries, "index": 1, "head": "00"})
    with pytest.raises(NodeFailed, match="a ledger head"):
        await nodes.ledger_page("node0", 1, 10)


async def test_more_entries_than_were_asked_for_are_a_failure(
    script: tuple[Script, Nodes],
) -> None:
    node, nodes = script
    entries = [{"index": index, "body": "", "head": "00" * 32} for index in (1, 2)]
    node.answer = web.json_response({"entries": entries, "index": 2, "head": "00" * 32})
    with pytest.raises(NodeFailed, match="more ledger entries"):
        await nodes.ledger_page("node0", 1, 1)
    node.answer = web.json_response({"entries": entries, "index": 2, "head": "00" * 32})
    assert [entry.index for entry in (await nodes.ledger_page("node0", 1, 2))[0]] == [1, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b'{"error": "off here\\u202e"}', "off here\\\\u202e"), (b"<b>", "answered with 403")],
)
async def test_a_node_that_will_not_misbehave_says_why(
    script: tuple[Script, Nodes], body: bytes, reason: str
) -> None:
    node, nodes = script
    node.answer = web.Response(status=403, body=body)
    with pytest.raises(NodeFailed, match=reason):
        await nodes.misbehave("node0", "lying")


async def test_a_node_that_is_down_is_a_failure(unused_tcp_port: int) -> None:
    async with Nodes(Peers({"node0": Address("127.0.0.1", unused_tcp_port)})) as nodes:
        with pytest.raises(NodeFailed, match="node0"):
            await nodes.status("node0")


@pytest.mark.parametrize("window", [256, 0])
async def test_a_page_has_room_for_the_largest_proof(
    script: tuple[Script, Nodes], window: int
) -> None:
    """Two NEW-VIEWs, as large as the cluster's window allows."""
    node, nodes = script
    genesis = cluster_of().genesis
    cluster = Cluster(msgspec.structs.replace(genesis, window=window or window_max(genesis)))
    largest = Signed("replica-0", bytes(cluster.new_view_bytes_max), bytes(64))
    message = base64.b64encode(encode_signed(largest)).decode()
    pair = {"number": 1, "replica": "replica-0", "proves": "", "first": message, "second": message}
    node.answer = web.json_response({"cluster": "00", "evidence": [pair], "next": None})
    pages = [
        p
        async for p in nodes.evidence_pages(
            "node0", pages_max=2, pairs_max=10, bytes_max=evidence_bytes_max(cluster)
        )
    ]
    ((served,),) = pages
    assert decode_signed(served.first) == largest
