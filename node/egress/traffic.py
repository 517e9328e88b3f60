"""What went through the proxy of a step: for the log of the build."""

import msgspec

from common.english import counted
from common.safe_text import log_text

# the hosts, and the refused requests, that are told one by one
TOLD_MAX = 64
_TEXT_CHARACTERS_MAX = 300


class HostTraffic(msgspec.Struct):
    """Of one port of one host. Bytes as the host sees them."""

    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Traffic:
    """Counts what was reached, and what was refused."""

    def __init__(self) -> None:
        self.bytes = 0
        # why this machine did not reach a host that the step may reach; None: it reached them all
        self.trouble: str | None = None
        self._hosts: dict[tuple[str, int], HostTraffic] = {}
        self._others = HostTraffic()
        self._refused: dict[str, int] = {}
        self._others_refused = 0

    def host(self, name: str, port: int) -> HostTraffic:
        """Where a new connection with that host is counted."""
        key = (name, port)
        if key in self._hosts or len(self._hosts) < TOLD_MAX:
            counts = self._hosts.setdefault(key, HostTraffic())
        else:
            counts = self._others
        counts.connections += 1
        return counts

    def note_refused(self, problem: str) -> None:
        """A request was not taken."""
        text = log_text(problem, _TEXT_CHARACTERS_MAX)
        if text in self._refused or len(self._refused) < TOLD_MAX:
            self._refused[text] = self._refused.get(text, 0) + 1
        else:
            self._others_refused += 1

    def note_trouble(self, problem: str) -> None:
        """This machine did not reach a host; another one may have."""
        self.trouble = self.trouble or log_text(problem, _TEXT_CHARACTERS_MAX)
        self.note_refused(problem)

    def lines(self) -> list[str]:
        """A line for each host, and for each thing that was refused."""
        found = [
            f"network: {name}:{port}: {_in_words(counts)}"
            for (name, port), counts in sorted(self._hosts.items())
        ]
        if self._others.connections:
            found.append(f"network: further hosts: {_in_words(self._others)}")
        found += [
            f"network: refused: {text}" + (f" ({counted(count, 'time')})" if count > 1 else "")
            for text, count in sorted(self._refused.items())
        ]
        if self._others_refused:
            found.append(f"network: refused: others ({counted(self._others_refused, 'time')})")
        return found or ["network: no host was reached"]


def _in_words(counts: HostTraffic) -> str:
    return (
        f"{counted(counts.connections, 'connection')}, {counts.sent_bytes} bytes sent,"
        f" {counts.received_bytes} bytes received"
    )
