"""Faults of processes, disks, links and clocks, by chance and by plan, until they are healed."""

from collections.abc import Callable, Sequence

from simulator.faults.parameters import FaultPlan
from simulator.machine.disk import ROTTEN_MARK
from simulator.machine.process import CrashPoint, Process
from simulator.world.network import Network
from simulator.world.seeded_random import SeededRandom, stream
from simulator.world.world import World

# How long the links are cut in two at the end of an epoch.
SPLIT_SECONDS_MAX = 5.0


class Nemesis:
    """What goes wrong around the replicas.

    processes: of all replicas, by name. members: the names of all replicas and clients.
    set_back: called for each replica whose disk may forget unnoticed.
    """

    def __init__(
        self,
        world: World,
        plan: FaultPlan,
        network: Network,
        *,
        processes: dict[str, Process],
        members: Sequence[str],
        set_back: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._set_back = set_back
        self._record = world.record
        self._plan = plan
        self._scheduler = world.scheduler
        self._trace = world.trace
        self._network = network
        self._processes = processes
        self._replicas = list(processes)
        self._members = list(members)
        self._process_chance = stream(world.seed, "process")
        self._network_chance = stream(world.seed, "partitions")
        self._disk_chance = stream(world.seed, "disk")
        self._clock_chance = stream(world.seed, "clock")
        self._recovery_chance = stream(world.seed, "recovery")
        self._loss_chance = stream(world.seed, "further losses")
        self._is_over = False
        # links of those that are cut off for ever
        self._cut_off: list[tuple[str, str]] = []
        # Whose disks may be damaged now, and whether they have found out; whose ever were.
        self._losing: dict[str, bool] = {}
        self.damaged: dict[str, None] = {}
        self._leaving: dict[str, None] = {}
        # who is away until the next epoch has begun
        self.away: dict[str, None] = {}
        self._end_crashes = dict.fromkeys(processes, plan.end_crashes)
        self._is_end_split = not plan.end_partition
        self._end_chance = stream(world.seed, "the end of an epoch")
        self._further_losses = plan.further_losses
        self.counts: dict[str, int] = {}
        if plan.clock_skew:
            for process in processes.values():
                process.clock_rate = 0.7 + 0.6 * self._clock_chance.random()

    def keep_away(self, names: Sequence[str]) -> None:
        """These replicas never start: their seats are vacant."""
        self.away.update(dict.fromkeys(names))

    def start(self, rotten: Sequence[str], wiped: Sequence[str], away: Sequence[str] = ()) -> None:
        """Begin. rotten, wiped: whose disks are damaged or emptied. away: who leaves for good."""
        plan = self._plan
        for rate, chance, action in (
            (plan.crashes, self._process_chance, self._crash),
            (plan.pauses, self._process_chance, self._pause),
            (plan.partitions, self._network_chance, self._partition),
            (plan.refusals, self._disk_chance, self._refuse),
        ):
            if rate > 0:
                self._again(rate, chance, action)
        for name in rotten:
            self._losing[name] = False
            self._later(self._disk_chance, 5.0, self._rot, name)
        for name in wiped:
            self._later(self._disk_chance, 5.0, self._wipe, name)
        self._leaving = dict.fromkeys(away)
        for name in away:
            self._scheduler.after(self._end_chance.exponential(1.0), self._take_away, name)
        if plan.clock_skew:
            for process in self._processes.values():
                self._later(self._clock_chance, 10.0, self._jump, process)

    def heal(self) -> None:
        """Faults are over: whole links, running processes, disks that take writes."""
        self._is_over = True
        self._trace.event("the faults are over")
        for name in self._leaving:
            self._take_away(name)
        self._network.mend([(a, b) for a in self._members for b in self._members if a != b])
        for process in self._processes.values():
            process.disk.refuses = False
            process.crash_point = None
            process.resume()
            if not process.is_up and process.name not in self.away:
                process.boot()
        self._connect_all()

    def cut_off(self, names: Sequence[str], one_way: str = "") -> None:
        """These replicas are cut off for ever; one_way: `deaf` or `mute`, where only half of it."""
        others = [(name, other) for name in names for other in self._members if other != name]
        pairs = [] if one_way == "deaf" else others
        pairs += [] if one_way == "mute" else [(other, name) for name, other in others]
        self._cut_off = pairs
        self._network.cut(pairs)

    def connect(self, process: Process) -> None:
        """The links of a process that has started are made."""
        for other in self._processes.values():
            if other is not process and self._network.is_whole(process.name, other.name):
                process.on_peer_connected(other.name)
                other.on_peer_connected(process.name)

    # --- one by one -----------------------------------------------------------------------------

    def _again(self, rate: float, chance: SeededRandom, action: Callable[..., None]) -> None:
        self._scheduler.after(chance.exponential(1 / rate), self._do, rate, chance, action)

    def _do(self, rate: float, chance: SeededRandom, action: Callable[..., None]) -> None:
        if self._is_over:
            return
        if self._record.allows(_name(action)):
            action()
        self._again(rate, chance, action)

    def _later(
        self, chance: SeededRandom, mean: float, action: Callable[..., None], *arguments: object
    ) -> None:
        self._scheduler.after(chance.exponential(mean), self._once, action, arguments)

    def _once(self, action: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if not self._is_over and self._record.allows(_name(action)):
            action(*arguments)

    def _crash(self) -> None:
        chance = self._process_chance
        process = self._processes[chance.choice(self._replicas)]
        if not process.is_up:
            return
        if chance.happens(self._plan.crash_points):
            process.crash_point = chance.choice(tuple(CrashPoint))
            self._count(f"crash {process.crash_point.name.lower()}")
        else:
            process.crash()
            self._count("crash")
        self._scheduler.after(chance.exponential(self._plan.down_seconds), self._start, process)

    def _start(self, process: Process) -> None:
        if process.is_up or process.name in self.away:
            return
        self._count("restart")
        process.boot()

    def restart_later(self, process: Process) -> None:
        """A process died at its crash point."""
        delay = self._process_chance.exponential(self._plan.down_seconds)
        self._scheduler.after(delay, self._start, process)

    def boot_late(self, process: Process) -> None:
        """A replica begins a later epoch after others have."""
        if not process.is_up:
            self._count("late begin")
            process.boot()

    def _take_away(self, name: str) -> None:
        if name in self.away:
            return
        self._count("away for a change of members")
        self._trace.event(f"{name} is away from now on")
        self.away[name] = None
        self._processes[name].crash()

    def on_end_near(self, process: Process) -> None:
        """The members are to change, and this replica is about to save something before they have.

        Maybe it dies at that, whether the faults are over or not, and the links are cut in two.
        """
        chance = self._end_chance
        if not self._is_end_split:
            self._is_end_split = True
            if self._record.allows("partition at the end of an epoch"):
                self._split_at_end()
        if self._end_crashes[process.name] and process.crash_point is None and chance.happens(0.2):
            self._end_crashes[process.name] -= 1
            if self._record.allows(f"crash of {process.name} at the end of an epoch"):
                process.crash_point = chance.choice(tuple(CrashPoint))
                self._count("crash at the end of an epoch")

    def _split_at_end(self) -> None:
        members = list(self._replicas)
        self._end_chance.shuffle(members)
        size = self._end_chance.randint(1, len(members) - 1)
        pairs = [(a, b) for a in members[:size] for b in members[size:]]
        pairs += [(b, a) for a, b in pairs]
        self._count("partition at the end of an epoch")
        self._trace.event(f"partition at the end of an epoch: {members[:size]}")
        self._network.cut(pairs)
        seconds = min(SPLIT_SECONDS_MAX, self._end_chance.exponential(2.0))
        self._scheduler.after(seconds, self._mend_end, pairs)

    def _pause(self) -> None:
        chance = self._process_chance
        process = self._processes[chance.choice(self._replicas)]
        if process.is_up:
            self._count("pause")
            self._trace.event(f"{process.name} is paused")
            process.pause()
            self._scheduler.after(5 * chance.random(), process.resume)

    def _refuse(self) -> None:
        chance = self._disk_chance
        process = self._processes[chance.choice(self._replicas)]
        if not process.disk.refuses:
            self._count("disk refuses")
            self._trace.event(f"the disk of {process.name} refuses")
            process.disk.refuses = True
            self._scheduler.after(3 * chance.random(), self._accept, process)

    def _accept(self, process: Process) -> None:
        process.disk.refuses = False

    def on_loss(self, name: str) -> None:
        """A replica found that it lost what it said."""
        self._losing[name] = True

    def on_vote_regained(self, name: str, others: Sequence[str]) -> None:
        """A replica that may have lost what it said votes: maybe it is another one's turn to lose.

        others: who follows the rules, this one too.
        """
        if self._is_over or not self._further_losses or not self._losing.get(name):
            return
        self._further_losses -= 1
        del self._losing[name]
        following = self._loss_chance.choice([o for o in others if o not in self._losing])
        self._losing[following] = False
        self._later(self._loss_chance, 0.5, self._rot, following)

    def damage_another(self, names: Sequence[str]) -> bool:
        """All are in step again: damage the disk of one of them, where that is still to come."""
        if not self._further_losses or any(name not in names for name in self._losing):
            return False
        self._further_losses -= 1
        name = self._loss_chance.choice(list(names))
        process = self._processes[name]
        if not self._record.allows("damage another") or not self._damage(process):
            return False
        self._losing[name] = False
        self._scheduler.after(self._loss_chance.exponential(1.0), self._start, process)
        return True

    def _rot(self, name: str) -> None:
        if name not in self._losing:
            return
        process = self._processes[name]
        damage = self._damage(process)
        if not damage:
            self._later(self._disk_chance, 2.0, self._rot, name)
            return
        self._later(self._disk_chance, 1.0, self._start, process)
        if damage == ROTTEN_MARK:
            self._later(self._disk_chance, 4.0, self._rot, name)
        for _ in range(self._plan.recovery_crashes):
            self._later(self._recovery_chance, 1.5, self._crash_in_recovery, process)

    def _damage(self, process: Process) -> str:
        """Damage a disk and kill the process; says how, nothing where there is nothing to damage.

        Where nobody may notice what is lost, the replica is faulty from now on.
        """
        is_guarded = process.disk.is_guarded
        damage = process.disk.rot(self._disk_chance)
        if damage is None:
            return ""
        if not is_guarded:
            self._set_back(process.name)
        self._count(f"disk rots: {'mark' if damage == ROTTEN_MARK else 'records'}")
        self._trace.event(f"the disk of {process.name} rots: {damage}")
        self.damaged[process.name] = None
        process.crash()
        return damage

    def _crash_in_recovery(self, process: Process) -> None:
        """A replica that lost what it said is killed again before it may vote."""
        if process.replica is None or not process.replica.core.is_recovering:
            return
        self._count("crash in recovery")
        process.crash()
        self._scheduler.after(self._recovery_chance.exponential(0.3), self._start, process)

    def _wipe(self, name: str) -> None:
        process = self._processes[name]
        self._count("disk wiped")
        self._trace.event(f"the disk of {name} is wiped")
        process.wipe()
        self._later(self._disk_chance, 1.0, self._start, process)

    def _jump(self, process: Process) -> None:
        self._count("clock jump")
        chance = self._clock_chance
        # A hiccup; or the machine slept, for hours maybe.
        seconds = chance.choice((5.0, 5.0, 60.0, 100_000.0)) * chance.random()
        process.clock.jump(seconds, self._scheduler.now)
        process.clock.drift(0.7 + 0.6 * chance.random(), self._scheduler.now)
        self._later(chance, 10.0, self._jump, process)

    # --- partitions -----------------------------------------------------------------------------

    def _partition(self) -> None:
        chance = self._network_chance
        kind = chance.choice(("split", "isolate", "one way", "bridge", "swizzle"))
        self._count(f"partition {kind}")
        self._trace.event(f"partition: {kind}")
        members = list(self._replicas)
        chance.shuffle(members)
        if kind == "swizzle":
            self._swizzle(members[: chance.randint(1, len(members))])
            return
        size = 1 if kind in ("isolate", "one way") else chance.randint(1, len(members) - 1)
        left, right = members[:size], members[size:]
        if kind == "bridge":
            right = right[1:]  # who is left out of both sides is heard by all
        pairs = [(a, b) for a in left for b in right]
        if kind != "one way":
            pairs += [(b, a) for a, b in pairs]
        self._network.cut(pairs)
        self._scheduler.after(chance.exponential(chance.choice((0.5, 2.0, 8.0))), self._mend, pairs)

    def _swizzle(self, members: list[str]) -> None:
        """Clog some members one by one, and unclog them in another order."""
        chance = self._network_chance
        delay = 0.0
        for name in members:
            delay += chance.exponential(0.3)
            pairs = [(name, other) for other in self._replicas if other != name]
            pairs += [(b, a) for a, b in pairs]
            self._scheduler.after(delay, self._cut, pairs)
            self._scheduler.after(delay + chance.exponential(2.0), self._mend, pairs)

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
        if not self._is_over:
            self._network.cut(pairs)

    def _mend(self, pairs: list[tuple[str, str]]) -> None:
        if not self._is_over:
            self._mend_now(pairs)

    def _mend_end(self, pairs: list[tuple[str, str]]) -> None:
        """Also when the faults are over; who is cut off for ever by then stays so."""
        self._mend_now([pair for pair in pairs if pair not in self._cut_off])

    def _mend_now(self, pairs: list[tuple[str, str]]) -> None:
        self._network.mend(pairs)
        for a, b in dict.fromkeys(tuple(sorted(pair)) for pair in pairs):
            if self._network.is_whole(a, b):
                self._processes[a].on_peer_connected(b)
                self._processes[b].on_peer_connected(a)

    def _connect_all(self) -> None:
        for process in self._processes.values():
            if process.is_up:
                self.connect(process)

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


def _name(action: Callable[..., None]) -> str:
    return action.__name__.strip("_").replace("_", " ")
