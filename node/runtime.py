"""The loop of one replica: drain what arrived, one turn of the core, save, send, apply, tell, arm.

The rule is the order of `pbft.ports.Output`: everything that a turn says is on disk, in one
transaction, before any of it is sent. If saving fails, nothing is fed in and nothing is sent
until it succeeds.
"""

import asyncio
import collections
import logging
import os
import time
from collections.abc import Sequence

from ci.application import BuildApplication
from ci.operations import CastBallot, MalformedOperation, decode_operation
from common.keys import SigningKey, verify
from common.version import VERSION
from node.awake_clock import AwakeClock
from node.ballots import BallotBox
from node.disk_speed import SAVES_PER_TIMER_MIN, DiskSpeed
from node.fault_injection import Speaker
from node.message_trace import MessageTrace
from node.metrics import NodeMetrics
from node.store import SaveFailed, Store
from pbft.authentication import without_relayed
from pbft.core import Settings
from pbft.genesis import Cluster
from pbft.messages import Envelope, Signed, Status
from pbft.ports import ExecutedRequest, Notice, Output
from pbft.replica import Replica

# What may wait for a turn; beyond this no link is read. A frame that was read is taken whole, and
# so it goes over by one of each link.
INBOX_MESSAGES_MAX = 20_000
INBOX_BYTES_MAX = 128 * 1024 * 1024
UPDATE_SECONDS = 1.0
SAVE_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)
_LOUD = {
    "stable": logging.INFO,
    "behind": logging.INFO,
    "new_view": logging.WARNING,
    "view_change": logging.WARNING,
    "state_transfer": logging.WARNING,
    "state_transferred": logging.WARNING,
    "recovering": logging.ERROR,
    "recovered": logging.WARNING,
    "equivocation": logging.ERROR,
    "forgot": logging.ERROR,
    "diverged": logging.CRITICAL,
}


class Runtime:
    """One replica at work. `start` after construction, then everything comes over the links."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        name: str,
        signing_key: SigningKey,
        store: Store,
        application: BuildApplication,
        settings: Settings | None = None,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._store = store
        self._application = application
        self.disk = DiskSpeed((settings or Settings()).view_change_seconds)
        self.replica = Replica(cluster, name, signing_key.sign, verify, application, settings)
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.counters: collections.Counter[str] = collections.Counter()
        # What the last turn said is not on disk yet: nothing of it may be shown until it is saved.
        # Seen from outside only while the disk refuses it, or once the loop has ended by a fault.
        self.is_unsaved = False
        self._turns_begun = 0
        self.metrics = NodeMetrics(replica=name, cluster=cluster.id.hex(), version=VERSION)
        self.trace = MessageTrace(name)
        # By replica: its last STATUS that was checked, and when it came, in monotonic seconds.
        self._heard: dict[int, tuple[Status, float]] = {}
        self._clock = AwakeClock()
        self._inbox: list[Envelope] = []
        self._inbox_bytes = 0
        self._greet: dict[str, None] = {}  # an ordered set
        self._wake = asyncio.Event()
        self._turn_done = asyncio.Event()
        self._deadline = 0.0
        self._update_due = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._links: Speaker | None = None
        self._ballots: BallotBox | None = None
        self._task: asyncio.Task[None] | None = None

    def restore(self) -> None:
        """Continue from the disk.

        Raises pbft.replica.DamagedRecords, pbft.replica.OlderRecords, node.store.StoreDamaged,
        node.store.StoreUnusable.
        """
        nonce = os.urandom(32)
        output = self.replica.restore(self._store.records(), self._store.bodies(), nonce)
        core = self.replica.core
        self._store.agree_ledger(self._application.ledger_index, self._application.ledger_head)
        # A crash may have come between saving and handing on.
        self._store.save([], [b for d in output.deliveries for b in _ballots_in(d)])
        _log.info(
            "restored: view %d, executed %d, stable %d, ledger %d",
            core.view,
            core.executed,
            core.low,
            self._application.ledger_index,
        )

    def begin_recovery(self, nonce: bytes) -> None:
        """Start from nothing, because what this replica said is lost: instead of `restore`.

        nonce: 32 random bytes. That it recovers is on disk when this returns. Raises SaveFailed.
        """
        output = self.replica.begin_recovery(nonce, 0.0)
        # What it would send is sent again with its first STATUS.
        self._store.save(output.records, [])

    def start(self, links: Speaker, ballots: BallotBox) -> None:
        """Begin the loop."""
        self._links = links
        self._ballots = ballots
        ballots.start(asyncio.get_running_loop().time())
        self._task = asyncio.create_task(self._run(), name="replica")

    @property
    def task(self) -> asyncio.Task[None]:
        """The loop; it ends only by a fault of our own."""
        assert self._task is not None
        return self._task

    async def close(self) -> None:
        """End the loop."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what comes in --------------------------------------------------------------------------

    def on_envelopes(self, peer: str, envelopes: Sequence[Envelope]) -> None:
        """Messages from a link or an HTTP request, for the next turn.

        Those that only their signers may bring are dropped and counted, if another one does.
        """
        taken = without_relayed(peer, envelopes)
        if dropped := len(envelopes) - len(taken):
            self.counters["relayed"] += dropped
            self.metrics.observe_relayed(dropped)
        self._inbox.extend(taken)
        self._inbox_bytes += sum(len(item.signed.payload) + len(item.body) for item in taken)
        self.trace.note_received(peer, taken)
        if len(self._inbox) >= INBOX_MESSAGES_MAX or self._inbox_bytes >= INBOX_BYTES_MAX:
            self.has_room.clear()
        self._wake.set()

    def on_connected(self, peer: str) -> None:
        """A link was made."""
        self._greet[peer] = None
        self._wake.set()

    def ask(self, signed: Signed) -> None:
        """Send a request of our own to all replicas, this one included."""
        envelope = Envelope(signed)
        self.on_envelopes(self._name, [envelope])
        self._send_to_replicas([envelope])

    def last_heard(self, replica: int) -> tuple[Status, float] | None:
        """What a peer said last of where it stands, and how many seconds ago; None: nothing yet."""
        heard = self._heard.get(replica)
        if heard is None:
            return None
        return heard[0], asyncio.get_running_loop().time() - heard[1]

    async def turn(self) -> None:
        """Wait until what is in the inbox now has been taken in."""
        # A turn that waits for the disk took in what was there before.
        next_turn = self._turns_begun + 1
        while self._turns_begun < next_turn or self.is_unsaved:
            self._turn_done.clear()
            self._wake.set()
            await self._turn_done.wait()

    # --- the loop -------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._set_alarm(min(self._clock.monotonic(self._deadline), self._update_due))
            if self._wake.is_set():
                # Let the links read and write even when the inbox is never empty.
                await asyncio.sleep(0)
            else:
                await self._wake.wait()
            self._wake.clear()
            now = loop.time()
            self.is_unsaved = True
            self._turns_begun += 1
            outputs = self._one_turn(self._clock.read(now, self._deadline or now))
            self._note_heard(now)
            if outputs:
                await self._save(outputs)
                self._send(outputs)
                self._tell(outputs)
                now = loop.time()
                self.metrics.observe_outputs(outputs, now)
            self.trace.note_outputs(outputs)
            self.is_unsaved = False
            executed = any(output.deliveries for output in outputs)
            if executed or now >= self._update_due:
                assert self._ballots is not None
                self._ballots.update(now)
                self._update_due = now + UPDATE_SECONDS
            self._turn_done.set()

    def _set_alarm(self, due: float) -> None:
        """Wake the loop when that is due.

        What is due moves with most turns, and nearly always away: so an alarm that rings too early
        stays. Then the loop wakes for nothing, which costs less than a new alarm in each turn.
        """
        if self._alarm is not None:
            if self._alarm.when() <= due:
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()

    def _one_turn(self, now: float) -> list[Output]:
        """What the core says to what came and is due, where it says anything."""
        inbox, self._inbox, self._inbox_bytes = self._inbox, [], 0
        greet, self._greet = self._greet, {}
        self.has_room.set()
        outputs = [self.replica.greet(peer, now) for peer in greet]
        if inbox:
            outputs.append(self.replica.receive(inbox, now))
        if now >= self._deadline:
            outputs.append(self.replica.expire(now))
        if outputs and outputs[-1].deadline is not None:
            self._deadline = outputs[-1].deadline
        return [output for output in outputs if _says_anything(output)]

    def _note_heard(self, now: float) -> None:
        for replica, status in self.replica.core.peer_status.items():
            heard = self._heard.get(replica)
            if heard is None or heard[0] is not status:
                self._heard[replica] = (status, now)

    async def _save(self, outputs: list[Output]) -> None:
        records = [record for output in outputs for record in output.records]
        evidence = [item for output in outputs for item in output.evidence]
        if not records and not evidence:
            return
        ballots = [b for output in outputs for d in output.deliveries for b in _ballots_in(d)]
        while True:
            # The loop's clock has but milliseconds.
            began_at = time.monotonic()
            try:
                self._store.save(records, ballots, evidence)
            except SaveFailed as error:
                self.counters["saves_failed"] += 1
                _log.error("nothing is sent until this can be saved: %s", error)
                await asyncio.sleep(SAVE_RETRY_SECONDS)
            else:
                ended_at = time.monotonic()
                self._note_save(ended_at - began_at, ended_at)
                return

    def _note_save(self, seconds: float, now: float) -> None:
        self.metrics.observe_save(seconds)
        if self.disk.note(seconds, now):
            _log.warning(
                "the disk took %.2f s for one save: view_change_seconds should be at least %.1f,"
                " or views change with nobody at fault",
                seconds,
                SAVES_PER_TIMER_MIN * seconds,
            )

    def _send(self, outputs: list[Output]) -> None:
        assert self._links is not None
        to_all: list[Envelope] = []
        to_one: dict[str, list[Envelope]] = {}
        for output in outputs:
            for send in output.messages:
                if send.to is None:
                    to_all.append(send.envelope)
                else:
                    to_one.setdefault(send.to, []).append(send.envelope)
        if to_all:
            self._send_to_replicas(to_all)
        for peer, envelopes in to_one.items():
            self.trace.note_sent(peer, envelopes)
            self._links.send(peer, envelopes)

    def _send_to_replicas(self, envelopes: list[Envelope]) -> None:
        assert self._links is not None
        self.trace.note_sent("all", envelopes)
        for peer in self._cluster.replica_names:
            if peer != self._name:
                self._links.send(peer, envelopes)

    def _tell(self, outputs: list[Output]) -> None:
        for output in outputs:
            for notice in output.notices:
                self.counters[notice.event] += 1
                level = _LOUD.get(notice.event, logging.DEBUG)
                if _log.isEnabledFor(level):
                    _log.log(level, "%s", _in_words(notice))
            for delivery in output.deliveries:
                _tell_delivery(delivery)


def _says_anything(output: Output) -> bool:
    return bool(
        output.records or output.messages or output.deliveries or output.notices or output.evidence
    )


def _ballots_in(delivery: ExecutedRequest) -> list[tuple[bytes, int, str, Signed]]:
    try:
        operation = decode_operation(delivery.request.operation)
    except MalformedOperation:
        return []
    if not isinstance(operation, CastBallot) or delivery.applied.kind == "refused":
        return []
    return [(operation.build, operation.opened, delivery.request.client, delivery.signed)]


def _in_words(notice: Notice) -> str:
    return " ".join([notice.event, *(f"{key}={value}" for key, value in notice.details.items())])


def _tell_delivery(delivery: ExecutedRequest) -> None:
    applied = delivery.applied
    if applied.kind == "opened":
        _log.info("build %s opened at %d", applied.subject.hex()[:12], delivery.sequence)
    for announcement in applied.announcements:
        _log.info("build %s decided at %d", announcement.subject.hex()[:12], delivery.sequence)
    if applied.kind == "refused":
        _log.warning(
            "request %d of %s refused: %s",
            delivery.request.timestamp,
            delivery.request.client,
            applied.result.decode(errors="replace"),
        )
