"""What a node answers over HTTP, and what it refuses."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.ledger import genesis_head, verify_chain
from ci.operations import Append
from common.keys import verify
from node.server import NodeServer
from pbft.codec import decode_request, decode_signed, digest_of, encode_signed
from pbft.messages import Signed
from pbft.ports import Entry
from tests.node.house import NAMES, FunctionLinks, House
from tests.waiting import wait_until

Client = TestClient[Any, Any]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Four running replicas."""
    house = House(tmp_path)
    for name in NAMES:
        house.start(name)
    yield house
    await house.close()


def _server(house: House, name: str, fault: str | None = None) -> NodeServer:
    return NodeServer(
        cluster=house.cluster,
        name=name,
        version="test",
        runtime=house.runtimes[name],
        application=house.applications[name],
        store=house.stores[name],
        executor=house.executors[name],  # type: ignore[arg-type]
        links=FunctionLinks(house, name),  # type: ignore[arg-type]
        verify=verify,
        fault=fault,
    )


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    """An HTTP client of node0, the primary."""
    async with TestClient(TestServer(_server(house, "node0").application())) as client:
        yield client


def _body(signed: Signed) -> dict[str, str]:
    return {"signed": base64.b64encode(encode_signed(signed)).decode()}


async def test_status_has_the_names_of_the_seed(client: Client) -> None:
    status = await (await client.get("/pbft/status")).json()
    wanted = {
        "primary": "node0",
        "is_primary": True,
        "view": 0,
        "sequence": 0,
        "f": 1,
        "quorum_size": 3,
        "byzantine_nodes": [],
        "status": "normal",
    }
    assert {key: status[key] for key in wanted} == wanted


async def test_a_node_that_misbehaves_on_purpose_says_so(house: House) -> None:
    async with TestClient(TestServer(_server(house, "node1", "lying").application())) as client:
        status = await (await client.get("/pbft/status")).json()
    assert status["byzantine_nodes"] == ["node1"]
    assert status["is_primary"] is False


async def test_who_differs_from_a_verdict_is_named(tmp_path: Path) -> None:
    house = House(tmp_path)
    for name in NAMES:
        house.start(name, fault="lying" if name == "node2" else None)
    house.submit()
    await wait_until(lambda: house.verdicts("node0") == 1, "the verdict")
    await wait_until(lambda: not house.applications["node0"].open_builds(), "all ballots")
    async with TestClient(TestServer(_server(house, "node0").application())) as client:
        status = await (await client.get("/pbft/status")).json()
    assert status["dissenting_nodes"] == ["node2"]
    assert status["byzantine_nodes"] == []
    await house.close()


async def test_a_signed_request_starts_consensus(client: Client, house: House) -> None:
    signed = house.request(Append("hello"))
    answer = await client.post("/pbft/request", json=_body(signed))
    assert answer.status == 200
    assert await answer.json() == {
        "status": "consensus_started",
        "sequence": 1,
        "digest": digest_of(signed.payload).hex(),
    }
    await wait_until(lambda: house.applications["node3"].journal_length == 1, "the append")


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b'{"operation": "transfer"}', 401, "by a member"),
        (b"", 401, "by a member"),
        (b'{"signed": "%s"}' % base64.b64encode(b"nonsense"), 400, "malformed"),
        (b'{"signed": "AAAA", "x": 1}', 401, "by a member"),
    ],
)
async def test_an_unsigned_request_is_refused(
    client: Client, data: bytes, status: int, text: str
) -> None:
    answer = await client.post("/pbft/request", data=data)
    assert answer.status == status
    assert text in (await answer.json())["error"]


async def test_a_forged_request_or_message_is_refused(client: Client, house: House) -> None:
    signed = house.request(Append("hello"))
    forged = Signed(signed.signer, signed.payload, bytes(64))
    for path in ("/pbft/request", "/pbft/message"):
        answer = await client.post(path, json=_body(forged))
        assert answer.status == 401
        assert "bad signature" in (await answer.json())["error"]
    assert house.runtimes["node0"].replica.core.executed == 0


async def test_a_message_over_http_is_taken(client: Client, house: House) -> None:
    signed = house.request(Append("hello"))
    answer = await client.post("/pbft/message", json=_body(signed))
    assert answer.status == 202
    await wait_until(lambda: house.applications["node0"].journal_length == 1, "the append")


async def test_the_last_messages_are_json(client: Client, house: House) -> None:
    house.ask(Append("hello"))
    await wait_until(lambda: house.applications["node0"].journal_length == 1, "the append")
    rows = (await (await client.get("/pbft/log?limit=512")).json())["messages"]
    assert {"PrePrepare", "Prepare", "Commit", "Request"} <= {row["type"] for row in rows}
    commits = (await (await client.get("/pbft/log?type=Commit&limit=2")).json())["messages"]
    assert len(commits) == 2
    assert {"view", "sequence", "digest", "node_id", "signature"} <= set(commits[0])


@pytest.mark.parametrize("limit", ["0", "513", "x", "-1", "9" * 30])
async def test_a_wrong_number_is_refused(client: Client, limit: str) -> None:
    answer = await client.get(f"/pbft/log?limit={limit}")
    assert answer.status == 400
    assert "?limit=" in (await answer.json())["error"]


async def test_ballots_of_a_build_come_with_their_signatures(client: Client, house: House) -> None:
    house.submit()
    await wait_until(lambda: house.verdicts("node0") == 1, "the verdict")
    build = house.executors["node0"].asked[0].build
    await wait_until(lambda: len(house.stores["node0"].ballots(build)) == 4, "four ballots")
    answer = await (await client.get(f"/builds/{build.hex()}")).json()
    assert [ballot["replica"] for ballot in answer["ballots"]] == list(NAMES)
    assert answer["decided"] is True
    for ballot in answer["ballots"]:
        signed = decode_signed(base64.b64decode(ballot["signed"]))
        assert decode_request(signed).client == ballot["replica"]
    assert (await client.get(f"/builds/{'0' * 64}")).status == 404
    assert (await client.get("/builds/xyz")).status == 404


async def test_a_log_is_served_as_plain_text(client: Client, house: House) -> None:
    path = house.executors["node0"].log_path(bytes(32), 5)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"<script>\n" * 100_000)
    answer = await client.get(f"/builds/{'0' * 64}/log?opened=5")
    assert await answer.read() == path.read_bytes()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.get(f"/builds/{'0' * 64}/log?opened=6")).status == 404


async def test_the_ledger_is_paged_and_its_chain_holds(client: Client, house: House) -> None:
    for number in range(5):
        house.ask(Append(f"{number}"))
    await wait_until(lambda: house.applications["node0"].journal_length == 5, "five appends")
    entries = []
    for first in (1, 3, 5):
        page = await (await client.get(f"/ledger?from={first}&limit=2")).json()
        entries += [
            Entry(row["index"], base64.b64decode(row["body"]), bytes.fromhex(row["head"]))
            for row in page["entries"]
        ]
    assert len(entries) == page["index"] == 5
    assert verify_chain(entries, genesis_head(house.cluster.id)) is None
    assert page["head"] == entries[-1].head.hex()
