"""Which waiting requests get their number now, and the signed bytes that go with it.

The network holds only so many undecided builds of one client: the rest wait here, those of one
repository in their order, the repositories in turn. A build that the network had no room for
waits a little longer each time.
"""

import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from ci.limits import Limits
from ci.operations import Append, ApproveBuild, CancelBuild, Operation, encode_operation
from client.archive import Archive
from client.outbox import CHANGES, Kind, Outbox, OutboxRow
from common.fair_turns import FairTurns
from common.keys import SigningKey
from pbft.client import make_request
from pbft.codec import encode_signed
from pbft.genesis import Cluster

HELD_SECONDS = 1.0
HELD_SECONDS_MAX = 60.0


class _Hold(msgspec.Struct, frozen=True):
    """A request gets no number before this time; the delay that led to it."""

    until: float
    delay_seconds: float


class Numbering:
    """Gives numbers to one gateway's requests. `now` is seconds of any monotonic clock."""

    def __init__(
        self,
        *,
        name: str,
        cluster: Cluster,
        limits: Limits,
        signing_key: SigningKey,
        outbox: Outbox,
        archive: Archive,
        queue_max: int,
        open_max: Callable[[str], int],
    ) -> None:
        """open_max: how many builds of a repository the network is given at once."""
        self._name = name
        self._cluster = cluster
        self._signing_key = signing_key
        self._outbox = outbox
        self._archive = archive
        self._queue_max = queue_max
        self._open_max = open_max
        self._turns = FairTurns()
        self._held: dict[bytes, _Hold] = {}
        # The replicas count a build until they decide it, and we until we hear of it: what an
        # earlier life of this gateway lost track of must find room as well.
        most = limits.open_builds_per_client_max
        self.undecided_max = max(1, most - max(1, most // 8))
        self.waiting_max = limits.waiting_builds_per_client_max

    def is_anything_waiting(self) -> bool:
        """Does some request wait for its number? Raises StorageFailed."""
        return any(self._outbox.waiting_for_number(kind, 1) for kind in Kind)

    def number_ready(self, now: float) -> list[OutboxRow]:
        """Give numbers to all changes and appends, and to as many builds as the network will hold
        for us: of each repository in their order, and the repositories in turn.

        Call it inside a transaction. Gives back the signed rows. Raises StorageFailed.
        """
        ready = [
            row
            for kind in (*CHANGES, Kind.APPEND)
            for row in self._outbox.waiting_for_number(kind, self._queue_max)
        ]
        ready.extend(self._builds_ready(now))
        ready.extend(self._waiting_ready(now))
        signed = [self._outbox.take_number(row, self._sign) for row in ready]
        for row in signed:
            if row.kind is Kind.BUILD:
                assert row.signed is not None
                self._archive.note_signed(row.build, row.signed, time.time())
        return signed

    def _builds_ready(self, now: float) -> list[OutboxRow]:
        room = self.undecided_max - self._outbox.count_undecided_builds()
        counts = self._outbox.waiting_by_repository() if room > 0 else {}
        held = {identity for identity, hold in self._held.items() if hold.until > now}
        waiting: dict[str, deque[OutboxRow]] = {}
        for repository in counts:
            rows = self._outbox.waiting_builds_of(repository, room + len(held))
            waiting[repository] = deque(row for row in rows if row.identity not in held)
        open_builds = Counter(self._outbox.undecided_by_repository()) if waiting else Counter()
        ready: list[OutboxRow] = []
        while len(ready) < room:
            able = [
                repository
                for repository, rows in waiting.items()
                if rows and open_builds[repository] < self._open_max(repository)
            ]
            if not able:
                break
            repository = self._turns.next(able, open_builds)
            open_builds[repository] += 1
            ready.append(waiting[repository].popleft())
        return ready

    def _waiting_ready(self, now: float) -> list[OutboxRow]:
        """Builds that wait for approval: strangers ask for them, and take no other's place."""
        room = self.waiting_max - self._outbox.count_undecided_builds(waits_for_approval=True)
        if room <= 0:
            return []
        rows = self._outbox.waiting_for_approval(room + len(self._held))
        held = {identity for identity, hold in self._held.items() if hold.until > now}
        return [row for row in rows if row.identity not in held][:room]

    def hold_back(self, identity: bytes, now: float) -> float:
        """Have a request that was refused for want of room wait; the seconds that it waits."""
        last = self._held.get(identity)
        delay = HELD_SECONDS if last is None else min(2 * last.delay_seconds, HELD_SECONDS_MAX)
        self._held[identity] = _Hold(now + delay, delay)
        return delay

    def forget(self, identity: bytes) -> None:
        """The request is finished."""
        self._held.pop(identity, None)

    def _sign(self, timestamp: int, row: OutboxRow) -> bytes:
        encoded = encode_operation(_operation(row))
        sign = self._signing_key.sign
        return encode_signed(make_request(self._name, timestamp, encoded, self._cluster, sign))


def _operation(row: OutboxRow) -> Operation:
    match row.kind:
        case Kind.APPEND:
            return Append(row.text)
        case Kind.CANCEL:
            return CancelBuild(row.build)
        case Kind.APPROVE:
            return ApproveBuild(row.build)
        case Kind.BUILD:
            return row.build_wanted.operation(row.identity)
