"""What a replica owes and says as a client of its own group: ballots and deadline reports.

The semantics of the node's ballot box, without tasks: a ballot and its number are on disk before
they are sent. What is to be said, under which number and how often, is `ci.ballots`, as there.
"""

from collections.abc import Callable

from ci.application import BuildApplication
from ci.ballots import BALLOT, VERDICT_DEADLINE, OwnRequests
from ci.builds import OpenBuild
from ci.duties import Duties, Key
from ci.executors import Call, Patience
from ci.limits import Limits
from ci.operations import Agreement, Ballot, CastBallot, Operation, ReportDeadline
from ci.verdict import Thresholds
from pbft.client_table import ClientTable
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Sign
from simulator.builds import BuildTruth
from simulator.marks import Marks
from simulator.storage import Disk, SaveFailed

Told = Ballot | ReportDeadline | float | None
# The marks of simulator.marks that stand for the end of standing by.
MARKS = {
    Call.DIFFERING: "a stand-by takes over: ballots differ",
    Call.ABSTENTION: "a stand-by takes over: an abstention",
    Call.REPORT: "a stand-by takes over: a report of the deadline",
    Call.DELAY: "a stand-by takes over: the delay",
}


class BallotBox:
    """The debts of one replica from one start to its next crash.

    later: (seconds, build key, attempt): call `on_built` with them then.
    told: what the replica says of what it found (a faulty one lies here): a ballot, a report of
        the deadline instead, None for nothing at all, or how many seconds later it says it.
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
        told: Callable[[Ballot, OpenBuild], Told],
        attempt: int,
        stand_by_seconds: float,
        marks: Marks,
    ) -> None:
        self._marks = marks
        self._duties = Duties(
            name,
            Thresholds(cluster.quorums, limits.weak_agreement_allowed),
            Patience(stand_by_seconds, limits.build_seconds_max),
        )
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
            duties=self._duties,
        )
        self._requests.take_up(disk.own_pending.values())

    def update(self, now: float) -> None:
        """Begin what is owed, say what is overdue, send again what is not executed."""
        builds = self._application.open_builds()
        self._duties.update(builds.values(), now)
        for build in builds.values():
            if self._name not in build.ballots and not self.has_begun(build):
                self._begin(build, now)
        for key in list(self._found):
            self._cast_found(key, now)
        self._report_deadlines(now)
        self._resend(now)

    def has_begun(self, build: OpenBuild) -> bool:
        """Whether it builds, or has built, that build."""
        key = (build.id, build.opened)
        return key in self._running or (BALLOT, *key) in self._disk.own_requests

    def left_alone(self) -> list[OpenBuild]:
        """The builds, of those that not all begin at once, that it has not begun."""
        builds = self._application.open_builds().values()
        return [build for build in builds if build.executors and not self.has_begun(build)]

    def _begin(self, build: OpenBuild, now: float) -> None:
        """Begin what this replica owes, unless it stands by."""
        reason = self._duties.call(build, now)
        key = (build.id, build.opened)
        if reason is Call.EXECUTOR and self._is_left_to_others(build, now):
            self._duties.note_weak(key)
            self._marks.hit("an executor leaves a weak build to others")
            reason = self._duties.call(build, now)
        if reason is None:
            return
        if reason in MARKS:
            self._marks.hit(MARKS[reason])
        self._running[key] = None
        duration = self._truth.duration_seconds(build.id, self._name, self._attempt)
        self._later(duration, key, self._attempt)

    def _is_left_to_others(self, build: OpenBuild, now: float) -> bool:
        """Whether it reads in the pipeline that fewer are needed."""
        if build.commit is None or not self._duties.is_spare(build, now):
            return False
        return self._truth.agreement(build.id) is Agreement.WEAK

    def on_built(self, key: Key, now: float) -> None:
        """The container of that build is done."""
        build = self._application.open_builds().get(key[0])
        if build is None or build.opened != key[1]:
            self._running.pop(key, None)
            return
        found = self._truth.run(*key, build.commit, self._name, self._attempt)
        told = self._told(found, build)
        if isinstance(told, float):
            self._later(told, key, self._attempt)
        elif isinstance(told, ReportDeadline):
            self._cast(VERDICT_DEADLINE, key, told, now)
        elif told is not None:
            self._found[key] = told
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
