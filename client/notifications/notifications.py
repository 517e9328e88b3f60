"""Puts into the queue who is to be told of a verdict, in the transaction that archives it."""

import time
from collections.abc import Sequence

from ci.statement import VerdictFields, parse_statement
from client.notifications.message import Message
from client.notifications.message_queue import MessageQueue
from client.notifications.messenger import Messenger
from client.notifications.rules import COLOURLESS, is_concerned, turn_of
from client.storage.archive import Archive, BuildRecord
from client.views.build_view import iso_time, schedule_of
from common.configuration.notify_config import NotifyTarget

# Of a branch with several schedules, so many of the newest builds are looked through.
SERIES_BUILDS_MAX = 200


class Notifications:
    """Whom one gateway tells."""

    def __init__(
        self,
        targets: Sequence[NotifyTarget],
        archive: Archive,
        messenger: Messenger,
        *,
        public_url: str,
    ) -> None:
        """public_url: where people find the gateway, without a slash at its end."""
        self._targets = tuple(targets)
        self._archive = archive
        self._queue: MessageQueue = messenger.queue
        self._messenger = messenger
        self._public_url = public_url

    def decided(self, record: BuildRecord, verdict: VerdictFields) -> None:
        """Its verdict was archived. Call it inside that transaction."""
        concerned = [target for target in self._targets if is_concerned(target, record)]
        if not concerned:
            return
        is_newest, before = self._before(record)
        turn = turn_of(verdict.outcome, before)
        if turn is None or not is_newest:
            return
        page = f"/builds/{record.build.hex()}"
        message = Message(
            turn=turn,
            build=record.build.hex(),
            repository=record.repository,
            branch=record.branch,
            ref=record.ref,
            event=record.event,
            commit=record.commit,
            author=record.author,
            outcome=verdict.outcome,
            exit_code=verdict.exit_code,
            decided=iso_time(record.decided_at) or "",
            url=f"{self._public_url}{page}",
            envelope_url=f"{self._public_url}/api/v1{page}/attestation",
        )
        for target in concerned:
            self._queue.put(target.name, message, time.time())

    def wake(self) -> None:
        """The transaction is on disk."""
        self._messenger.wake()

    def _before(self, record: BuildRecord) -> tuple[bool, str | None]:
        """Whether the build is the newest decided one of its series, and the outcome before it."""
        schedule = schedule_of(record)
        count = 2 if schedule is None else SERIES_BUILDS_MAX
        for other in self._archive.decided_like(record, COLOURLESS, count):
            if other.build == record.build or schedule_of(other) != schedule:
                continue
            if other.number > record.number:
                return False, None
            assert other.statement is not None, "it is decided"
            return True, parse_statement(other.statement).verdict.outcome
        return True, None
