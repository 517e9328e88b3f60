"""Begins the builds that wait for this replica's ballot, casts the ballots, and sends them again.

The rule: a ballot and its timestamp are on disk, in one commit, before they are sent. A replica
casts one ballot on a build, whatever stops in between: what it cast is read from the disk, and
what it still owes follows from the replicated state. Which timestamp a request gets, and for how
long it is sent again, is `ci.ballots`; which builds are to begin now is `ci.assignments`.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ci.application import BuildApplication
from ci.assignments import AssignmentTracker, Key
from ci.ballots import BALLOT, ReplicaRequests
from ci.builds import OpenBuild
from ci.executors import StandbyTimeout
from ci.limits import Limits
from ci.operations import Ballot, CastBallot, Operation, ReportDeadline
from driver.ports import (
    Builder,
    BuildOrder,
    Log,
    RequestDisk,
    SaveFailed,
    Transport,
)
from pbft.authentication import Identity
from pbft.client_table import ClientTable
from pbft.messages import Signed

# How often `update` is called at least.
UPDATE_SECONDS = 1.0


class SchedulerPorts(msgspec.Struct, frozen=True):
    """What a `BuildScheduler` acts on."""

    disk: RequestDisk
    builder: Builder
    transport: Transport
    log: Log


class BuildScheduler:
    """The builds and the own requests of one replica, from one start to the next.

    standby_timeout: how long the replica waits as a stand-by, under the limits of a build.
    application, clients: the replicated state, read only.
    """

    def __init__(
        self,
        identity: Identity,
        application: BuildApplication,
        ports: SchedulerPorts,
        *,
        clients: ClientTable,
        standby_timeout: Callable[[Limits], StandbyTimeout],
    ) -> None:
        self._name = identity.name
        self._application = application
        self._disk = ports.disk
        self._builder = ports.builder
        self._transport = ports.transport
        self._log = ports.log
        self._assignments = AssignmentTracker(
            identity.name,
            application.thresholds_of,
            lambda build: standby_timeout(application.limits_of(build)),
        )
        self._requests = ReplicaRequests(
            identity=identity,
            deadline_seconds=lambda build: application.limits_of(build).deadline_seconds,
            builds=application.open_builds,
            clients=lambda: clients,
            assignments=self._assignments,
        )
        # The builds that were begun and have no ballot on disk; None: it is not known yet.
        self._running: dict[Key, Ballot | None] = {}

    def take_up(self) -> None:
        """Go on with the requests of the life before, from the disk: call once, before `update`."""
        self._requests.take_up(self._disk.pending_requests())

    def update(self, now: float) -> None:
        """Look at the replicated state again: begin, end and send what it asks for.

        To be called after every turn that executed something, and every `UPDATE_SECONDS`.
        """
        builds = self._application.open_builds()
        self._assignments.update(builds.values(), now)
        pending = pending_builds(builds, self._name)
        for key in [key for key in self._running if key not in pending]:
            del self._running[key]
            self._builder.stop(key)
        for key, build in pending.items():
            if not self.has_begun(key):
                self._begin(build, now)
        for key, ballot in list(self._running.items()):
            if ballot is not None:
                self._cast_ballot(key, ballot, now)
        self._report_deadlines(now)
        self._resend(now)

    def has_begun(self, key: Key) -> bool:
        """Whether this replica builds, or has built, that build."""
        # A running one has no ballot yet: so a turn asks the disk nothing about queued builds.
        return key in self._running or self._disk.has_request(BALLOT, key)

    # --- what the builder reports ---------------------------------------------------------------

    def on_built(self, key: Key, ballot: Ballot, now: float) -> None:
        """A build came to this ballot: cast it, now or as soon as the disk takes it."""
        if key in self._running:
            self._running[key] = ballot
            self._cast_ballot(key, ballot, now)

    def on_left(self, key: Key) -> None:
        """The build's pipeline asks for weak agreement, and this replica is a spare one."""
        self._assignments.note_weak(key)
        self._running.pop(key, None)

    def on_failed(self, key: Key) -> None:
        """The builder failed, by a fault of our own: the next `update` begins the build again."""
        self._running.pop(key, None)

    # --- requests of its own --------------------------------------------------------------------

    def cast(
        self,
        purpose: str,
        key: Key,
        operation: Operation,
        *,
        now: float,
        instead_of: int | None = None,
    ) -> bool:
        """Save and send a request of the replica's own; False if the disk refused it.

        instead_of: the timestamp that it had before, which was used for something else.
        """
        request = self._requests.make(
            purpose, key, operation, last_timestamp=self._disk.last_timestamp()
        )
        try:
            self._disk.add_request(request, instead_of)
        except SaveFailed as error:
            self._log.error(f"{purpose}: it cannot be saved, trying again: {error}")
            return False
        self._requests.on_saved(request, now, instead_of)
        self._send([request.signed])
        return True

    def _begin(self, build: OpenBuild, now: float) -> None:
        """Begin a build that waits for this replica's ballot, unless the replica stands by."""
        reason = self._assignments.call(build, now)
        if reason is None:
            return
        is_spare = self._assignments.is_spare(build, now)
        order = order_of(build, self._application.limits_of(build), is_spare=is_spare)
        self._running[order.key] = None
        self._builder.begin(order, reason)

    def _cast_ballot(self, key: Key, ballot: Ballot, now: float) -> None:
        if self.cast(BALLOT, key, CastBallot(*key, ballot), now=now):
            del self._running[key]

    def _report_deadlines(self, now: float) -> None:
        """Say that a build is overdue, once per build before its verdict and once after it."""
        for purpose, key in self._requests.overdue(now):
            if not self._disk.has_request(purpose, key):
                self._log.warning(f"build {_short(key)}: {purpose}")
                self.cast(purpose, key, ReportDeadline(*key), now=now)

    def _resend(self, now: float) -> None:
        if done := self._requests.settled():
            self._disk.forget_requests(done)
        for request, operation in self._requests.displaced():
            self._log.warning(
                f"{request.purpose} on build {_short(request.key)}: its number"
                f" {request.timestamp} was used before"
            )
            self.cast(
                request.purpose, request.key, operation, now=now, instead_of=request.timestamp
            )
        self._send(self._requests.due(now))

    def _send(self, requests: Sequence[Signed]) -> None:
        """Send what is on disk. If the disk refuses to secure it, it is due again later."""
        if not requests:
            return
        try:
            self._disk.secure_requests()
        except SaveFailed as error:
            self._log.error(f"no ballot is sent until this can be saved: {error}")
            return
        for signed in requests:
            self._transport.ask(signed)


def pending_builds(builds: Mapping[bytes, OpenBuild], replica: str) -> dict[Key, OpenBuild]:
    """The open builds that wait for this replica's ballot, by key, oldest first.

    A build that waits for approval waits for no ballot. A decided build that still takes late
    ballots does. What the replica has cast, and the state does not show yet, is on its disk.
    """
    waiting = [b for b in builds.values() if b.is_approved and replica not in b.ballots]
    waiting.sort(key=lambda build: build.opened)
    return {(build.id, build.opened): build for build in waiting}


def order_of(build: OpenBuild, limits: Limits, *, is_spare: bool) -> BuildOrder:
    """What the builder has to know of that build, with the limits that it was opened under."""
    return BuildOrder(
        build=build.id,
        opened=build.opened,
        repository=build.repository,
        branch=build.branch,
        commit=build.commit,
        limits=limits,
        event=build.event,
        ref=build.ref,
        is_spare=is_spare,
        schedule=build.schedule,
        is_cold=build.is_cold,
    )


def _short(key: Key) -> str:
    return key[0].hex()[:12]
