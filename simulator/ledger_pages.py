"""How a simulated replica fetches the ledger that a state transfer left out, page by page.

The semantics of `node/ledger_catch_up.py`: one request at a time, one peer after the other, and
nobody is believed. `fetch` is (process, peer, gap, number): ask that peer for the next entries of
this gap; what it gives goes to `on_page`, with the number.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pbft.ports import Entry
from simulator.ledger import Gap, WrongEntries

if TYPE_CHECKING:
    from simulator.process import Process

TIMEOUT_SECONDS = 3.0


class LedgerObserver(Protocol):
    """Who looks at what was fetched: the checkers."""

    def on_ledger(self, process: "Process", entries: tuple[Entry, ...]) -> None:
        """A gap in the ledger was closed by these entries, which peers gave."""


class LedgerPages:
    """The requests of one process."""

    def __init__(
        self,
        process: "Process",
        observer: LedgerObserver,
        fetch: Callable[["Process", str, Gap, int], None],
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

    def on_page(self, number: int, entries: tuple[Entry, ...]) -> None:
        """A peer's answer; one that comes late, or to another life of this process, is dropped."""
        process = self._process
        ledger = process.disk.ledger
        is_wanted = number == self._number and bool(ledger.gaps)
        if not is_wanted or not process.is_up or process.is_paused or process.disk.refuses:
            return
        self._asked_at = 0.0
        if not entries:
            return
        try:
            closed = ledger.fill(entries)
        except WrongEntries as error:
            process.world.trace.event(f"{process.name} gets wrong ledger entries: {error}")
            return
        if closed:
            last = closed[-1].index
            process.world.trace.event(f"{process.name} has ledger entries up to {last}")
            self._observer.on_ledger(process, closed)
        self._ask()
