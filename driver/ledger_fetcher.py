"""Fetches the ledger entries that a replica lacks after it took over a state.

The rule: nobody is believed. Entries are fetched backwards from the head that the certified state
names, so each page is proved as it comes (`ci.ledger_gap`); a peer that gives anything else
spoils nothing. A page is on disk before the next one is asked for, so memory is bounded and a
restart goes on where it stopped.

Peers take turns after each page, be it good or not: the next one is the peer that took least of
our time, and of equals the one that was asked longest ago. So a peer that is silent, or that gives
one entry just before it would be too late, takes no more time than any other, and the honest ones
give what they can in theirs.
"""

from collections.abc import Iterable

import msgspec

from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries
from driver.ports import LedgerDisk


class PageRequest(msgspec.Struct, frozen=True):
    """Ask this peer for the last entries of this gap."""

    number: int
    peer: str
    gap: LedgerGap


class _Peer(msgspec.Struct):
    """seconds: that it took of ours. asked: the number of its last request."""

    name: str
    seconds: float = 0.0
    asked: int = 0


class LedgerFetcher:
    """The requests of one replica, one at a time.

    timeout_seconds: after that a request has failed. A peer is charged no more for one, for our
    own process may have been stopped meanwhile.
    """

    def __init__(self, disk: LedgerDisk, peers: Iterable[str], timeout_seconds: float) -> None:
        self._disk = disk
        self._peers = {name: _Peer(name) for name in peers}
        self._timeout_seconds = timeout_seconds
        self._number = 0
        self._asked: PageRequest | None = None
        # The peer that is charged, and since when; None: nobody is.
        self._charged: tuple[_Peer, float] | None = None

    def ask(self, now: float) -> PageRequest | None:
        """What to ask for now; None: no entries are missing, or an answer may still come."""
        if self._asked is not None and self._charged is not None:
            _, since = self._charged
            if now - since < self._timeout_seconds:
                return None
        self._end(now)
        gap = self._disk.next_gap()
        if gap is None or not self._peers:
            return None
        self._number += 1
        peer = min(self._peers.values(), key=lambda peer: (peer.seconds, peer.asked))
        peer.asked = self._number
        self._charged = (peer, now)
        self._asked = PageRequest(self._number, peer.name, gap)
        return self._asked

    def on_page(self, request: PageRequest, page: LedgerPage, now: float) -> bool | None:
        """A peer's answer; whether it closed the gap. None: it came too late and is dropped.

        Raises WrongEntries, SaveFailed: the request has failed, and nothing changed.
        """
        if request is not self._asked:
            return None
        self._asked = None
        if not page.entries:
            raise WrongEntries("it has no such entries")
        is_closed = self._disk.fill_gap(request.gap, page)
        self._end(now)
        return is_closed

    def on_failure(self, request: PageRequest) -> None:
        """A peer gave no page. It is charged until the next request, with the pause before it."""
        if request is self._asked:
            self._asked = None

    def _end(self, now: float) -> None:
        """Charge the peer that was asked last."""
        if self._charged is not None:
            peer, since = self._charged
            peer.seconds += min(now - since, self._timeout_seconds)
        self._asked = self._charged = None
