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
from tests.node.chains import chain_of, ledger_parts, page_of
from tests.waiting import wait_until

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 40)
# What is asked for where each page is given.
WHOLE = [35, 28, 21, 14, 7]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _served(body: str, head: str) -> bytes:
    return json.dumps(
        {"before": "", "entries": [{"index": 1, "body": body, "head": head}]}
    ).encode()


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
        last = int(request.query["to"])
        self.asked.append(last)
        if self.handler is not None:
            return await self.handler(request)
        count = min(int(request.query["limit"]), self.page_entries_max)
        first = max(1, last - count + 1)
        page = page_of(CLUSTER, self.entries, first, last if last <= len(self.entries) else 0)
        rows = [
            {
                "index": entry.index,
                "body": base64.b64encode(entry.body).decode(),
                "head": entry.head.hex(),
            }
            for entry in page.entries
        ]
        return web.json_response({"before": page.before.hex(), "entries": rows})


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
    assert peer.asked == WHOLE


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
    monkeypatch.setattr("node.ledger_catch_up.ANSWER_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr("node.ledger_catch_up.PAGE_BYTES_MAX", 1024 * 1024)
    broken = Peer([], handler)
    await _fill(store, broken, Peer(CHAIN))
    assert broken.asked == [35]


async def test_a_peer_that_lacks_the_same_entries_is_left(store: Store) -> None:
    poor, rich = Peer(CHAIN[:9]), Peer(CHAIN)
    await _fill(store, poor, rich)
    assert poor.asked == [35]
    assert rich.asked == WHOLE


@pytest.mark.parametrize("wrong_from", [4, 6, 30, 35])
async def test_a_forged_chain_is_refused_and_the_next_is_asked(
    store: Store, wrong_from: int
) -> None:
    """It is a chain and has every index; only the certified head tells."""
    liar, honest = Peer(chain_of(CLUSTER, 40, wrong_from)), Peer(CHAIN)
    await _fill(store, liar, honest)
    assert liar.asked == [35]
    assert honest.asked == WHOLE


async def test_a_liar_in_the_middle_spoils_nothing(store: Store) -> None:
    """The honest one breaks off, the liar gives a chain of its own, the third goes on."""
    first, liar, last = Peer(CHAIN), Peer(chain_of(CLUSTER, 40, wrong_from=11)), Peer(CHAIN)

    async def only_twice(request: web.Request) -> web.StreamResponse:
        if len(first.asked) > 2:
            raise web.HTTPServiceUnavailable
        first.handler = None
        answer = await first._serve(request)
        first.asked.pop()
        first.handler = only_twice
        return answer

    first.handler = only_twice
    await _fill(store, first, liar, last)
    assert first.asked == [35, 28, 21]
    assert liar.asked == [21]
    assert last.asked == [21, 14, 7]


async def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = _with_gap(tmp_path)
    gap = store.ledger.gap()
    assert gap is not None
    store.fill_gap(gap, page_of(CLUSTER, CHAIN, 20, 35))
    store.close()
    again = Store(tmp_path, CLUSTER, "node0")
    again.agree_ledger(40, CHAIN[39].head)
    assert again.ledger.missing() == 16
    peer = Peer(CHAIN)
    await _fill(again, peer)
    assert peer.asked[0] == 19
    again.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b"\xff",
        b'{"entries": 1}',
        b'{"entries": []}',
        b'{"before": "zz", "entries": []}',
        _served(body="", head="zz"),
        _served(body="", head="00"),
        _served(body="?", head="00" * 32),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure_of_its_peer(data: bytes) -> None:
    with pytest.raises(PeerFailed):
        decode_page(data)
