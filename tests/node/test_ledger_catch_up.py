"""A replica that lacks ledger entries fetches them, and believes nobody."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.address import Address
from node.ledger_catch_up import LedgerCatchUp, PeerFailed, decode_page
from node.store import Store
from pbft.ports import Base, Entry, SavedEntry
from tests.node.chains import chain_of, ledger_parts
from tests.waiting import wait_until

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 40)
FORGED = chain_of(CLUSTER, 40, wrong_from=6)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """A node's GET /ledger with these entries, or with whatever `handler` does."""

    def __init__(self, entries: list[Entry], handler: Handler | None = None) -> None:
        self.entries = entries
        self.handler = handler
        self.asked: list[int] = []
        self.page_entries_max = 7
        self.server: TestServer | None = None

    async def start(self) -> Address:
        """Serve it."""
        application = web.Application()
        application.router.add_get("/ledger", self._serve)
        self.server = TestServer(application)
        await self.server.start_server()
        return Address("127.0.0.1", int(self.server.port or 0))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        first = int(request.query["from"])
        self.asked.append(first)
        if self.handler is not None:
            return await self.handler(request)
        count = min(int(request.query["limit"]), self.page_entries_max)
        rows = [
            {
                "index": entry.index,
                "body": base64.b64encode(entry.body).decode(),
                "head": entry.head.hex(),
            }
            for entry in self.entries[first - 1 : first - 1 + count]
        ]
        return web.json_response({"entries": rows, "index": len(self.entries), "head": "00"})


@pytest.fixture(autouse=True)
def _is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.ledger_catch_up.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("node.ledger_catch_up.AGAIN_SECONDS", 0.02)


def _with_gap(folder: Path) -> Store:
    """A store with entries 1 to 3, 36 to 40, and a gap between them."""
    store = Store(folder, CLUSTER, "node0")
    store.save([SavedEntry(entry) for entry in CHAIN[:3]], [])
    base = Base(64, 56, (), ledger_parts(35, CHAIN[34].head))
    store.save([base, *(SavedEntry(entry) for entry in CHAIN[35:])], [])
    assert store.ledger.missing() == 32
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = _with_gap(tmp_path)
    yield store
    store.close()


async def _fill(store: Store, *peers: Peer) -> None:
    """Run until the ledger is whole."""
    addresses = {f"node{number}": await peer.start() for number, peer in enumerate(peers, 1)}
    catch_up = LedgerCatchUp(store=store, peers=addresses)
    task = catch_up.start()
    try:
        await wait_until(lambda: store.ledger.gap() is None, "a whole ledger")
        assert not task.done()
    finally:
        await catch_up.close()
        for peer in peers:
            assert peer.server is not None
            await peer.server.close()
    assert store.ledger.entries(1, 100) == CHAIN


async def test_an_honest_peer_is_asked_page_by_page(store: Store) -> None:
    peer = Peer(CHAIN)
    await _fill(store, peer)
    assert peer.asked == [4, 11, 18, 25, 32]


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


async def _nonsense(request: web.Request) -> web.StreamResponse:
    return web.Response(text='{"entries": [{"index": 1}]}')


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(64 * 1024))


async def _silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError("the peer was waited for too long")


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/ledger")


@pytest.mark.parametrize("handler", [_not_found, _nonsense, _endless, _silent, _elsewhere])
async def test_a_broken_peer_is_left_for_the_next(
    store: Store, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ledger_catch_up.ANSWER_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("node.ledger_catch_up.PAGE_BYTES_MAX", 1024 * 1024)
    broken = Peer([], handler)
    await _fill(store, broken, Peer(CHAIN))
    assert broken.asked == [4]


async def test_a_peer_that_lacks_the_same_entries_is_left(store: Store) -> None:
    poor, rich = Peer(CHAIN[:9]), Peer(CHAIN)
    await _fill(store, poor, rich)
    assert poor.asked == [4, 10]
    assert rich.asked == [10, 17, 24, 31]


async def test_a_forged_chain_is_dropped_and_fetched_from_the_next(store: Store) -> None:
    """It chains forward from our own head and has every index; only its end tells."""
    liar, honest = Peer(FORGED), Peer(CHAIN)
    await _fill(store, liar, honest)
    assert liar.asked == [4, 11, 18, 25, 32]
    assert honest.asked == [4, 11, 18, 25, 32]


async def test_a_liar_in_the_middle_spoils_only_its_turn(store: Store) -> None:
    """The honest one breaks off, the liar goes on with a chain of its own, the third is honest."""
    first = Peer(CHAIN[:12])
    liar = Peer(CHAIN[:10] + chain_of(CLUSTER, 40, wrong_from=11)[10:])
    honest = Peer(CHAIN)
    await _fill(store, first, liar, honest)
    assert first.asked == [4, 11, 13]
    assert liar.asked == [13]
    assert honest.asked == [4, 11, 18, 25, 32]


async def test_two_of_three_peers_lie_in_different_ways(store: Store) -> None:
    liars = [Peer(FORGED), Peer(chain_of(CLUSTER, 40, wrong_from=4))]
    honest = Peer(CHAIN)
    await _fill(store, *liars, honest)
    whole = [4, 11, 18, 25, 32]
    assert [liar.asked for liar in liars] == [whole, whole]
    assert honest.asked == whole


async def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = _with_gap(tmp_path)
    gap = store.ledger.gap()
    assert gap is not None
    store.fill_gap(gap, CHAIN[3:20])
    store.close()
    again = Store(tmp_path, CLUSTER, "node0")
    again.agree_ledger(40, CHAIN[39].head)
    assert again.ledger.missing() == 15
    peer = Peer(CHAIN)
    await _fill(again, peer)
    assert peer.asked[0] == 21
    again.close()


async def test_pages_of_a_liar_that_survived_a_restart_are_dropped(store: Store) -> None:
    gap = store.ledger.gap()
    assert gap is not None
    store.fill_gap(gap, FORGED[3:20])
    peer = Peer(CHAIN)
    await _fill(store, peer)
    assert peer.asked[:2] == [21, 4]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b"\xff",
        b'{"entries": 1}',
        json.dumps({"entries": [{"index": 1, "body": "", "head": "zz"}]}).encode(),
        json.dumps({"entries": [{"index": 1, "body": "", "head": "00"}]}).encode(),
        json.dumps({"entries": [{"index": 1, "body": "?", "head": "00" * 32}]}).encode(),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure_of_its_peer(data: bytes) -> None:
    with pytest.raises(PeerFailed):
        decode_page(data)
