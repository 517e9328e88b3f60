"""The limits of builds as a gateway knows them: the genesis', and each change in its ledger."""

from collections.abc import Callable, Iterable

import msgspec

from ci.ledger import LimitsEntry, MalformedEntry, decode_entry
from ci.limits import Limits
from pbft.ports import Entry


class LimitsHistory:
    """Which limits held when. Fed with ledger entries that were checked.

    on_change: called with the limits that hold now, when they are others than before.
    """

    def __init__(self, genesis: Limits) -> None:
        self._genesis = genesis
        # (the sequence number of the change, the limits from then on), the oldest first
        self._changes: list[tuple[int, Limits]] = []
        self.on_change: Callable[[Limits], None] = lambda limits: None

    @property
    def now(self) -> Limits:
        """The limits that hold now, as far as the ledger was read."""
        return self._changes[-1][1] if self._changes else self._genesis

    def at(self, opened: int) -> Limits:
        """The limits of a build that was opened at this sequence number."""
        held = self._genesis
        for since, limits in self._changes:
            if opened <= since:
                break
            held = limits
        return held

    def feed(self, entries: Iterable[Entry]) -> None:
        """Take in the next entries. What this version cannot read tells nothing."""
        before = self.now
        for entry in entries:
            try:
                body = decode_entry(entry.body)
                if isinstance(body, LimitsEntry):
                    self._changes.append((body.since, msgspec.convert(body.limits, Limits)))
            except (MalformedEntry, msgspec.ValidationError):
                continue
        if self.now != before:
            self.on_change(self.now)
