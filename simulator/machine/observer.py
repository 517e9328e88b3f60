"""What stands around a simulated process: who looks at what it does, and its links to others."""

from typing import TYPE_CHECKING, Protocol

from ci.builds import OpenBuild
from driver.ledger_fetcher import PageRequest
from pbft.messages import Envelope
from pbft.ports import Entry, Output, Send

if TYPE_CHECKING:
    from simulator.machine.process import Process


class Observer(Protocol):
    """Who looks at everything that an instance does: the checkers."""

    def before_turn(self, process: "Process", inbox: list[Envelope]) -> None:
        """The core is about to be fed."""

    def on_turn(self, process: "Process", outputs: list[Output], has_expired: bool) -> None:
        """The core was fed and gave this back; nothing is saved yet."""

    def on_saved(self, process: "Process") -> None:
        """A turn with records is on disk; its messages leave now."""

    def on_boot(self, process: "Process", restored: Output) -> None:
        """The process started from its disk."""

    def on_loss(self, process: "Process") -> None:
        """The process found its disk damaged, and is about to begin from nothing."""

    def on_ledger(self, process: "Process", entries: tuple[Entry, ...]) -> None:
        """A gap in the ledger was closed by these entries, which peers gave."""

    def on_standing_by(self, process: "Process", builds: list[OpenBuild]) -> None:
        """These open builds, where not all begin at once, it has not begun."""

    def on_crash(self, process: "Process") -> None:
        """The process died at its crash point."""

    def on_failure(self, process: "Process", doing: str, error: Exception) -> None:
        """The core raised something."""


class Links(Protocol):
    """What a process asks of the network."""

    def send(self, process: "Process", send: Send) -> None:
        """A message leaves the process; its own messages only after they are saved."""

    def connect(self, process: "Process") -> None:
        """The process is up and wants its links."""

    def fetch_ledger(self, process: "Process", request: PageRequest) -> None:
        """The process asks a peer for ledger entries; they come to `process.pages.on_page`."""
