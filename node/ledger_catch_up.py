"""Fetches the ledger entries that a replica lacks after it took over a state.

The rule: nobody is believed. They are fetched backwards from the head that the certified state
names, so each page is proved as it comes (`ci.ledger_gap`); a peer that gives anything else spoils
nothing. What a page brought is on disk before the next one is asked for, so memory is bounded and
a restart goes on where it stopped.

Peers take turns after each page, be it good or not: the one that took least of our time is next.
So who is silent, or gives one entry just before it would be too late, takes no more time than any
other, and the honest ones give what they can in theirs.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import aiohttp
import msgspec

from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries
from common.address import Address
from common.bounded_http import NoAnswer, ask, bounded_session, decode_json
from common.logs import log_text
from node.store import SaveFailed, Store
from pbft.messages import Digest
from pbft.ports import Entry

PAGE_ENTRIES = 100
# Far more than a node puts into one page; see PAGE_BYTES_MAX of node.server.
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
        peers: Mapping[str, Address],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """peers: where the other replicas' HTTP is."""
        self._store = store
        self._peers = dict(peers)
        self._clock = clock
        # Seconds of ours that each peer took.
        self._taken = dict.fromkeys(peers, 0.0)
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
                gap = self._store.ledger.gap()
                if gap is None or not self._peers:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                name = min(self._taken, key=lambda name: self._taken[name])
                began_at = self._clock()
                if not await self._fetch_page(session, name, gap):
                    await asyncio.sleep(AGAIN_SECONDS)
                # Where our own process was stopped meanwhile, that is no time of the peer's.
                taken = min(self._clock() - began_at, ANSWER_TIMEOUT_SECONDS)
                self._taken[name] += taken

    async def _fetch_page(self, session: aiohttp.ClientSession, name: str, gap: LedgerGap) -> bool:
        """One page from that peer; whether it helped."""
        try:
            page = await self._ask(session, name, gap)
            if not page.entries:
                raise PeerFailed("it has no such entries")
            is_closed = self._store.fill_gap(gap, page)
        except (PeerFailed, WrongEntries) as error:
            level = logging.WARNING if isinstance(error, WrongEntries) else logging.INFO
            _log.log(level, "ledger up to entry %d: %s: %s", gap.last, name, log_text(str(error)))
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

    async def _ask(self, session: aiohttp.ClientSession, name: str, gap: LedgerGap) -> LedgerPage:
        limit = min(PAGE_ENTRIES, gap.missing)
        query = {"to": str(gap.last), "limit": str(limit)}
        try:
            answer = await ask(
                session,
                f"{self._peers[name].url}/ledger",
                query=query,
                bytes_max=PAGE_BYTES_MAX,
                timeout_seconds=ANSWER_TIMEOUT_SECONDS,
            )
        except NoAnswer as error:
            raise PeerFailed(str(error)) from error
        if answer.status != 200:
            raise PeerFailed(f"it answered with status {answer.status}")
        return decode_page(answer.data)


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
