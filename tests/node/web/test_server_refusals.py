"""What a node says and takes over HTTP while its disk refuses writes, or strangers crowd it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.operations import Append
from driver.ports import SaveFailed
from node.faults.fault_routes import WANTED_BYTES_MAX
from node.replica.runtime import Runtime
from node.storage.store import Store
from node.web.server import POSTED_MESSAGE_BYTES_MAX, POSTED_REQUEST_BYTES_MAX
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import encode_signed
from pbft.messages import REQUEST_BYTES_MAX
from pbft.ports import Record, SavedEntry
from tests.node.local_network import KEYS, Client, Network, server_of
from tests.waiting import wait_until


class FullDisk:
    """Refuses what one store is to save, while it is full; refused: only with such a record."""

    def __init__(
        self, store: Store, patch: pytest.MonkeyPatch, refused: type[object] = object
    ) -> None:
        self.is_full = True
        real_save = store.save

        def save(records: Sequence[Record], *rest: Any) -> None:
            if self.is_full and any(isinstance(record, refused) for record in records):
                raise SaveFailed("no space left on device")
            real_save(records, *rest)

        patch.setattr(store, "save", save)


@pytest.fixture
async def full_disk(network: Network, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FullDisk]:
    """A disk of node0's that refuses the vote for an append."""
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    disk = FullDisk(network.stores["node0"], monkeypatch)
    network.ask(Append("hello"))
    await wait_until(lambda: network.runtimes["node0"].is_unsaved, "a turn that is not saved")
    yield disk
    disk.is_full = False


async def test_a_node_that_its_disk_made_mute_says_so(
    network: Network, client: Client, full_disk: FullDisk
) -> None:
    answer = await client.get("/readyz")
    assert answer.status == 503
    reasons = (await answer.json())["reasons"]
    assert reasons == ["its disk refuses what it said last, so it says nothing more"]
    status = await (await client.get("/pbft/status")).json()
    assert (status["status"], status["in_sync"]) == ("disk_refuses", False)
    full_disk.is_full = False
    await wait_until(lambda: not network.runtimes["node0"].is_unsaved, "the vote on disk")
    await wait_until(lambda: network.applications["node0"].journal_length == 1, "the append")
    status = await (await client.get("/pbft/status")).json()
    assert (status["status"], status["in_sync"]) == ("normal", True)


async def test_nothing_is_taken_over_http_while_nothing_is_taken_in(
    network: Network, client: Client, full_disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what waits would grow without bound."""
    runtime = network.runtimes["node0"]
    signed = network.request(Append("over HTTP"))
    body = {"signed": base64.b64encode(encode_signed(signed)).decode()}
    for path in ("/pbft/request", "/pbft/message"):
        answer = await client.post(path, json=body)
        assert answer.status == 503
        assert "its disk refuses" in (await answer.json())["error"]
    monkeypatch.setattr(Runtime, "is_unsaved", False)
    runtime.has_room.clear()
    for path in ("/pbft/request", "/pbft/message"):
        answer = await client.post(path, json=body)
        assert answer.status == 503
        assert "more waits here" in (await answer.json())["error"]
    full_disk.is_full = False
    await wait_until(runtime.has_room.is_set, "a turn")
    assert (await client.post("/pbft/request", json=body)).status == 200


async def test_the_ledger_ends_where_it_is_on_disk(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a sound ledger would look as if it ended too early."""
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    network.ask(Append("saved"))
    await wait_until(lambda: network.stores["node0"].ledger.end()[0] == 1, "an entry on disk")
    disk = FullDisk(network.stores["node0"], monkeypatch, refused=SavedEntry)
    network.ask(Append("not saved"))
    await wait_until(lambda: network.applications["node0"].ledger_index == 2, "two executed")
    page = await (await client.get("/ledger")).json()
    assert (page["index"], [row["index"] for row in page["entries"]]) == (1, [1])
    assert page["head"] == page["entries"][0]["head"]
    disk.is_full = False
    await wait_until(lambda: network.stores["node0"].ledger.end()[0] == 2, "both on disk")
    page = await (await client.get("/ledger")).json()
    assert (page["index"], len(page["entries"])) == (2, 2)
    assert page["head"] == network.applications["node0"].ledger_head.hex()


async def test_what_all_post_together_is_bounded(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever posts has proved nothing yet: one that sent half of it leaves no room for another."""
    monkeypatch.setattr("node.web.server.BODIES_BYTES_MAX", 1000)
    async with TestClient(TestServer(server_of(network, "node1").application())) as other:
        reader, writer = await asyncio.open_connection(other.host, other.port)
        writer.write(b"POST /pbft/message HTTP/1.1\r\nHost: x\r\nContent-Length: 801\r\n\r\n")
        writer.write(b" " * 800)
        body = b"x" * 600

        async def post_until(wanted: int) -> str:
            while True:
                async with other.post("/pbft/request", data=body) as answer:
                    if answer.status == wanted:
                        return await answer.text()
                await asyncio.sleep(0.02)

        async with asyncio.timeout(20):
            assert "too much is being sent at once" in await post_until(503)
            writer.write(b" ")
            assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
            await post_until(401)
        writer.close()


@pytest.mark.parametrize("path", ["/pbft/request", "/pbft/message", "/pbft/simulate-byzantine"])
async def test_a_body_over_the_limit_of_its_route_is_not_read(client: Client, path: str) -> None:
    """Only its length is sent: whoever waited for the rest would not answer."""
    limits = {
        "/pbft/request": POSTED_REQUEST_BYTES_MAX,
        "/pbft/message": POSTED_MESSAGE_BYTES_MAX,
        "/pbft/simulate-byzantine": WANTED_BYTES_MAX,
    }
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {limits[path] + 1}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(20):
        assert b" 413 " in await reader.readline()
    writer.close()


async def test_the_largest_request_fits(client: Client, network: Network) -> None:
    """Whatever the replicas would order can be posted."""
    signed = make_request(
        Identity(network.cluster, "client", KEYS["client"].sign), 1, bytes(REQUEST_BYTES_MAX)
    )
    body = {"signed": base64.b64encode(encode_signed(signed)).decode()}
    assert (await client.post("/pbft/request", json=body)).status == 200
