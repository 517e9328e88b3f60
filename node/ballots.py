"""Runs the builds that this replica owes and casts its ballots, as a client of its own group.

The rule: a ballot and its request number are on disk, in one commit, before they are sent. What is
to be said, under which number and how often, is `ci.ballots`.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from ci.application import BuildApplication
from ci.ballots import BALLOT, OwnRequests
from ci.builds import OpenBuild
from ci.duties import Duties, Key
from ci.executors import Call, Patience
from ci.limits import Limits
from ci.operations import Ballot, CastBallot, Finding, Operation, ReportDeadline
from ci.verdict import Thresholds
from node.debts import owed_builds
from node.executor import BuildOrder, Executor
from node.fault_injection import Faults, told_ballot
from node.store import SaveFailed, Store
from pbft.client_table import ClientTable
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Sign

SAVE_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class BallotBox:
    """The debts of one replica, and its own requests under way.

    send: hands a signed request to all replicas, this one included.
    clients: the client table of the own replica, read only.
    stand_by_seconds: how patient it is as a stand-by (ci.executors.Patience).
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        name: str,
        sign: Sign,
        limits: Limits,
        store: Store,
        executor: Executor,
        application: BuildApplication,
        clients: Callable[[], ClientTable],
        send: Callable[[Signed], None],
        faults: Faults,
        stand_by_seconds: float,
    ) -> None:
        self._name = name
        self._duties = Duties(
            name,
            Thresholds(cluster.quorums, limits.weak_agreement_allowed),
            Patience(stand_by_seconds, limits.build_seconds_max),
        )
        self._store = store
        self._executor = executor
        self._application = application
        self._send = send
        self._faults = faults
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._requests = OwnRequests(
            cluster=cluster,
            name=name,
            sign=sign,
            deadline_seconds=limits.deadline_seconds,
            builds=application.open_builds,
            clients=clients,
            duties=self._duties,
        )

    def start(self, now: float) -> None:
        """Take up what was under way before this process started."""
        self._requests.take_up(self._store.own_requests.pending())
        self.update(now)

    def update(self, now: float) -> None:
        """Look at the replicated state again: begin, end and send what that asks for.

        Called after every turn that executed something, and every second.
        """
        builds = self._application.open_builds()
        self._duties.update(builds.values(), now)
        owed = owed_builds(builds, self._name, self._has_cast)
        for key in self._running.keys() - owed.keys():
            self._running.pop(key).cancel()
        for key, order in owed.items():
            if key not in self._running:
                self._begin(key, order, builds[key[0]], now)
        self._report_deadlines(now)
        self._resend(now)

    async def close(self) -> None:
        """Stop the builds; they are owed again after the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _has_cast(self, key: Key) -> bool:
        # Who is at it has not, and ends as it does: so a turn asks the disk nothing about a queue.
        if key in self._running:
            return False
        return self._store.own_requests.find(BALLOT, *key) is not None

    def _begin(self, key: Key, order: BuildOrder, build: OpenBuild, now: float) -> None:
        """Begin what this replica owes, unless it stands by."""
        reason = self._duties.call(build, now)
        if reason is None:
            return
        if reason not in (Call.EVERYBODY, Call.EXECUTOR):
            _log.info("build %s: no stand-by any more, %s", order.build.hex()[:12], reason)
        order = msgspec.structs.replace(order, is_spare=self._duties.is_spare(build, now))
        self._running[key] = asyncio.create_task(
            self._build(key, order), name=f"build {order.build.hex()[:12]}"
        )

    async def _build(self, key: Key, order: BuildOrder) -> None:
        try:
            found = await self._executor.build(order)
            if found is None:
                self._duties.note_weak(key)
                return
            ballot = told_ballot(found, self._faults.kind)
            _log.info("build %s: %s", order.build.hex()[:12], _in_words(ballot))
            operation = CastBallot(order.build, order.opened, ballot)
            # Nothing tells when a disk takes writes again: it is asked.
            while not self._cast(BALLOT, key, operation):  # noqa: ASYNC110
                await asyncio.sleep(SAVE_RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - told in full; one build must not end the replica
            # The debt stays: the next update begins the build again.
            _log.exception("build %s: a fault of our own", order.build.hex()[:12])
        finally:
            if self._running.get(key) is asyncio.current_task():
                del self._running[key]

    def _cast(
        self, purpose: str, key: Key, operation: Operation, instead_of: int | None = None
    ) -> bool:
        """Save and send a request of our own; False if the disk refused it.

        instead_of: the number that it had before, which was used for something else.
        """
        request = self._requests.make(
            purpose, key, operation, self._store.own_requests.last_timestamp()
        )
        try:
            self._store.add_own_request(request, instead_of)
        except SaveFailed as error:
            _log.error("%s: it cannot be saved, trying again: %s", purpose, error)
            return False
        self._requests.on_saved(request, asyncio.get_running_loop().time(), instead_of)
        self._send_safely([request.signed])
        return True

    def _resend(self, now: float) -> None:
        if done := self._requests.settled():
            self._store.forget_own_requests(done)
        for request, operation in self._requests.displaced():
            _log.warning(
                "%s on build %s: its number %d was used before",
                request.purpose,
                request.build.hex()[:12],
                request.timestamp,
            )
            self._cast(request.purpose, request.key, operation, instead_of=request.timestamp)
        self._send_safely(self._requests.due(now))

    def _send_safely(self, requests: list[Signed]) -> None:
        """Send them once the mark, too, is on disk; else they are due again a little later."""
        if not requests:
            return
        try:
            self._store.mark()
        except SaveFailed as error:
            _log.error("no ballot is sent until this can be saved: %s", error)
            return
        for signed in requests:
            self._send(signed)

    def _report_deadlines(self, now: float) -> None:
        """Say that a build is overdue, once per build before its verdict and once after it."""
        for purpose, key in self._requests.overdue(now):
            if self._store.own_requests.find(purpose, *key) is None:
                _log.warning("build %s: %s", key[0].hex()[:12], purpose)
                self._cast(purpose, key, ReportDeadline(*key))


def _in_words(ballot: Ballot) -> str:
    if isinstance(ballot, Finding):
        compared = ballot.compared
        code = "" if compared.exit_code is None else f", exit code {compared.exit_code}"
        return f"{compared.outcome}{code}"
    return f"abstains: {ballot.reason}"
