"""What a replica says as a client of its own group: ballots and deadline reports, until heard.

Pure: node and simulator save and send; what there is to say, under which number, and for how long
it is said again is decided here.

The rule: a request and its number are on disk, in one commit, before they are sent; they are sent
again until the replica's own state shows them executed. A number may turn out to be used already,
by what this replica said before it lost its disk: then the request gets another one.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from ci.assignments import AssignmentTracker, Key
from ci.builds import OpenBuild
from ci.operations import Operation, decode_operation, encode_operation
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.client_table import ClientTable
from pbft.codec import decode_request, digest_of
from pbft.messages import Signed

BALLOT = "ballot"
VERDICT_DEADLINE = "no verdict at the deadline"
LATE_BALLOTS_DEADLINE = "late ballots are missing at the deadline"
RESEND_SECONDS = 2.0


class ReplicaRequest(msgspec.Struct, frozen=True):
    """A request of this replica as a client of its group: a ballot, or a deadline report."""

    timestamp: int
    purpose: str
    build: bytes
    opened: int
    signed: Signed

    @property
    def key(self) -> Key:
        """The build that it is about."""
        return (self.build, self.opened)


class ReplicaRequests:
    """The own requests of one replica that are under way, and the deadlines that it watches.

    builds, clients: the replicated state of the own replica, read only.
    deadline_seconds: how long after its own ballot that build may go without what it waits for.
    assignments: kept up to date by whoever calls; whether all others had time to build yet.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        deadline_seconds: Callable[[OpenBuild], float],
        builds: Callable[[], Mapping[bytes, OpenBuild]],
        clients: Callable[[], ClientTable],
        assignments: AssignmentTracker,
    ) -> None:
        self._assignments = assignments
        self._identity = identity
        self._deadline_seconds = deadline_seconds
        self._builds = builds
        self._clients = clients
        self._pending: dict[int, ReplicaRequest] = {}
        self._sent_at: dict[int, float] = {}
        # Since when, by the replica's clock, each deadline runs.
        self._waiting: dict[tuple[Key, str], float] = {}

    def take_up(self, requests: Iterable[ReplicaRequest]) -> None:
        """Those that were under way before this process started."""
        self._pending = {request.timestamp: request for request in requests}

    def make(
        self, purpose: str, key: Key, operation: Operation, *, last_timestamp: int
    ) -> ReplicaRequest:
        """A new request, to be saved and then given to `on_saved`; nothing changes here yet.

        last_timestamp: the highest number on disk. The request gets the lowest number above that
        which the replicated state does not show as used.
        """
        identity, clients = self._identity, self._clients()
        timestamp = max(last_timestamp, clients.low_timestamp(identity.name)) + 1
        while clients.was_executed(identity.name, timestamp):
            timestamp += 1
        signed = make_request(identity, timestamp, encode_operation(operation))
        return ReplicaRequest(timestamp, purpose, *key, signed)

    def on_saved(self, request: ReplicaRequest, now: float, instead_of: int | None = None) -> None:
        """It is on disk, and sent for the first time.

        instead_of: the number that it had before, which was used for something else.
        """
        self._pending[request.timestamp] = request
        self._sent_at[request.timestamp] = now
        if instead_of is not None:
            self._forget(instead_of)

    def settled(self) -> list[int]:
        """The numbers about which nothing more is to be said; they are forgotten here."""
        clients = self._clients()
        done = [
            timestamp
            for timestamp, request in self._pending.items()
            if clients.was_executed(self._identity.name, timestamp) and self._is_settled(request)
        ]
        for timestamp in done:
            self._forget(timestamp)
        return done

    def displaced(self) -> list[tuple[ReplicaRequest, Operation]]:
        """Those whose number was used for something else: to be made again, with another number."""
        clients = self._clients()
        return [
            (request, decode_operation(decode_request(request.signed).operation))
            for timestamp, request in self._pending.items()
            if clients.was_executed(self._identity.name, timestamp)
        ]

    def due(self, now: float) -> list[Signed]:
        """What is to be sent again now."""
        again = []
        for timestamp, request in self._pending.items():
            sent_at = self._sent_at.get(timestamp)
            if sent_at is None or now - sent_at >= RESEND_SECONDS:
                self._sent_at[timestamp] = now
                again.append(request.signed)
        return again

    def overdue(self, now: float) -> list[tuple[str, Key]]:
        """(purpose, build) of the deadlines that have passed and are not reported in the state.

        There is one before a build's verdict and one after it. The wait begins when our own ballot
        is seen executed and all others had time to build, too; and anew at the verdict, then also
        for who stood by and will cast no ballot.
        """
        waiting: dict[tuple[Key, str], float] = {}
        overdue = []
        for build in self._builds().values():
            if self._identity.name in build.reports or not self._is_waiting(build, now):
                continue
            key = (build.id, build.opened)
            purpose = LATE_BALLOTS_DEADLINE if build.is_decided else VERDICT_DEADLINE
            since = waiting[key, purpose] = self._waiting.get((key, purpose), now)
            if now - since >= self._deadline_seconds(build):
                overdue.append((purpose, key))
        self._waiting = waiting
        return overdue

    def _is_waiting(self, build: OpenBuild, now: float) -> bool:
        """Whether a deadline of ours runs for this build."""
        if build.is_decided and build.executors:
            return True
        if self._identity.name not in build.ballots:
            return False
        return build.is_decided or self._assignments.has_everybody_had_time(build, now)

    def _is_settled(self, request: ReplicaRequest) -> bool:
        """Whether there is nothing more to say, now that the request's number is executed.

        Another request may have had the number. One that is too old to remember is ours, unless
        the build that it is about still waits for it.
        """
        result = self._clients().result(self._identity.name, request.timestamp)
        if result is not None and result.request_digest == digest_of(request.signed.payload):
            return True
        build = self._builds().get(request.build)
        if build is None or build.opened != request.opened:
            return True
        heard = build.ballots if request.purpose == BALLOT else build.reports
        return self._identity.name in heard

    def _forget(self, timestamp: int) -> None:
        self._pending.pop(timestamp, None)
        self._sent_at.pop(timestamp, None)
