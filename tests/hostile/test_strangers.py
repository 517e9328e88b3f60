"""Strangers at the ports of real nodes and a real gateway: nobody can be stopped without a key."""

import asyncio
import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from msgspec import msgpack

from client.serve import read_member
from common.address import Address
from common.configuration.keys import SigningKey
from common.links.handshake import Handshakes
from pbft.authentication import Identity
from tests.processes.network import CLIENT, Network, pipeline

pytestmark = pytest.mark.processes

# A request that is honest takes a few KiB; what is unpacked would take 1,000 MiB.
GROWTH_BYTES_MAX = 32 * 2**20
ANSWER_SECONDS = 60.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four nodes and a gateway that build by processes."""
    folder = tmp_path_factory.mktemp("strangers")
    with Network(folder, {"green": pipeline("true")}) as made:
        made.start()
        yield made


def address_of(network: Network, name: str) -> Address:
    """Where a node or the gateway listens."""
    return network._listen[name]


def memory_bytes_most(pid: int) -> int:
    """The most that a process ever had in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def packed_zeros(mebibytes: int) -> bytes:
    """So many MiB of zeros as gzip packs them; the same MiB again and again, made once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (mebibytes - 1) + packer.flush()


async def say(address: Address, data: bytes) -> int:
    """The status of the answer to these bytes, on a connection of their own."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        line = await reader.readline()
        return int(line.split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("name", "path"),
    [("node0", "/pbft/request"), ("node0", "/pbft/message"), (CLIENT, "/webHook")],
)
async def test_nothing_is_unpacked(network: Network, name: str, path: str) -> None:
    """1 MB that would be 1,000 MiB, eight at a time."""
    body = packed_zeros(1000)
    assert 2**19 < len(body) < 2**21
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    before = memory_bytes_most(network.processes[name].pid)
    async with asyncio.timeout(ANSWER_SECONDS):
        address = address_of(network, name)
        statuses = await asyncio.gather(*(say(address, request) for _ in range(8)))
    assert memory_bytes_most(network.processes[name].pid) - before < GROWTH_BYTES_MAX
    assert statuses == [415] * 8


@pytest.mark.parametrize("name", ["node0", CLIENT])
async def test_no_route_waits_for_a_body_without_end(network: Network, name: str) -> None:
    """1 TB is announced and nothing sent: whoever waited for it would not answer."""
    paths = ["/pbft/request", "/pbft/message", "/pbft/simulate-byzantine", "/healthz", "/ledger"]
    paths += ["/link", "/webHook", "/api/v1/append", "/api/v1/builds", "/replicas", "/nowhere"]
    announced = f"HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**12}\r\n\r\n"
    asked = [f"{method} {path} {announced}" for method in ("GET", "POST", "PUT") for path in paths]
    address = address_of(network, name)
    async with asyncio.timeout(ANSWER_SECONDS):
        statuses = await asyncio.gather(*(say(address, text.encode()) for text in asked))
    assert {status // 100 for status in statuses} == {4}


async def link_by_reflection(network: Network, victim: str, other: str) -> str:
    """Try to be `other` at `victim` without a key; what it came to.

    As it once went: the victim's challenge is handed to `other`, under the victim's name, and
    whoever signs it there has proved for us that we are `other`.
    """
    cluster = bytes.fromhex(network.status(victim)["cluster"])
    urls = {name: address_of(network, name).url + "/link" for name in (victim, other)}
    async with aiohttp.ClientSession() as session:
        try:
            to_victim = await session.ws_connect(urls[victim])
        except aiohttp.WSServerHandshakeError as error:
            return f"refused with {error.status}"
        await to_victim.send_bytes(msgpack.encode([1, cluster, other, bytes(32)]))
        challenge = msgpack.decode((await to_victim.receive(10)).data)[3]
        to_other = await session.ws_connect(urls[other])
        await to_other.send_bytes(msgpack.encode([1, cluster, victim, challenge]))
        await to_other.receive(10)
        await to_victim.send_bytes((await to_other.receive(10)).data)
        # the victim's own proof, and then the first frame of a link
        await to_victim.receive(10)
        return (await to_victim.receive(10)).type.name


async def offer_of(session: aiohttp.ClientSession, url: str) -> str:
    """What a node asks a stranger to sign."""
    async with session.get(url) as response:
        assert response.status == 401
        return response.headers["WWW-Authenticate"]


async def test_nobody_is_linked_by_what_another_node_says(network: Network) -> None:
    """Neither as it once went, nor with anything that nodes give to strangers."""
    assert await link_by_reflection(network, "node0", "node1") == "refused with 401"
    cluster = read_member(network.configuration.client).cluster
    urls = {name: address_of(network, name).url + "/link" for name in ("node0", "node1")}
    async with aiohttp.ClientSession() as session:
        handed_on = [await offer_of(session, url) for url in urls.values()]
        # one who has a key, but not node1's
        stranger = Handshakes(Identity(cluster, "node1", SigningKey(bytes(32)).sign))
        offer = (await offer_of(session, urls["node0"])).removeprefix("PBFT-CI-Link ")
        handed_on.append(f"PBFT-CI-Link {stranger.answer(offer, 'node0').proof}")
        for proof in handed_on:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(urls["node0"], headers={"Authorization": proof})
            assert refused.value.status == 401


async def test_a_proof_that_was_seen_on_its_way_makes_no_second_link(network: Network) -> None:
    """A member's own, by somebody who reads what passes: it has its link already."""
    client = read_member(network.configuration.client)
    member = Handshakes(
        Identity(client.cluster, network.configuration.client.name, client.signing_key.sign)
    )
    url = address_of(network, "node0").url + "/link"
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(ANSWER_SECONDS):
            websocket = None
            while websocket is None:
                offer = (await offer_of(session, url)).removeprefix("PBFT-CI-Link ")
                headers = {"Authorization": f"PBFT-CI-Link {member.answer(offer, 'node0').proof}"}
                # a busy machine may take longer than a proof is good for
                with contextlib.suppress(aiohttp.WSServerHandshakeError):
                    websocket = await session.ws_connect(url, headers=headers)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, headers=headers)
        assert refused.value.status == 401
        await websocket.close()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("node0", b"GET /healthz HTTP/1.1\r\nHost: localh"),
        ("node0", b"GET /link HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (CLIENT, b"POST /webHook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"),
    ],
    ids=["half a header", "a silent link", "half a body"],
)
async def test_who_holds_a_thousand_connections_open_keeps_nobody_out(
    network: Network, name: str, sent: bytes
) -> None:
    """One that is half done is worth less than one that comes; links of members stay."""
    address = address_of(network, name)

    def are_linked() -> bool:
        peers = network.status("node0")["peers"]
        return all(peer["connected"] for peer in peers.values())

    network.wait_until(are_linked, "all links", ANSWER_SECONDS)
    held = [await asyncio.open_connection(address.host, address.port) for _ in range(1010)]
    for _, writer in held:
        writer.write(sent)
    async with asyncio.timeout(ANSWER_SECONDS):
        for _ in range(3):
            answers = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert await say(address, answers) == 200
    have_stayed = are_linked()
    for _, writer in held:
        writer.transport.abort()
    assert have_stayed


def test_what_nodes_and_gateways_write_is_for_their_users_alone(network: Network) -> None:
    """Databases, logs, mirrors: code and what builds print may be private."""
    network.complete(network.post("green"))
    written = [network.folder / "log", *map(network.data_directory, (*network.node_names, CLIENT))]
    modes = [found for folder in written for found in modes_in(folder)]
    names = {name for name, _ in modes}
    assert {"replica.sqlite3", "redo-log", "node0.log", "client.log", "HEAD"} <= names, names
    assert [found for found in modes if found[1] & 0o077] == []


def modes_in(folder: Path) -> Iterator[tuple[str, int]]:
    """Name and mode of all that is there but of links; what vanishes meanwhile is passed over."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(os.path.join(place, name)).st_mode
                if not stat.S_ISLNK(mode):
                    yield name, mode
