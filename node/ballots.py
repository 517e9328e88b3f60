"""Runs the builds that this replica owes and casts its ballots, as a client of its own group.

The rule: a ballot and its request number are on disk, in one commit, before they are sent; they
are sent again until this replica's own state shows them executed. A number may turn out to be
used already, by what this replica said before it lost its disk: then the ballot gets another one.
"""

import asyncio
import logging
from collections.abc import Callable

from ci.application import BuildApplication
from ci.limits import Limits
from ci.operations import (
    Ballot,
    CastBallot,
    Finding,
    Operation,
    ReportDeadline,
    decode_operation,
    encode_operation,
)
from node.debts import Key, owed_builds
from node.executor import BuildOrder, Executor
from node.fault_injection import told_ballot
from node.store import OwnRequest, SaveFailed, Store
from pbft.client import make_request
from pbft.client_table import ClientTable
from pbft.codec import decode_request, digest_of
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Sign

BALLOT = "ballot"
VERDICT_DEADLINE = "no verdict at the deadline"
LATE_BALLOTS_DEADLINE = "late ballots are missing at the deadline"
RESEND_SECONDS = 2.0
SAVE_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class BallotBox:
    """The debts of one replica, and its own requests under way.

    send: hands a signed request to all replicas, this one included.
    clients: the client table of the own replica, read only.
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
        fault: str | None,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._sign = sign
        self._limits = limits
        self._store = store
        self._executor = executor
        self._application = application
        self._clients = clients
        self._send = send
        self._fault = fault
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._pending: dict[int, OwnRequest] = {}
        self._sent_at: dict[int, float] = {}
        # Since when, by the monotonic clock, each deadline runs.
        self._waiting: dict[tuple[Key, str], float] = {}

    def start(self, now: float) -> None:
        """Take up what was under way before this process started."""
        self._pending = {r.timestamp: r for r in self._store.own_requests_pending()}
        self.update(now)

    def update(self, now: float) -> None:
        """Look at the replicated state again: begin, end and send what that asks for.

        Called after every turn that executed something, and every second.
        """
        builds = self._application.open_builds()
        owed = owed_builds(builds, self._name, self._has_cast)
        for key in self._running.keys() - owed.keys():
            self._running.pop(key).cancel()
        for key, order in owed.items():
            if key not in self._running:
                self._running[key] = asyncio.create_task(
                    self._build(key, order), name=f"build {order.build.hex()[:12]}"
                )
        self._report_deadlines(now)
        self._resend(now)

    async def close(self) -> None:
        """Stop the builds; they are owed again after the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _has_cast(self, key: Key) -> bool:
        return self._store.own_request(BALLOT, *key) is not None

    async def _build(self, key: Key, order: BuildOrder) -> None:
        try:
            found = await self._executor.build(order)
            ballot = told_ballot(found, self._fault)
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
        timestamp = self._next_timestamp()
        signed = make_request(
            self._name, timestamp, encode_operation(operation), self._cluster, self._sign
        )
        request = OwnRequest(timestamp, purpose, *key, signed)
        try:
            self._store.add_own_request(request, instead_of)
        except SaveFailed as error:
            _log.error("%s: it cannot be saved, trying again: %s", purpose, error)
            return False
        self._pending[timestamp] = request
        self._sent_at[timestamp] = asyncio.get_running_loop().time()
        self._send(signed)
        return True

    def _next_timestamp(self) -> int:
        """The lowest number that neither the disk nor the replicated state shows as used."""
        clients = self._clients()
        timestamp = max(self._store.last_own_timestamp(), clients.floor(self._name)) + 1
        while clients.was_executed(self._name, timestamp):
            timestamp += 1
        return timestamp

    def _resend(self, now: float) -> None:
        clients = self._clients()
        executed = [t for t in self._pending if clients.was_executed(self._name, t)]
        done = [t for t in executed if self._is_settled(self._pending[t])]
        for timestamp in done:
            self._forget(timestamp)
        if done:
            self._store.forget_own_requests(done)
        for timestamp in executed:
            if timestamp in self._pending:
                self._cast_again(self._pending[timestamp])
        for timestamp, request in self._pending.items():
            if now - self._sent_at.get(timestamp, 0.0) >= RESEND_SECONDS:
                self._sent_at[timestamp] = now
                self._send(request.signed)

    def _is_settled(self, request: OwnRequest) -> bool:
        """Whether there is nothing more to say, now that the request's number is executed.

        Another request may have had the number. One that is too old to remember is ours, unless
        the build that it is about still waits for it.
        """
        result = self._clients().result(self._name, request.timestamp)
        if result is not None and result.request_digest == digest_of(request.signed.payload):
            return True
        build = self._application.open_builds().get(request.build)
        if build is None or build.opened != request.opened:
            return True
        heard = build.ballots if request.purpose == BALLOT else build.reports
        return self._name in heard

    def _cast_again(self, request: OwnRequest) -> None:
        _log.warning(
            "%s on build %s: its number %d was used before",
            request.purpose,
            request.build.hex()[:12],
            request.timestamp,
        )
        operation = decode_operation(decode_request(request.signed).operation)
        key = (request.build, request.opened)
        if self._cast(request.purpose, key, operation, instead_of=request.timestamp):
            self._forget(request.timestamp)

    def _forget(self, timestamp: int) -> None:
        del self._pending[timestamp]
        self._sent_at.pop(timestamp, None)

    def _report_deadlines(self, now: float) -> None:
        """Say that a build is overdue, once per build before its verdict and once after it.

        The wait begins when our own ballot is seen executed, and anew at the verdict.
        """
        waiting: dict[tuple[Key, str], float] = {}
        for build in self._application.open_builds().values():
            if self._name not in build.ballots or self._name in build.reports:
                continue
            key = (build.id, build.opened)
            purpose = LATE_BALLOTS_DEADLINE if build.is_decided else VERDICT_DEADLINE
            since = waiting[key, purpose] = self._waiting.get((key, purpose), now)
            if now - since < self._limits.deadline_seconds:
                continue
            if self._store.own_request(purpose, *key) is None:
                _log.warning("build %s: %s", build.id.hex()[:12], purpose)
                self._cast(purpose, key, ReportDeadline(*key))
        self._waiting = waiting


def _in_words(ballot: Ballot) -> str:
    if isinstance(ballot, Finding):
        compared = ballot.compared
        code = "" if compared.exit_code is None else f", exit code {compared.exit_code}"
        return f"{compared.outcome}{code}"
    return f"abstains: {ballot.reason}"
