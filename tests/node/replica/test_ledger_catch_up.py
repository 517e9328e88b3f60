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
from common.web.peers import Peers
from node.replica.ledger_catch_up import LedgerCatchUp, PeerFailed, decode_page
from node.storage.store import Store
from pbft.ports import CheckpointRecord, Entry, SavedEntry
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


class Clock:
    """The seconds that peers say they took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def read(self) -> float:
        """As time.monotonic."""
        return self.seconds


class Peer:
    """A node's GET /ledger with these entries, or with whatever `handler` does.

    seconds: how long it takes to answer, by the clock that `_fill` gives it.
    """

    def __init__(
        self, entries: list[Entry], handler: Handler | None = None, seconds: float = 1.0
    ) -> None:
        self.entries = entries
        self.seconds = seconds
        self.clock = Clock()
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
        self.asked.append(int(request.query["to"]))
        self.clock.seconds += self.seconds
        if self.handler is not None:
            return await self.handler(request)
        return self.give(request)

    def give(self, request: web.Request) -> web.Response:
        """What an honest peer answers."""
        last = int(request.query["to"])
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
    monkeypatch.setattr("node.replica.ledger_catch_up.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("node.replica.ledger_catch_up.AGAIN_SECONDS", 0.02)


def _with_gap(folder: Path) -> Store:
    """A store with entries 1 to 3, 36 to 40, and a gap between them."""
    store = Store(folder, CLUSTER, "node0")
    store.save([SavedEntry(entry) for entry in CHAIN[:3]], [])
    base = CheckpointRecord(64, 56, (), ledger_parts(35, CHAIN[34].head))
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
    clock = Clock()
    for peer in peers:
        peer.clock = clock
    catch_up = LedgerCatchUp(store=store, peers=Peers(addresses), clock=clock.read)
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


async def test_the_pages_are_asked_of_all_in_turn(store: Store) -> None:
    """Else a liar that gives one entry whenever it is asked holds a gap open for days."""
    stingy, second, third = (Peer(CHAIN) for _ in range(3))
    stingy.page_entries_max = 1
    await _fill(store, stingy, second, third)
    assert stingy.asked == [35, 20, 5]
    assert second.asked == [34, 19, 4]
    assert third.asked == [27, 12]


async def test_a_slow_peer_has_as_much_time_as_any_other(store: Store) -> None:
    """It gives a good page just before that would be too late; meanwhile others give many."""
    slow, second, third = Peer(CHAIN, seconds=19.0), Peer(CHAIN, seconds=4.0), Peer(CHAIN)
    for peer in (slow, second, third):
        peer.page_entries_max = 1
    await _fill(store, slow, second, third)
    assert [len(peer.asked) for peer in (slow, second, third)] == [2, 6, 24]


async def test_what_a_peer_is_charged_is_bounded(store: Store) -> None:
    """Our own process was stopped for an hour, and its peer is asked again all the same."""
    stopped, other = Peer(CHAIN, seconds=3600.0), Peer(CHAIN, seconds=10.0)
    for peer in (stopped, other):
        peer.page_entries_max = 1
    await _fill(store, stopped, other)
    assert [len(peer.asked) for peer in (stopped, other)] == [11, 21]


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
    monkeypatch.setattr("node.replica.ledger_catch_up.ANSWER_TIMEOUT_SECONDS", 8.0)
    monkeypatch.setattr("node.replica.ledger_catch_up.PAGE_BYTES_MAX", 1024 * 1024)
    broken = Peer([], handler, seconds=20.0)
    honest = Peer(CHAIN, seconds=0.5)
    await _fill(store, broken, honest)
    assert broken.asked == [35]
    assert honest.asked == WHOLE


async def test_a_peer_that_lacks_the_same_entries_is_left(store: Store) -> None:
    poor, rich = Peer(CHAIN[:9]), Peer(CHAIN)
    await _fill(store, poor, rich)
    assert poor.asked == WHOLE
    assert rich.asked == WHOLE[:-1], "the last page is in what both have"


@pytest.mark.parametrize(
    ("wrong_from", "asked", "honest_asked"),
    [
        (4, WHOLE, WHOLE),
        (6, WHOLE, WHOLE),
        (30, [35, 28, 14], [35, 21, 7]),
        (35, [35, 28, 14], [35, 21, 7]),
    ],
)
async def test_a_forged_chain_is_refused_and_the_next_is_asked(
    store: Store, wrong_from: int, asked: list[int], honest_asked: list[int]
) -> None:
    """It is a chain and has every index; only the certified head tells."""
    liar, honest = Peer(chain_of(CLUSTER, 40, wrong_from)), Peer(CHAIN)
    await _fill(store, liar, honest)
    assert liar.asked == asked
    assert honest.asked == honest_asked


async def test_a_liar_in_the_middle_spoils_nothing(store: Store) -> None:
    """The honest one breaks off, the liar gives a chain of its own, the third goes on."""
    first, liar, last = Peer(CHAIN), Peer(chain_of(CLUSTER, 40, wrong_from=4)), Peer(CHAIN)

    async def only_twice(request: web.Request) -> web.StreamResponse:
        if len(first.asked) > 2:
            raise web.HTTPServiceUnavailable
        return first.give(request)

    first.handler = only_twice
    await _fill(store, first, liar, last)
    assert first.asked == [35, 21, 7]
    assert liar.asked == last.asked == [28, 14, 7]


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
