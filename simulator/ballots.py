"""What a replica owes and says as a client of its own group: ballots and deadline reports.

The semantics of the node's ballot box, without tasks: a ballot and its number are on disk before
they are sent. What is to be said, under which number and how often, is `ci.ballots`, as there.
"""

from collections.abc import Callable

from ci.application import BuildApplication
from ci.ballots import BALLOT, Key, OwnRequests
from ci.limits import Limits
from ci.operations import Ballot, CastBallot, Operation, ReportDeadline
from pbft.client_table import ClientTable
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Sign
from simulator.builds import BuildTruth
from simulator.storage import Disk, SaveFailed


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
        self._name = name
        self._disk = disk
        self._truth = truth
        self._application = application
        self._send = send
        self._later = later
        self._told = told
        self._attempt = attempt
        self._running: dict[Key, None] = {}
        self._found: dict[Key, Ballot] = {}
        self._requests = OwnRequests(
            cluster=cluster,
            name=name,
            sign=sign,
            deadline_seconds=limits.deadline_seconds,
            builds=application.open_builds,
            clients=lambda: clients,
        )
        self._requests.take_up(disk.own_pending.values())

    def update(self, now: float) -> None:
        """Begin what is owed, say what is overdue, send again what is not executed."""
        builds = self._application.open_builds()
        for build in builds.values():
            key = (build.id, build.opened)
            if not build.is_approved or self._name in build.ballots or key in self._running:
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

    def _cast(
        self,
        purpose: str,
        key: Key,
        operation: Operation,
        now: float,
        instead_of: int | None = None,
    ) -> bool:
        request = self._requests.make(purpose, key, operation, self._disk.last_own_timestamp)
        try:
            self._disk.add_own_request(request, instead_of)
        except SaveFailed:
            return False
        self._requests.on_saved(request, now, instead_of)
        self._send(request.signed)
        return True

    def _resend(self, now: float) -> None:
        for timestamp in self._requests.settled():
            del self._disk.own_pending[timestamp]
        for request, operation in self._requests.displaced():
            self._cast(request.purpose, request.key, operation, now, request.timestamp)
        for signed in self._requests.due(now):
            self._send(signed)

    def _report_deadlines(self, now: float) -> None:
        for purpose, key in self._requests.overdue(now):
            if (purpose, *key) not in self._disk.own_requests:
                self._cast(purpose, key, ReportDeadline(*key), now)
