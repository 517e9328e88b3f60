"""Runs the turns of one replica (`driver.turn`) over SQLite, the links and the loop's clock.

`driver` says what is saved and when anything may be sent; here a turn waits: for input or a
deadline before it, and for a disk that refuses its save.
"""

import asyncio
import collections
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ci.application import BuildApplication
from common.configuration.keys import verify
from common.english import counted
from common.safe_text import log_text
from common.version import VERSION
from driver.build_scheduler import UPDATE_SECONDS, BuildScheduler
from driver.ports import SaveFailed
from driver.restoring import restore
from driver.turn import ToSave, TurnDriver, executed_ballots, has_executed
from node.diagnostics.disk_speed import SAVES_PER_TIMER_MIN, DiskSpeed
from node.diagnostics.message_trace import MessageTrace
from node.diagnostics.metrics import NodeMetrics
from node.replica.awake_clock import AwakeClock
from node.replica.speaker import Speaker
from node.storage.store import Store
from pbft.authentication import MALFORMED, Identity, without_relayed
from pbft.core import Settings
from pbft.messages import Envelope, Signed, Status
from pbft.ports import Event, ExecutedRequest, Output
from pbft.replica import Replica

# What may wait for a turn; beyond this no link is read. A frame that was read is taken whole, and
# so it goes over by one of each link.
INBOX_MESSAGES_MAX = 20_000
INBOX_BYTES_MAX = 128 * 1024 * 1024
SAVE_RETRY_SECONDS = 1.0
# Of messages that nothing here can read one in so long is logged; all are counted (/metrics).
MALFORMED_TOLD_SECONDS = 10.0
# Of the tries that the disk refuses one after another, each so many-th is logged.
TOLD_TRIES = 60

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
    "epoch_ends": logging.WARNING,
    "epoch_ended": logging.WARNING,
    "equivocation": logging.ERROR,
    "forgot": logging.ERROR,
    "diverged": logging.CRITICAL,
}


class Runtime:
    """One replica at work. `start` after construction, then everything comes over the links.

    store: whoever opened it closes it, after the runtime. application: it changes in a turn only.
    """

    def __init__(
        self,
        identity: Identity,
        store: Store,
        application: BuildApplication,
        *,
        settings: Settings | None = None,
        begin: Mapping[str, bytes] | None = None,
    ) -> None:
        """begin: the state that a later epoch begins with (`pbft.replica.Replica`)."""
        self.identity = identity
        self.store = store
        self.application = application
        cluster, name = identity.cluster, identity.name
        self.disk = DiskSpeed((settings or Settings()).view_change_seconds)
        self.replica = Replica(identity, verify, application, settings=settings, begin=begin)
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.counters: collections.Counter[str] = collections.Counter()
        self._turns_begun = 0
        self.metrics = NodeMetrics(replica=name, cluster=cluster, version=VERSION)
        self.trace = MessageTrace(name)
        # called with the body of each new ledger entry, once it is on disk
        self.on_ledger_entry: Callable[[bytes], None] | None = None
        # By replica: its last STATUS that was checked, and when it came, in monotonic seconds.
        self._heard: dict[int, tuple[Status, float]] = {}
        self._clock = AwakeClock()
        self._driver = TurnDriver(self.replica)
        self._wake = asyncio.Event()
        self._turn_done = asyncio.Event()
        self._update_due = 0.0
        self._malformed_told_at = -MALFORMED_TOLD_SECONDS
        self._alarm: asyncio.TimerHandle | None = None
        self._links: Speaker | None = None
        self._builds: BuildScheduler | None = None
        self._task: asyncio.Task[None] | None = None

    def restore(self) -> None:
        """Continue from the disk.

        Raises pbft.replica.DamagedRecords, pbft.replica.OlderRecords,
        node.storage.damage.StoreDamaged, node.storage.damage.StoreUnusable.
        """
        output = restore(self.replica, self.application, self.store, nonce=os.urandom(32))
        # What is executed again after a crash need not have been saved with its ballots.
        self.store.save([], executed_ballots([output]))
        core = self.replica.core
        _log.info(
            "restored: view %d, executed %d, stable %d, ledger %d",
            core.view,
            core.executed,
            core.low,
            self.application.ledger_index,
        )

    def begin_recovery(self, nonce: bytes) -> None:
        """Start from nothing, because what this replica said is lost: instead of `restore`.

        nonce: 32 random bytes. That it recovers is on disk when this returns. Raises SaveFailed.
        """
        turn = self._driver.begin_recovery(nonce, 0.0)
        assert turn.to_save is not None
        self.store.save(turn.to_save.records, [])
        # What it would send is sent again with its first STATUS.
        turn.saved()

    def start(self, links: Speaker, builds: BuildScheduler) -> None:
        """Begin the loop."""
        self._links = links
        self._builds = builds
        builds.take_up()
        builds.update(asyncio.get_running_loop().time())
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

    @property
    def is_unsaved(self) -> bool:
        """Whether the last turn is not on disk yet: nothing of it may be shown until it is saved.

        Seen from outside only while the disk refuses it, or once the loop has ended by a fault.
        """
        return self._driver.is_unsaved

    # --- what comes in --------------------------------------------------------------------------

    def on_envelopes(self, peer: str, envelopes: Sequence[Envelope]) -> None:
        """Messages from a link or an HTTP request, for the next turn.

        Those that only their signers may bring are dropped and counted, if another one does.
        """
        taken = without_relayed(peer, envelopes)
        if dropped := len(envelopes) - len(taken):
            self.counters["relayed"] += dropped
            self.metrics.observe_relayed(dropped)
        driver = self._driver
        driver.take(taken)
        self.trace.note_received(peer, taken)
        if len(driver.inbox) >= INBOX_MESSAGES_MAX or driver.inbox_bytes >= INBOX_BYTES_MAX:
            self.has_room.clear()
        self._wake.set()

    def on_connected(self, peer: str) -> None:
        """A link was made."""
        self._driver.connect(peer)
        self._wake.set()

    def ask(self, signed: Signed) -> None:
        """Send a request of our own to all replicas, this one included."""
        envelope = Envelope(signed)
        self.on_envelopes(self.identity.name, [envelope])
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
        assert self._builds is not None
        while True:
            deadline = self._driver.deadline
            self._set_alarm(min(self._clock.monotonic(deadline), self._update_due))
            if self._wake.is_set():
                # Let the links read and write even when the inbox is never empty.
                await asyncio.sleep(0)
            else:
                await self._wake.wait()
            self._wake.clear()
            now = loop.time()
            outputs = await self._turn(now)
            if outputs:
                now = loop.time()
                self.metrics.observe_outputs(outputs, now)
                self._hand_on_entries(outputs)
            self.trace.note_outputs(outputs)
            if has_executed(outputs) or now >= self._update_due:
                self._builds.update(now)
                self._update_due = now + UPDATE_SECONDS
            self._turn_done.set()

    def _hand_on_entries(self, outputs: list[Output]) -> None:
        if self.on_ledger_entry is not None:
            for output in outputs:
                for executed in output.executed:
                    for entry in executed.applied.entries:
                        self.on_ledger_entry(entry.body)

    async def _turn(self, now: float) -> list[Output]:
        """One turn of the core, from what arrived to what was sent."""
        self._turns_begun += 1
        deadline = self._driver.deadline
        turn = self._driver.begin(self._clock.read(now, deadline or now))
        self.has_room.set()
        self._note_heard(now)
        if turn is None:
            return []
        if turn.to_save is not None:
            await self._save(turn.to_save)
        outputs = turn.saved()
        self._send(outputs)
        self._tell(outputs)
        return outputs

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

    def _note_heard(self, now: float) -> None:
        for replica, status in self.replica.core.peers.status.items():
            heard = self._heard.get(replica)
            if heard is None or heard[0] is not status:
                self._heard[replica] = (status, now)

    async def _save(self, to_save: ToSave) -> None:
        ballots = to_save.ballots
        for tries in itertools.count():
            # The loop's clock has but milliseconds.
            began_at = time.monotonic()
            try:
                self.store.save(to_save.records, ballots, to_save.evidence)
            except SaveFailed as error:
                self.counters["saves_failed"] += 1
                self.metrics.observe_failed_save()
                if tries % TOLD_TRIES == 0:
                    _log.error("nothing is sent until this can be saved: %s", error)
                await asyncio.sleep(SAVE_RETRY_SECONDS)
            else:
                if tries:
                    refused = counted(tries, "try", "tries")
                    _log.warning("saved, after %s that the disk refused", refused)
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
        for peer in self.identity.cluster.replica_names:
            if peer != self.identity.name:
                self._links.send(peer, envelopes)

    def _tell(self, outputs: list[Output]) -> None:
        for output in outputs:
            for event in output.events:
                self.counters[event.name] += 1
                level = _LOUD.get(event.name, logging.DEBUG)
                if _log.isEnabledFor(level):
                    _log.log(level, "%s", _in_words(event))
                if event.name == "refused":
                    self._tell_malformed(event)
            for executed in output.executed:
                _log_executed(executed)

    def _tell_malformed(self, event: Event) -> None:
        """Anybody may send such a message, as often as he likes."""
        reason, now = str(event.details["reason"]), time.monotonic()
        if reason.startswith(MALFORMED) and now >= self._malformed_told_at + MALFORMED_TOLD_SECONDS:
            self._malformed_told_at = now
            _log.warning(
                "a message that bears the name %s is refused (%s); if that member runs a newer"
                " version, upgrade this node",
                log_text(str(event.details["signer"]), 60),
                log_text(reason),
            )


def _in_words(event: Event) -> str:
    return " ".join([event.name, *(f"{key}={value}" for key, value in event.details.items())])


def _log_executed(executed: ExecutedRequest) -> None:
    applied = executed.applied
    if applied.kind == "opened":
        _log.info("build %s opened at %d", applied.subject.hex()[:12], executed.sequence)
    for reply in applied.deferred:
        _log.info("build %s decided at %d", reply.subject.hex()[:12], executed.sequence)
    if applied.kind == "refused":
        _log.warning(
            "request %d of %s refused: %s",
            executed.request.timestamp,
            executed.request.client,
            applied.result.decode(errors="replace"),
        )
