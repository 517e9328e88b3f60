"""How a simulated replica fetches the ledger that a state transfer left out, page by page.

The semantics of `node/ledger_catch_up.py`: one request at a time, one peer after the other, and
nobody is believed. `fetch` is (process, peer, gap, number): ask that peer for the next entries of
this gap, from its end; what it gives goes to `on_page`, with the number.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries
from pbft.ports import Entry

if TYPE_CHECKING:
    from simulator.process import Process

TIMEOUT_SECONDS = 3.0


class LedgerObserver(Protocol):
    """Who looks at what was fetched: the checkers."""

    def on_ledger(self, process: "Process", entries: tuple[Entry, ...]) -> None:
        """These entries, which a peer gave, were put into a gap of the ledger."""


class LedgerPages:
    """The requests of one process."""

    def __init__(
        self,
        process: "Process",
        observer: LedgerObserver,
        fetch: Callable[["Process", str, LedgerGap, int], None],
    ) -> None:
        self._process = process
        self._observer = observer
        self._fetch = fetch
        names = process.world.cluster.replica_names
        self._peers = [other for other in names if other != process.name]
        # Of the last page that was asked for: its number, and when; 0: it was answered.
        self._number = 0
        self._asked_at = 0.0

    def forget(self) -> None:
        """The process is gone, and with it what it waited for."""
        self._number += 1
        self._asked_at = 0.0

    def update(self) -> None:
        """Ask where something is missing and no answer is waited for."""
        if self._process.world.scheduler.seconds - self._asked_at >= TIMEOUT_SECONDS:
            self._ask()

    def _ask(self) -> None:
        """Ask a peer for what is missing in the ledger, if anything; the next one after it."""
        process = self._process
        if not process.disk.ledger.gaps:
            return
        self._number += 1
        self._asked_at = process.world.scheduler.seconds
        peer = self._peers[self._number % len(self._peers)]
        self._fetch(process, peer, process.disk.ledger.gaps[0], self._number)

    def on_page(self, number: int, page: LedgerPage) -> None:
        """A peer's answer; one that comes late, or to another life of this process, is dropped."""
        process = self._process
        ledger = process.disk.ledger
        is_wanted = number == self._number and bool(ledger.gaps)
        if not is_wanted or not process.is_up or process.is_paused or process.disk.refuses:
            return
        self._asked_at = 0.0
        if not page.entries:
            return
        try:
            ledger.fill(page)
        except WrongEntries as error:
            process.world.trace.event(f"{process.name} gets wrong ledger entries: {error}")
            return
        first, last = page.entries[0].index, page.entries[-1].index
        process.world.trace.event(f"{process.name} has ledger entries {first} to {last}")
        self._observer.on_ledger(process, page.entries)
        self._ask()
