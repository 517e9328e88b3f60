"""Asks the other nodes for the ledger entries that this replica lacks after it took over a state.

Whom to ask for what, and what to believe, is `driver.ledger_fetcher`. Here are the HTTP requests,
and the pauses between them.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Annotated

import aiohttp
import msgspec

from ci.ledger_gap import LedgerPage, WrongEntries
from common.safe_text import log_text
from common.web.bounded_http import (
    AnswerBounds,
    HttpRequest,
    NoAnswer,
    ask,
    bounded_session,
    decode_json,
)
from common.web.peers import Peers
from driver.ledger_fetcher import LedgerFetcher, PageRequest
from driver.ports import SaveFailed
from node.storage.store import Store
from pbft.messages import Digest
from pbft.ports import Entry

PAGE_ENTRIES = 100
# Far more than a node puts into one page; see PAGE_BYTES_MAX of node.web.server.
PAGE_BYTES_MAX = 32 * 1024 * 1024
ANSWER_TIMEOUT_SECONDS = 20.0
# Nothing tells that there is a gap: it is looked for.
LOOK_SECONDS = 1.0
# Before asking the next peer, where one had nothing for us.
AGAIN_SECONDS = 0.5

_log = logging.getLogger(__name__)


class PeerFailed(Exception):
    """A peer gave no page, or nonsense; one line why."""


class _ServedEntry(msgspec.Struct, frozen=True):
    index: int
    body: Annotated[bytes, msgspec.Meta(max_length=PAGE_BYTES_MAX)]
    head: str


class _ServedPage(msgspec.Struct, frozen=True):
    before: str
    entries: tuple[_ServedEntry, ...]


class LedgerCatchUp:
    """Fills the gaps of one replica's ledger."""

    def __init__(
        self,
        *,
        store: Store,
        peers: Peers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """peers: the other replicas."""
        self._peers = peers
        self._clock = clock
        self._fetcher = LedgerFetcher(store, peers, ANSWER_TIMEOUT_SECONDS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin; the task ends before `close` only by a fault of our own."""
        self._task = asyncio.create_task(self._run(), name="ledger catch-up")
        return self._task

    async def close(self) -> None:
        """Stop; the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with bounded_session() as session:
            while True:
                request = self._fetcher.ask(self._clock())
                if request is None:
                    await asyncio.sleep(LOOK_SECONDS)
                elif not await self._fetch_page(session, request):
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _fetch_page(self, session: aiohttp.ClientSession, request: PageRequest) -> bool:
        """One page from that peer; whether it helped."""
        gap, peer = request.gap, request.peer
        try:
            page = await self._ask(session, request)
            is_closed = self._fetcher.on_page(request, page, self._clock())
        except (PeerFailed, WrongEntries) as error:
            self._fetcher.on_failure(request)
            level = logging.WARNING if isinstance(error, WrongEntries) else logging.INFO
            _log.log(level, "ledger up to entry %d: %s: %s", gap.last, peer, log_text(str(error)))
            return False
        except SaveFailed as error:
            _log.error("ledger entries cannot be saved: %s", error)
            return False
        if is_closed:
            _log.warning("the ledger is whole again up to entry %d", gap.last)
        else:
            left = page.entries[0].index - gap.first
            _log.info("ledger entries up to %d: %d are still missing", gap.last, left)
        return True

    async def _ask(self, session: aiohttp.ClientSession, request: PageRequest) -> LedgerPage:
        limit = min(PAGE_ENTRIES, request.gap.missing)
        query = {"to": str(request.gap.last), "limit": str(limit)}
        try:
            answer = await ask(
                session,
                self._peers.request(request.peer, HttpRequest(url="/ledger", query=query)),
                AnswerBounds(PAGE_BYTES_MAX, ANSWER_TIMEOUT_SECONDS),
            )
        except NoAnswer as error:
            raise PeerFailed(str(error)) from error
        if answer.status != 200:
            raise PeerFailed(f"it answered with status {answer.status}")
        page = decode_page(answer.data)
        if not page.entries:
            raise PeerFailed("it has no such entries")
        return page


def decode_page(data: bytes) -> LedgerPage:
    """The entries in an answer to GET /ledger?to=. Raises PeerFailed."""
    try:
        page = decode_json(data, _ServedPage)
        entries = tuple(
            Entry(entry.index, entry.body, msgspec.convert(bytes.fromhex(entry.head), Digest))
            for entry in page.entries
        )
        return LedgerPage(bytes.fromhex(page.before), entries)
    except (NoAnswer, ValueError) as error:
        raise PeerFailed(f"its answer cannot be read: {error}") from error
