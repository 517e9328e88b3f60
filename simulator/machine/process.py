"""One replica's process: drives its turns in virtual time, as a node does in real time, and dies.

A turn, its ballots and its ledger entries are `driver`'s; the disk, the clock and the builds are
this world's. A save may take time or be refused, and a crash may come at any point in between.
"""

import enum
from collections.abc import Callable, Sequence

from ci.application import BuildApplication
from ci.assignments import Key
from ci.builds import OpenBuild
from ci.executors import StandbyTimeout
from ci.operations import Ballot
from ci.state_partitions import ledger_position
from driver.build_scheduler import UPDATE_SECONDS, BuildScheduler, SchedulerPorts
from driver.ports import SaveFailed
from driver.restoring import restore
from driver.turn import Turn, TurnDriver, has_executed
from pbft.authentication import Identity
from pbft.messages import Envelope, Signed
from pbft.ports import Entry, Output, Send
from pbft.replica import DamagedRecords, Replica
from simulator.machine.builder import Reaction, SimulatedBuilder
from simulator.machine.disk import Disk, DiskDamaged
from simulator.machine.ledger_pages import LedgerPages
from simulator.machine.observer import Links, Observer
from simulator.world.clock import Clock
from simulator.world.scheduler import SECOND
from simulator.world.seeded_random import SeededRandom, stream
from simulator.world.violation import Violation
from simulator.world.world import World

SAVE_RETRY_SECONDS = 0.5


class CrashPoint(enum.IntEnum):
    """Where in its next saving turn a process is to die."""

    BEFORE_SAVE = 0
    WHILE_SAVING = 1
    BEFORE_MARK = 2
    BEFORE_SEND = 3
    WHILE_SENDING = 4


class SilentLog:
    """A driver.ports.Log that nobody reads: what matters here is what the checkers see."""

    def warning(self, text: str, /) -> None:
        """Say nothing."""

    def error(self, text: str, /) -> None:
        """Say nothing."""


class Process:
    """A replica's machine: its disk outlives its crashes.

    react: see `simulator.machine.builder`; a correct replica casts what it found.
    """

    def __init__(
        self,
        world: World,
        name: str,
        chance: SeededRandom,
        *,
        observer: Observer,
        links: Links,
        react: Callable[[Ballot, OpenBuild], Reaction] = lambda ballot, build: ballot,
    ) -> None:
        self.world = world
        self.name = name
        self.disk = self._empty_disk(world.begin_ledgers.get(name, ()))
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
        self._links = links
        self._react = react
        self.pages = LedgerPages(self, observer, links)
        self._driver: TurnDriver | None = None
        self._builds: BuildScheduler | None = None
        self._builder: SimulatedBuilder | None = None
        self._timer_at: int | None = None
        self._turn: Turn | None = None  # that is being saved
        self._is_written = False
        self._free_at = 0
        self._turn_is_due = False
        self._busy = int(world.faults.turn_seconds * SECOND)

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
            restored = restore(replica, application, self.disk, nonce=self._nonce())
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
        # As node.storage.recovery_files: that it has begun is on disk before anything is put aside.
        self._has_begun_recovery = True
        self.disk = self._empty_disk()
        replica, application = self._make_replica()
        driver = self._begin(replica, application)
        now = self.clock.seconds(world.scheduler.now)
        self._turn = driver.begin_recovery(self.chance.randbytes(32), now)
        self._save()
        self._go_on()

    def _empty_disk(self, entries: Sequence[Entry] = ()) -> Disk:
        """A new one, where the state is there that this epoch began with, and of the ledger only
        these entries."""
        disk = Disk(self.world.cluster.lineage, entries)
        if self.world.begin is not None:
            disk.note_ledger_position(*ledger_position(self.world.begin))
        return disk

    def _nonce(self) -> bytes:
        """Of a recovery that this life may need; its own stream, so that no other one shifts."""
        return stream(self.boots, f"nonce of {self.name}").randbytes(32)

    def _make_replica(self) -> tuple[Replica, BuildApplication]:
        world = self.world
        ledger = self.disk.ledger
        application = BuildApplication(
            world.cluster,
            world.limits,
            ledger.find_statement,
            missing_entries=ledger.missing,
            verify=world.signatures.verify,
        )
        sign, verify = world.signatures.signer(self.name), world.signatures.verify
        replica = Replica(
            Identity(world.cluster, self.name, sign),
            verify,
            application,
            settings=world.settings,
            begin=world.begin,
        )
        # A payload is read once in this world, not once per replica.
        replica.core.authenticator = world.authenticator
        return replica, application

    def _begin(self, replica: Replica, application: BuildApplication) -> TurnDriver:
        self.replica = replica
        self.application = application
        self._driver = TurnDriver(replica, self._watch)
        self._timer_at = None
        self._free_at = self.world.scheduler.now
        self._builder = SimulatedBuilder(
            self.world,
            self.name,
            self.boots,
            application=application,
            react=self._react,
            later=self._build_later,
        )
        self._builds = self._builder.scheduler = self._scheduler(application, replica)
        self._builds.take_up()
        self.pages.start()
        return self._driver

    def _go_on(self) -> None:
        self._links.connect(self)
        self._update(self.boots)
        self._wake()

    clock_rate = 1.0

    def wipe(self) -> None:
        """The process is killed, and its data directory is emptied."""
        self.crash()
        self.disk = self._empty_disk()
        self._has_begun_recovery = False

    def _scheduler(self, application: BuildApplication, replica: Replica) -> BuildScheduler:
        world = self.world
        assert self._builder is not None
        return BuildScheduler(
            Identity(world.cluster, self.name, world.signatures.signer(self.name)),
            application,
            SchedulerPorts(self.disk, self._builder, self, SilentLog()),
            clients=replica.core.execution.clients,
            standby_timeout=lambda limits: StandbyTimeout(
                world.stand_by_seconds, limits.build_seconds_max
            ),
        )

    def crash(self) -> None:
        """kill -9."""
        if self.replica is None:
            return
        became = self.disk.crash(self.chance)
        is_on_disk = self._is_written or became == "kept"
        self.has_kept_turn = self._turn is not None and is_on_disk
        if became == "torn":
            self.world.goals.hit("a torn transaction is cut")
        elif became == "kept":
            self.world.goals.hit("a transaction is kept that nobody saw saved")
        self.world.trace.event(f"{self.name} is killed ({became})")
        self.replica = None
        self.application = None
        self._driver = None
        self._builds = None
        self._builder = None
        self.pages.forget()
        self._turn = None
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
        if self._driver is not None:
            self._driver.take((envelope,))
            self._wake()

    def on_peer_connected(self, peer: str) -> None:
        """A link to that peer was made."""
        if self._driver is not None:
            self._driver.connect(peer)
            self._wake()

    def ask(self, signed: Signed) -> None:
        """Send a request of our own to all replicas, this one included."""
        envelope = Envelope(signed)
        self._links.send(self, Send(None, envelope))
        if self._driver is not None:
            self._driver.take((envelope,))
            if not self._turn_is_due:
                self._turn_is_due = True
                self.world.scheduler.after(0.0, self._turn_later, self.boots)

    # --- turns ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._driver is None or self.is_paused:
            return
        if self._driver.is_unsaved or self._turn_is_due:
            return
        scheduler = self.world.scheduler
        if scheduler.now >= self._free_at:
            self._begin_turn(self._driver)
        else:
            self._turn_is_due = True
            scheduler.at(self._free_at, self._turn_later, self.boots)

    def _turn_later(self, boot: int) -> None:
        if boot != self.boots or self.replica is None:
            return
        self._turn_is_due = False
        self._wake()

    def _begin_turn(self, driver: TurnDriver) -> None:
        now = self.clock.seconds(self.world.scheduler.now)
        self._observer.before_turn(self, driver.inbox)
        try:
            turn = driver.begin(now)
        except Violation:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of the core is what is looked for
            self._observer.on_failure(self, "a turn", error)
            return
        if turn is None:
            self._arm()
            return
        if self._busy:
            self._free_at = self.world.scheduler.now + self._busy
        self._turn = turn
        self._save()

    def _watch(self, outputs: list[Output], has_expired: bool) -> None:
        self._observer.on_turn(self, outputs, has_expired)

    def _save(self) -> None:
        assert self._turn is not None
        to_save = self._turn.to_save
        # This disk keeps no evidence.
        if to_save is None or not to_save.records:
            self._finish()
            return
        if self.crash_point is CrashPoint.BEFORE_SAVE:
            self._crash_here()
            return
        try:
            if not self._is_written:
                self.disk.write(to_save.records)
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
        if boot != self.boots or self._turn is None:
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
        if boot == self.boots and self._turn is not None:
            self.world.goals.hit("a save that the disk refused is tried again")
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
        turn, self._turn = self._turn, None
        assert turn is not None
        has_records = turn.to_save is not None and bool(turn.to_save.records)
        outputs = turn.saved()
        messages = [send for output in outputs for send in output.messages]
        if has_records:
            self._observer.on_saved(self)
        is_last = bool(messages) and self.crash_point is CrashPoint.WHILE_SENDING
        if is_last:
            messages = messages[: self.chance.randrange(len(messages))]
        for send in messages:
            self._links.send(self, send)
        if is_last:
            self._crash_here()
            return
        if self._driver is None or self._builds is None:
            return
        if has_executed(outputs):
            self._builds.update(self.clock.seconds(self.world.scheduler.now))
        self._arm()
        if self._driver.has_input:
            self._wake()

    # --- timers ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        assert self._driver is not None
        scheduler = self.world.scheduler
        at = self.clock.when(self._driver.deadline, scheduler.now)
        if self._timer_at is None or at < self._timer_at:
            self._timer_at = at
            scheduler.at(at, self._on_timer, self.boots, at)

    def _on_timer(self, boot: int, at: int) -> None:
        if boot != self.boots or at != self._timer_at or self._driver is None:
            return
        self._timer_at = None
        if self.is_paused or self._driver.is_unsaved:
            # The turn that follows the pause or the save arms it again.
            return
        if self.clock.seconds(self.world.scheduler.now) >= self._driver.deadline:
            self._wake()
        else:
            self._arm()

    def _update(self, boot: int) -> None:
        if boot != self.boots or self._builds is None:
            return
        scheduler = self.world.scheduler
        if not self.is_paused:
            self._builds.update(self.clock.seconds(scheduler.now))
            self._observer.on_standing_by(self, self._left_alone(self._builds))
            self.pages.update()
        scheduler.after(UPDATE_SECONDS, self._update, boot)

    def _left_alone(self, builds: BuildScheduler) -> list[OpenBuild]:
        """The builds, of those that not all begin at once, that this replica has not begun."""
        assert self.application is not None
        return [
            build
            for build in self.application.open_builds().values()
            if build.executors and not builds.has_begun((build.id, build.opened))
        ]

    def _build_later(self, delay: float, key: Key) -> None:
        self.world.scheduler.after(delay, self._on_built, self.boots, key)

    def _on_built(self, boot: int, key: Key) -> None:
        if boot != self.boots or self._builder is None:
            return
        if self.is_paused:
            self.world.scheduler.after(UPDATE_SECONDS, self._on_built, boot, key)
            return
        self._builder.on_built(key, self.clock.seconds(self.world.scheduler.now))
