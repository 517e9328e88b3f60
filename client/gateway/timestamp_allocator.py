"""Which waiting requests get their timestamp now, and the signed bytes that go with it.

The network holds only so many undecided builds of one client: the rest wait here, those of one
repository in their order, the repositories in turn. A build that the network had no room for
waits a little longer each time.
"""

import time
from collections import deque
from collections.abc import Callable, Collection

import msgspec

from ci.limits import Limits
from ci.operations import AddNote, Append, ApproveBuild, CancelBuild, Operation, encode_operation
from client.gateway.gateway_setup import GatewayIdentity
from client.storage.archive import Archive
from client.storage.outbox import CHANGES, Kind, Outbox, OutboxRow, State, Tally
from common.fair_turns import FairTurns
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import encode_signed

HELD_SECONDS = 1.0
HELD_SECONDS_MAX = 60.0


class _Hold(msgspec.Struct, frozen=True):
    """A request gets no timestamp before this time; the delay that led to it."""

    until: float
    delay_seconds: float


class TimestampAllocator:
    """Gives timestamps to one gateway's requests. `now` is seconds of any monotonic clock."""

    def __init__(
        self,
        identity: GatewayIdentity,
        outbox: Outbox,
        archive: Archive,
        *,
        queue_max: int,
        open_max: Callable[[str], int],
    ) -> None:
        """open_max: how many builds of a repository the network is given at once."""
        self._identity = identity
        self._outbox = outbox
        self._archive = archive
        self._queue_max = queue_max
        self._open_max = open_max
        self._turns = FairTurns()
        self._held: dict[bytes, _Hold] = {}
        self.undecided_max = self.waiting_max = 0
        self.use_limits(identity.limits)

    def use_limits(self, limits: Limits) -> None:
        """Ask for as many builds at once as these limits let one client."""
        # The replicas count a build until they decide it, and we until we hear of it: what an
        # earlier life of this gateway lost track of must find room as well.
        most = limits.open_builds_per_client_max
        self.undecided_max = max(1, most - max(1, most // 8))
        self.waiting_max = limits.waiting_builds_per_client_max

    def is_anything_waiting(self) -> bool:
        """Does some request wait for its timestamp? Raises StorageFailed."""
        tally = self._outbox.tally()
        return any(tally.has(kind, State.RESOLVED) for kind in Kind)

    def allocate_ready(self, now: float) -> list[OutboxRow]:
        """Give timestamps to all changes, notes and appends, and to builds while there is room.

        Those of a repository go in their order, the repositories in turn.

        Call it inside a transaction. Gives back the signed rows. Raises StorageFailed.
        """
        tally = self._outbox.tally()
        ready = [
            row
            for kind in (*CHANGES, Kind.NOTE, Kind.APPEND)
            if tally.has(kind, State.RESOLVED)
            for row in self._outbox.waiting_for_timestamp(kind, self._queue_max)
        ]
        held = {identity for identity, hold in self._held.items() if hold.until > now}
        ready.extend(self._builds_ready(tally, held))
        ready.extend(self._waiting_ready(tally, held))
        signed = [self._outbox.take_timestamp(row, self._sign) for row in ready]
        for row in signed:
            if row.kind is Kind.BUILD:
                assert row.signed is not None
                self._archive.note_signed(row.build, row.signed, time.time())
        return signed

    def _builds_ready(self, tally: Tally, held: Collection[bytes]) -> list[OutboxRow]:
        open_builds = tally.builds(State.SIGNED, State.OPENED)
        room = self.undecided_max - open_builds.total()
        # What finds no room is not looked at: the queue may be long.
        places = {
            repository: min(room, self._open_max(repository) - open_builds[repository])
            for repository in tally.builds(State.RESOLVED)
        }
        able = [repository for repository, count in places.items() if count > 0]
        waiting: dict[str, deque[OutboxRow]] = {}
        for repository in self._outbox.oldest_first(able):
            rows = self._outbox.waiting_builds_of(repository, places[repository] + len(held))
            waiting[repository] = deque(row for row in rows if row.identity not in held)
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

    def _waiting_ready(self, tally: Tally, held: Collection[bytes]) -> list[OutboxRow]:
        """Builds that wait for approval: strangers ask for them, and take no other's place."""
        asked = tally.builds(State.SIGNED, State.OPENED, waits_for_approval=True)
        room = self.waiting_max - asked.total()
        waiting = tally.builds(State.RESOLVED, waits_for_approval=True)
        if room <= 0 or not waiting:
            return []
        rows = self._outbox.waiting_for_approval(waiting, room + len(held))
        return [row for row in rows if row.identity not in held][:room]

    def hold_back(self, identity: bytes, now: float) -> float:
        """Have a request that was refused for want of room wait; the seconds that it waits."""
        last = self._held.get(identity)
        delay = HELD_SECONDS if last is None else min(2 * last.delay_seconds, HELD_SECONDS_MAX)
        # Whoever was not refused again by then found room, or nobody wants it any more.
        self._held = {
            name: hold for name, hold in self._held.items() if hold.until + HELD_SECONDS_MAX > now
        }
        self._held[identity] = _Hold(now + delay, delay)
        return delay

    def forget(self, identity: bytes) -> None:
        """The request is finished."""
        self._held.pop(identity, None)

    def _sign(self, timestamp: int, row: OutboxRow) -> bytes:
        own = self._identity
        encoded = encode_operation(_operation(row, own.public_url))
        sign = own.signing_key.sign
        return encode_signed(
            make_request(Identity(own.cluster, own.name, sign), timestamp, encoded)
        )


def _operation(row: OutboxRow, public_url: str | None) -> Operation:
    match row.kind:
        case Kind.APPEND:
            return Append(row.text)
        case Kind.CANCEL:
            return CancelBuild(row.build, row.details.person)
        case Kind.APPROVE:
            return ApproveBuild(row.build, row.details.person)
        case Kind.NOTE:
            details = row.details
            return AddNote(row.build, details.text, details.person)
        case Kind.BUILD:
            return row.build_request.operation(row.identity, public_url)
