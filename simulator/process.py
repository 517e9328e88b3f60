"""One replica's process: the turn loop of the node in virtual time, and how it dies.

The order is that of `pbft.ports.Output`: save, send, apply, tell, arm. While a save is under way
or refused, nothing is fed in and nothing is sent. A crash may come at any point in between.
"""

import enum
from collections.abc import Callable

import msgspec

from ci.application import BuildApplication
from ci.builds import OpenBuild
from ci.duties import Key
from ci.ledger_gap import LedgerGap
from ci.limits import Limits
from ci.operations import Ballot
from pbft.authentication import Authenticator
from pbft.core import Settings
from pbft.genesis import Cluster
from pbft.messages import Envelope, Signed
from pbft.ports import Output, Record, Send
from pbft.replica import DamagedRecords, Replica
from simulator.ballots import BallotBox, Told
from simulator.builds import BuildTruth
from simulator.chance import Chance, stream
from simulator.clock import Clock
from simulator.ledger_pages import LedgerPages
from simulator.marks import Marks
from simulator.observer import Observer
from simulator.run_trace import Trace
from simulator.scheduler import SECOND, Scheduler
from simulator.signatures import Signatures
from simulator.storage import Disk, DiskDamaged, SaveFailed

UPDATE_SECONDS = 1.0
SAVE_RETRY_SECONDS = 0.5


class CrashPoint(enum.IntEnum):
    """Where in its next saving turn a process is to die."""

    BEFORE_SAVE = 0
    WHILE_SAVING = 1
    BEFORE_MARK = 2
    BEFORE_SEND = 3
    WHILE_SENDING = 4


class ProcessFaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """slow_sync_seconds: mean of a slow fsync, for `slow_syncs` of all saves; turn_seconds: how
    long a turn keeps the process busy, so that messages wait and come in together."""

    slow_syncs: float = 0.0
    slow_sync_seconds: float = 0.2
    turn_seconds: float = 0.0


class World(msgspec.Struct, frozen=True):
    """What all processes of one run share."""

    cluster: Cluster
    limits: Limits
    settings: Settings
    scheduler: Scheduler
    trace: Trace
    signatures: Signatures
    authenticator: Authenticator
    truth: BuildTruth
    faults: ProcessFaults
    marks: Marks = msgspec.field(default_factory=Marks)
    stand_by_seconds: float = 1.0


class Process:
    """A replica's machine: its disk outlives its crashes.

    send: (process, message) for everything that leaves, own words after they are saved.
    connect: the process is up and wants its links. looks_before: call `before_turn` too.
    fetch: see `simulator.ledger_pages`.
    """

    def __init__(
        self,
        world: World,
        name: str,
        chance: Chance,
        observer: Observer,
        send: Callable[["Process", Send], None],
        connect: Callable[["Process"], None],
        fetch: Callable[["Process", str, LedgerGap, int], None],
        told: Callable[[Ballot, OpenBuild], Told] = lambda ballot, build: ballot,
        *,
        looks_before: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.disk = Disk(world.cluster.id)
        self.clock = Clock()
        self.chance = chance
        self.replica: Replica | None = None
        self.application: BuildApplication | None = None
        self.boots = 0
        self.damages = 0
        self.is_paused = False
        self.crash_point: CrashPoint | None = None
        # The process died while it saved a turn, and that turn is on its disk.
        self.has_kept_turn = False
        self.saves_failed = 0
        self._has_begun_recovery = False
        self._observer = observer
        self._send = send
        self._connect = connect
        self._told = told
        self.pages = LedgerPages(self, observer, fetch)
        self._ballots: BallotBox | None = None
        self._inbox: list[Envelope] = []
        self._greet: dict[str, None] = {}
        self._deadline = 0.0
        self._timer_at: int | None = None
        self._update_at = 0
        self._outputs: list[Output] | None = None  # of the turn that is being saved
        self._is_written = False
        self._free_at = 0
        self._turn_is_due = False
        self._busy = int(world.faults.turn_seconds * SECOND)
        self._looks_before = looks_before

    @property
    def is_up(self) -> bool:
        """Whether the process runs (it may be paused)."""
        return self.replica is not None

    # --- life -----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start from the disk; where that is damaged, from nothing, without a vote."""
        assert self.replica is None
        world = self.world
        self.boots += 1
        self.clock.restart(1000 * self.chance.random(), self.clock_rate, world.scheduler.now)
        if self._has_begun_recovery:
            self._recover("a recovery was begun and not finished")
            return
        replica, application = self._make_replica()
        try:
            restored = replica.restore(*self.disk.open(), self._nonce())
            self.disk.agree_ledger(application.ledger_index, application.ledger_head)
        except (DamagedRecords, DiskDamaged) as error:
            self._recover(str(error))
            return
        except Exception as error:  # noqa: BLE001 - a fault of the core is what is looked for
            self._observer.on_failure(self, "restore", error)
            return
        world.trace.event(f"{self.name} starts, executed {replica.core.executed}")
        self._begin(replica, application)
        self._observer.on_boot(self, restored)
        self._go_on()

    def _recover(self, reason: str) -> None:
        """What was said is lost: the disk is put aside, and the replica asks to take part again."""
        world = self.world
        world.trace.event(f"{self.name} recovers: {reason}")
        self.damages += 1
        self._observer.on_loss(self)
        # As node.recovery_files: that it has begun is on disk before anything is put aside.
        self._has_begun_recovery = True
        self.disk = Disk(world.cluster.id)
        replica, application = self._make_replica()
        now = self.clock.seconds(world.scheduler.now)
        output = replica.begin_recovery(self.chance.randbytes(32), now)
        self._begin(replica, application)
        self._observer.on_turn(self, [output], False)
        self._outputs = [output]
        self._save()
        self._go_on()

    def _nonce(self) -> bytes:
        """Of a recovery that this life may need; its own stream, so that no other one shifts."""
        return stream(self.boots, f"nonce of {self.name}").randbytes(32)

    def _make_replica(self) -> tuple[Replica, BuildApplication]:
        world = self.world
        ledger = self.disk.ledger
        application = BuildApplication(
            world.cluster, world.limits, ledger.find_statement, ledger.missing
        )
        sign, verify = world.signatures.signer(self.name), world.signatures.verify
        replica = Replica(world.cluster, self.name, sign, verify, application, world.settings)
        # A payload is read once in this world, not once per replica.
        replica.core.authenticator = world.authenticator
        return replica, application

    def _begin(self, replica: Replica, application: BuildApplication) -> None:
        self.replica = replica
        self.application = application
        self._deadline = 0.0
        self._timer_at = None
        self._free_at = self.world.scheduler.now
        self._ballots = self._ballot_box(application, replica)

    def _go_on(self) -> None:
        self._connect(self)
        self._update(self.boots)
        self._wake()

    clock_rate = 1.0

    def wipe(self) -> None:
        """The process is killed, and its data directory is emptied."""
        self.crash()
        self.disk = Disk(self.world.cluster.id)
        self._has_begun_recovery = False

    def _ballot_box(self, application: BuildApplication, replica: Replica) -> BallotBox:
        world = self.world
        return BallotBox(
            cluster=world.cluster,
            name=self.name,
            sign=world.signatures.signer(self.name),
            limits=world.limits,
            disk=self.disk,
            truth=world.truth,
            application=application,
            clients=replica.core.clients,
            send=self.ask,
            later=self._build_later,
            told=self._told,
            attempt=self.boots,
            stand_by_seconds=world.stand_by_seconds,
            marks=world.marks,
        )

    def crash(self) -> None:
        """kill -9."""
        if self.replica is None:
            return
        became = self.disk.crash(self.chance)
        is_on_disk = self._is_written or became == "kept"
        self.has_kept_turn = self._outputs is not None and is_on_disk
        if became == "torn":
            self.world.marks.hit("a torn transaction is cut")
        elif became == "kept":
            self.world.marks.hit("a transaction is kept that nobody saw saved")
        self.world.trace.event(f"{self.name} is killed ({became})")
        self.replica = None
        self.application = None
        self._ballots = None
        self.pages.forget()
        self._inbox = []
        self._greet = {}
        self._outputs = None
        self._is_written = False
        self._turn_is_due = False
        self.is_paused = False
        self.crash_point = None

    def _crash_here(self) -> None:
        self.crash()
        self._observer.on_crash(self)

    def pause(self) -> None:
        """SIGSTOP."""
        self.is_paused = True

    def resume(self) -> None:
        """SIGCONT: what came meanwhile is taken in one turn."""
        if self.is_paused:
            self.is_paused = False
            self._wake()

    # --- what comes in --------------------------------------------------------------------------

    def arrive(self, envelope: Envelope) -> None:
        """A message came over a link."""
        if self.replica is not None:
            self._inbox.append(envelope)
            self._wake()

    def greet(self, peer: str) -> None:
        """A link to that peer was made."""
        if self.replica is not None:
            self._greet[peer] = None
            self._wake()

    def ask(self, signed: Signed) -> None:
        """Send a request of our own to all replicas, this one included."""
        envelope = Envelope(signed)
        self._send(self, Send(None, envelope))
        if self.replica is not None:
            self._inbox.append(envelope)
            if not self._turn_is_due:
                self._turn_is_due = True
                self.world.scheduler.after(0.0, self._turn_later, self.boots)

    # --- turns ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.replica is None or self.is_paused:
            return
        if self._outputs is not None or self._turn_is_due:
            return
        scheduler = self.world.scheduler
        if scheduler.now >= self._free_at:
            self._turn()
        else:
            self._turn_is_due = True
            scheduler.at(self._free_at, self._turn_later, self.boots)

    def _turn_later(self, boot: int) -> None:
        if boot != self.boots or self.replica is None:
            return
        self._turn_is_due = False
        self._wake()

    def _turn(self) -> None:
        replica = self.replica
        if replica is None:
            return
        now = self.clock.seconds(self.world.scheduler.now)
        inbox, self._inbox = self._inbox, []
        greet, self._greet = self._greet, {}
        if self._looks_before:
            self._observer.before_turn(self, inbox)
        outputs: list[Output] = []
        doing = "greet"
        try:
            for peer in greet:
                outputs.append(replica.greet(peer, now))
            if inbox:
                doing = "receive"
                outputs.append(replica.receive(inbox, now))
            if now >= self._deadline:
                doing = "expire"
                outputs.append(replica.expire(now))
        except Exception as error:  # noqa: BLE001 - a fault of the core is what is looked for
            self._observer.on_failure(self, doing, error)
            return
        if not outputs:
            self._arm()
            return
        deadline = outputs[-1].deadline
        if deadline is not None:
            self._deadline = deadline
        if self._busy:
            self._free_at = self.world.scheduler.now + self._busy
        self._observer.on_turn(self, outputs, doing == "expire")
        self._outputs = outputs
        if len(outputs) == 1 and not outputs[0].records:
            self._finish()
        else:
            self._save()

    def _save(self) -> None:
        assert self._outputs is not None
        records: list[Record] = []
        for output in self._outputs:
            records += output.records
        if not records:
            self._finish()
            return
        if self.crash_point is CrashPoint.BEFORE_SAVE:
            self._crash_here()
            return
        try:
            if not self._is_written:
                self.disk.write(records)
                if self.crash_point is CrashPoint.WHILE_SAVING:
                    self._crash_here()
                    return
                faults = self.world.faults
                if self.chance.happens(faults.slow_syncs):
                    delay = self.chance.exponential(faults.slow_sync_seconds)
                    self.world.scheduler.after(delay, self._synced, self.boots)
                    return
                self.disk.sync()
                self._is_written = True
            self._mark()
        except SaveFailed:
            self._retry()

    def _synced(self, boot: int) -> None:
        if boot != self.boots or self._outputs is None:
            return
        self.disk.sync()
        self._is_written = True
        try:
            self._mark()
        except SaveFailed:
            self._retry()

    def _retry(self) -> None:
        self.saves_failed += 1
        self.world.scheduler.after(SAVE_RETRY_SECONDS, self._save_again, self.boots)

    def _save_again(self, boot: int) -> None:
        if boot == self.boots and self._outputs is not None:
            self.world.marks.hit("a save that the disk refused is tried again")
            self._save()

    def _mark(self) -> None:
        if self.crash_point is CrashPoint.BEFORE_MARK:
            self._crash_here()
            return
        self.disk.set_mark()
        self._has_begun_recovery = False
        if self.crash_point is CrashPoint.BEFORE_SEND:
            self._crash_here()
            return
        self._is_written = False
        self._finish()

    def _finish(self) -> None:
        """Everything is on disk: send, apply, arm."""
        outputs, self._outputs = self._outputs, None
        assert outputs is not None
        messages: list[Send] = []
        has_records = has_deliveries = False
        for output in outputs:
            messages += output.messages
            has_records = has_records or bool(output.records)
            has_deliveries = has_deliveries or bool(output.deliveries)
        if has_records:
            self._observer.on_saved(self)
        is_last = bool(messages) and self.crash_point is CrashPoint.WHILE_SENDING
        if is_last:
            messages = messages[: self.chance.randrange(len(messages))]
        for send in messages:
            self._send(self, send)
        if is_last:
            self._crash_here()
            return
        if has_deliveries and self._ballots is not None:
            now = self.world.scheduler.now
            self._ballots.update(self.clock.seconds(now))
        self._arm()
        if self._inbox or self._greet:
            self._wake()

    # --- timers ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        scheduler = self.world.scheduler
        at = self.clock.when(self._deadline, scheduler.now)
        if self._timer_at is None or at < self._timer_at:
            self._timer_at = at
            scheduler.at(at, self._on_timer, self.boots, at)

    def _on_timer(self, boot: int, at: int) -> None:
        if boot != self.boots or at != self._timer_at or self.replica is None:
            return
        self._timer_at = None
        if self.is_paused or self._outputs is not None:
            # The turn that follows the pause or the save arms it again.
            return
        if self.clock.seconds(self.world.scheduler.now) >= self._deadline:
            self._wake()
        else:
            self._arm()

    def _update(self, boot: int) -> None:
        if boot != self.boots or self.replica is None:
            return
        scheduler = self.world.scheduler
        if not self.is_paused and self._ballots is not None:
            self._ballots.update(self.clock.seconds(scheduler.now))
            self._observer.on_standing_by(self, self._ballots.left_alone())
        if not self.is_paused:
            self.pages.update()
        scheduler.after(UPDATE_SECONDS, self._update, boot)

    def _build_later(self, delay: float, key: Key, attempt: int) -> None:
        self.world.scheduler.after(delay, self._on_built, attempt, key)

    def _on_built(self, attempt: int, key: Key) -> None:
        if attempt != self.boots or self._ballots is None:
            return
        if self.is_paused:
            self.world.scheduler.after(UPDATE_SECONDS, self._on_built, attempt, key)
            return
        self._ballots.on_built(key, self.clock.seconds(self.world.scheduler.now))
