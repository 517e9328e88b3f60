"""What a replica owes and says as a client of its own group: ballots and deadline reports.

The semantics of the node's ballot box, without tasks: a ballot and its number are on disk before
they are sent, and are sent again until the replica's own state shows them executed.
"""

from collections.abc import Callable

from ci.application import BuildApplication
from ci.limits import Limits
from ci.operations import Ballot, CastBallot, Operation, ReportDeadline, encode_operation
from pbft.client import make_request
from pbft.client_table import ClientTable
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Sign
from simulator.builds import BuildTruth
from simulator.storage import Disk, OwnRequest, SaveFailed

BALLOT = "ballot"
VERDICT_DEADLINE = "no verdict at the deadline"
LATE_BALLOTS_DEADLINE = "late ballots are missing at the deadline"
RESEND_SECONDS = 2.0

Key = tuple[bytes, int]


class BallotBox:
    """The debts of one replica from one start to its next crash.

    later: (seconds, build key, attempt): call `on_built` with them then.
    told: what the replica says of what it found (a faulty one lies here).
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        name: str,
        sign: Sign,
        limits: Limits,
        disk: Disk,
        truth: BuildTruth,
        application: BuildApplication,
        clients: ClientTable,
        send: Callable[[Signed], None],
        later: Callable[[float, Key, int], None],
        told: Callable[[Ballot], Ballot],
        attempt: int,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._sign = sign
        self._limits = limits
        self._disk = disk
        self._truth = truth
        self._application = application
        self._clients = clients
        self._send = send
        self._later = later
        self._told = told
        self._attempt = attempt
        self._running: dict[Key, None] = {}
        self._found: dict[Key, Ballot] = {}
        self._sent_at: dict[int, float] = {}
        self._waiting: dict[tuple[Key, str], float] = {}

    def update(self, now: float) -> None:
        """Begin what is owed, say what is overdue, send again what is not executed."""
        builds = self._application.open_builds()
        for build in builds.values():
            key = (build.id, build.opened)
            if self._name in build.ballots or key in self._running:
                continue
            if (BALLOT, *key) in self._disk.own_requests:
                continue
            self._running[key] = None
            duration = self._truth.duration_seconds(build.id, self._name, self._attempt)
            self._later(duration, key, self._attempt)
        for key in list(self._found):
            self._cast_found(key, now)
        self._report_deadlines(now)
        self._resend(now)

    def on_built(self, key: Key, now: float) -> None:
        """The container of that build is done."""
        build = self._application.open_builds().get(key[0])
        if build is None or build.opened != key[1]:
            self._running.pop(key, None)
            return
        found = self._truth.run(*key, build.commit, self._name, self._attempt)
        self._found[key] = self._told(found)
        self._cast_found(key, now)

    def _cast_found(self, key: Key, now: float) -> None:
        if self._cast(BALLOT, key, CastBallot(*key, self._found[key]), now):
            del self._found[key]
            self._running.pop(key, None)

    def _cast(self, purpose: str, key: Key, operation: Operation, now: float) -> bool:
        floor = self._clients.floor(self._name)
        timestamp = max(self._disk.last_own_timestamp, floor) + 1
        operation_bytes = encode_operation(operation)
        signed = make_request(self._name, timestamp, operation_bytes, self._cluster, self._sign)
        try:
            self._disk.add_own_request(OwnRequest(timestamp, purpose, *key, signed))
        except SaveFailed:
            return False
        self._sent_at[timestamp] = now
        self._send(signed)
        return True

    def _resend(self, now: float) -> None:
        for timestamp, request in list(self._disk.own_pending.items()):
            if self._clients.was_executed(self._name, timestamp):
                del self._disk.own_pending[timestamp]
            elif now - self._sent_at.get(timestamp, -RESEND_SECONDS) >= RESEND_SECONDS:
                self._sent_at[timestamp] = now
                self._send(request.signed)

    def _report_deadlines(self, now: float) -> None:
        waiting: dict[tuple[Key, str], float] = {}
        for build in self._application.open_builds().values():
            if self._name not in build.ballots or self._name in build.reports:
                continue
            key = (build.id, build.opened)
            purpose = LATE_BALLOTS_DEADLINE if build.is_decided else VERDICT_DEADLINE
            since = waiting[key, purpose] = self._waiting.get((key, purpose), now)
            if now - since < self._limits.deadline_seconds:
                continue
            if (purpose, *key) not in self._disk.own_requests:
                self._cast(purpose, key, ReportDeadline(*key), now)
        self._waiting = waiting
