"""What a gateway tells forges and people of its builds, kept in the transaction that makes it true.

A build is `pending` once the network has ordered it, and final only on an accepted verdict. A
status is only as good as the machine that posts it; the envelope is the proof.
"""

import time
from collections.abc import Sequence

from ci.statement import VerdictFields
from client.notifications.notifications import Notifications
from client.storage.archive import BuildRecord
from client.storage.database import Database, StorageFailed
from client.storage.outbox import OutboxRow
from client.views.build_view import schedule_of
from common.english import counted
from common.forges.shared.status import CommitStatus, State
from common.repositories.repository_config import GatewayRepository, StatusTarget, status_target
from common.statuses.reporter import Reporter
from common.statuses.status_texts import (
    ToldCases,
    context_of,
    description_of,
    ref_of_status,
    state_of,
)

# Why what waited in a backup is not posted.
RESTORED = "restored from a backup: it may be posted already"


def make_reporter(repositories: Sequence[GatewayRepository], database: Database) -> Reporter:
    """A reporter for the repositories with `report: gateway`."""
    return Reporter(
        targets=targets_of(repositories),
        database=database,
        clock=time.time,
        storage_failed=StorageFailed,
    )


def targets_of(repositories: Sequence[GatewayRepository]) -> dict[str, StatusTarget]:
    """Where this gateway posts statuses, by repository."""
    targets: dict[str, StatusTarget] = {}
    for entry in repositories:
        target = status_target(entry)
        if entry.report == "gateway" and target is not None:
            targets[entry.url] = target
    return targets


class Reports:
    """Puts into the queue what is to be said; every method inside a transaction of the gateway.

    A repository that nobody reports of, and a build without a commit, are passed over.
    """

    def __init__(
        self,
        reporter: Reporter,
        public_url: str,
        replicas: int,
        *,
        notifications: Notifications | None = None,
    ) -> None:
        """public_url: without a slash at its end. replicas: how many there are.

        notifications: who else is told of verdicts; None: nobody.
        """
        self._notifications = notifications
        self._reporter = reporter
        self._public_url = public_url
        self._replicas = replicas

    def ordered(self, record: BuildRecord, *, needs_approval: bool) -> None:
        """The network has it open."""
        first = "waits for an operator's approval, then" if needs_approval else "waits"
        text = f"{first} for a verdict of {counted(self._replicas, 'replica')}"
        self._put(record, State.PENDING, text, is_final=False, is_waiting=needs_approval)

    def decided(
        self, record: BuildRecord, verdict: VerdictFields, tests: ToldCases | None = None
    ) -> None:
        """Its verdict was accepted. tests: what is to be said of its test cases."""
        found = [(value.outcome, value.exit_code, len(value.replicas)) for value in verdict.found]
        self._put(
            record,
            state_of(verdict.outcome),
            description_of(
                verdict.outcome,
                verdict.exit_code,
                len(verdict.agreeing),
                replicas=verdict.replicas,
                found=found,
                tests=tests,
            ),
            is_final=True,
        )
        if self._notifications is not None:
            self._notifications.decided(record, verdict)

    def refused(self, record: BuildRecord, reason: str) -> None:
        """The network will not build it."""
        self._put(record, State.ERROR, f"refused: {reason}", is_final=True)

    def skipped(self, record: BuildRecord, reason: str) -> None:
        """Its author wants no build."""
        self._put(record, State.SKIPPED, f"skipped: {reason}", is_final=True)

    def keep_quiet(self, row: OutboxRow, record: BuildRecord) -> None:
        """Nothing more is to be posted of this build, if `StatusQueue.settle_all` follows.

        Of one that still waits for an operator its verdict is posted all the same.
        """
        needs_approval = row.build_request.needs_approval
        self._put(record, State.PENDING, RESTORED, is_final=not needs_approval)

    def wake(self) -> None:
        """The transaction is on disk."""
        self._reporter.wake()
        if self._notifications is not None:
            self._notifications.wake()

    def _put(
        self,
        record: BuildRecord,
        state: State,
        description: str,
        *,
        is_final: bool,
        is_waiting: bool = False,
    ) -> None:
        if record.commit is None or record.repository not in self._reporter.repositories:
            return
        status = CommitStatus(
            commit=record.commit,
            context=context_of(None, record.event, schedule_of(record)),
            state=state,
            description=description,
            target_url=f"{self._public_url}/builds/{record.build.hex()}",
            ref=ref_of_status(record.event, record.branch),
        )
        self._reporter.queue.put(
            record.repository,
            record.number,
            status,
            is_final=is_final,
            now=time.time(),
            is_waiting=is_waiting,
        )
