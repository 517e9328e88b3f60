"""How a simulated replica fetches the ledger entries that a state transfer left out.

What to ask for, of whom, and what to believe is `driver.ledger_fetcher`, as in a node.
"""

from typing import TYPE_CHECKING

from ci.ledger_gap import LedgerPage, WrongEntries
from driver.ledger_fetcher import LedgerFetcher, PageRequest
from driver.ports import SaveFailed
from simulator.machine.observer import Links, Observer

if TYPE_CHECKING:
    from simulator.machine.process import Process

TIMEOUT_SECONDS = 3.0


class LedgerPages:
    """The requests of one process."""

    def __init__(self, process: "Process", observer: Observer, links: Links) -> None:
        self._process = process
        self._observer = observer
        self._links = links
        self._fetcher: LedgerFetcher | None = None

    def start(self) -> None:
        """The process has started, from the disk that it has now."""
        process = self._process
        names = process.world.cluster.replica_names
        peers = [other for other in names if other != process.name]
        self._fetcher = LedgerFetcher(process.disk, peers, TIMEOUT_SECONDS)

    def forget(self) -> None:
        """The process is gone, and with it what it waited for."""
        self._fetcher = None

    def update(self) -> None:
        """Ask a peer for what is missing, unless an answer may still come."""
        if self._fetcher is None:
            return
        request = self._fetcher.ask(self._process.world.scheduler.seconds)
        if request is not None:
            self._links.fetch_ledger(self._process, request)

    def on_page(self, request: PageRequest, page: LedgerPage) -> None:
        """A peer's answer."""
        process = self._process
        if self._fetcher is None or process.is_paused:
            return
        world = process.world
        try:
            is_closed = self._fetcher.on_page(request, page, world.scheduler.seconds)
        except WrongEntries as error:
            if page.entries:
                world.trace.event(f"{process.name} gets wrong ledger entries: {error}")
            return
        except SaveFailed:
            return
        if is_closed is None:
            return
        first, last = page.entries[0].index, page.entries[-1].index
        world.trace.event(f"{process.name} has ledger entries {first} to {last}")
        self._observer.on_ledger(process, page.entries)
        self.update()
