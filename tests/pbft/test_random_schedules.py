"""Seeded random schedules: messages late, lost, doubled and out of order, replicas killed.

Safety is checked at the end of every run, over all lives of all replicas; then the network heals
and everything that was asked must be answered. A seed that fails is named in the message.
"""

import random

import pytest

from pbft.codec import digest_of
from pbft.messages import AnyMessage, Checkpoint, Commit, Envelope, Prepare, Status
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.world import CrashPoint, Message, World

SEEDS = 240
SEEDS_WITH_A_LIAR = 120


class Schedule:
    """One random run: what the network and the processes may do is drawn once per seed."""

    def __init__(self, seed: int, replicas: int) -> None:
        self.random = random.Random(seed)
        draw = self.random
        interval = draw.choice([2, 4])
        self.world = World(
            replicas,
            checkpoint_interval=interval,
            window=interval * draw.choice([2, 3]),
            client_window=draw.choice([4, 16]),
        )
        self.drop = draw.choice([0.0, 0.02, 0.1, 0.3])
        self.double = draw.choice([0.0, 0.1, 0.2])
        self.is_in_order = draw.random() < 0.3
        self.crash = draw.choice([0.0, 0.01, 0.03])
        self.tick = draw.choice([0.005, 0.02])
        self.asked = dict.fromkeys(self.world.clients, 0)
        self.executed_before: dict[str, int] = {}
        self.restarts = 0

    def run(self, steps: int) -> None:
        """Some steps of everything, with at most one replica down at a time."""
        for _ in range(steps):
            chance = self.random.random()
            if chance < 0.05:
                self.ask()
            elif chance < 0.05 + self.tick or not self.world.under_way:
                self.world.tick(0.5)
            elif chance < 0.05 + self.tick + self.crash:
                self.crash_or_restart()
            else:
                self.deliver()

    def ask(self) -> None:
        name = self.random.choice(list(self.asked))
        if self.asked[name] < 12:
            self.asked[name] += 1
            self.world.ask(self.asked[name], b"%s %d" % (name.encode(), self.asked[name]), name)

    def deliver(self) -> None:
        under_way = self.world.under_way
        index = 0 if self.is_in_order else self.random.randrange(len(under_way))
        message = under_way.pop(index)
        if self.random.random() < self.drop:
            return
        if self.random.random() < self.double:
            under_way.append(message)
        together = [message]
        while self.random.random() < 0.4:
            more = next((m for m in under_way if m.receiver == message.receiver), None)
            if more is None:
                break
            under_way.remove(more)
            together.append(more)
        self.world.deliver_together(together)
        self.check_steps()

    def crash_or_restart(self) -> None:
        world = self.world
        down = [name for name in world.names if name not in world.replicas]
        if down:
            world.start(down[0])
            world.connect(down[0])
            self.restarts += 1
            return
        name = self.random.choice(world.names)
        if self.random.random() < 0.3:
            world.crash(name)
        else:
            turn = world.turns[name] + 1 + self.random.randrange(3)
            saved = self.random.random() < 0.7
            world.crash_points = {
                name: CrashPoint(turn, saved, self.random.randrange(4) if saved else 0)
            }

    def check_steps(self) -> None:
        """Nobody ever goes back, in no life, and the water marks hold for every slot."""
        for name, replica in self.world.replicas.items():
            core = replica.core
            assert core.executed >= self.executed_before.get(name, 0)
            self.executed_before[name] = core.executed
            assert core.low <= core.executed <= core.high
            assert all(core.kept_above < s.sequence <= core.high for s in core.log.above(0))

    def heal(self) -> None:
        world = self.world
        world.crash_points = {}
        for name in world.names:
            if name not in world.replicas:
                world.start(name)
        for name in world.names:
            world.connect(name)
        for _ in range(60):
            world.run(1)
            if self.is_quiet():
                break

    def is_quiet(self) -> bool:
        return self.is_answered() and self.has_converged()

    def is_answered(self) -> bool:
        outputs = self.world.client_outputs
        return all(len(outputs[name].accepted) == n for name, n in self.asked.items())

    def has_converged(self) -> bool:
        """Whether all executed the same, but for those whom messages cannot help any more."""
        executed = self.world.executed()
        return len({n for name, n in executed.items() if name not in self.behind()}) == 1

    def behind(self) -> set[str]:
        """Replicas that know of a checkpoint above what they executed, and cannot get there.

        What they lack is collected by all others, or above their own high water mark: they need
        the state itself. The others go on without them, but for a primary: then a view change is
        needed.
        """
        cores = [replica.core for replica in self.world.replicas.values()]
        kept_above = max(core.kept_above for core in cores)
        return {
            core.name
            for core in cores
            if core.certified > core.executed
            and (core.executed < kept_above or core.executed == core.high)
        }


@pytest.mark.parametrize("first", range(0, SEEDS, 40))
def test_random_schedules(first: int) -> None:
    """Four or seven correct replicas; any one of them is killed at any point and comes back."""
    answered = restarts = without_primary = 0
    for seed in range(first, first + 40):
        schedule = Schedule(seed, 7 if seed % 10 == 0 else 4)
        try:
            schedule.run(500)
            check_safety(schedule.world)
            schedule.heal()
            check_safety(schedule.world)
            check_answers(schedule.world)
            assert schedule.has_converged(), schedule.world.executed()
            for name in schedule.world.names:
                assert schedule.world.told(name, "diverged") == []
                assert schedule.world.told(name, "equivocation") == []
            assert schedule.is_answered() or "r0" in schedule.behind(), "not all was answered"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        answered += sum(schedule.asked.values())
        restarts += schedule.restarts
        without_primary += not schedule.is_answered()
    # The schedules do enough to mean something.
    assert answered > 400
    assert restarts > 40
    assert without_primary <= 2


class Liar:
    """Holds the key of one backup, and says whatever may confuse the others."""

    def __init__(self, schedule: Schedule, index: int) -> None:
        self.schedule = schedule
        self.world = schedule.world
        self.random = schedule.random
        self.index = index
        self.name = self.world.cluster.replica_names[index]

    def speak(self) -> None:
        """Send something false, or something true to some, to anybody."""
        receiver = self.random.choice([n for n in self.world.names if n != self.name])
        sequence = self.near()
        true = self.true_digest(sequence)
        digest = self.random.choice([true, digest_of(b"%d" % self.random.randrange(2))])
        words: list[AnyMessage] = [
            Prepare(0, sequence, digest, self.index),
            Commit(0, sequence, digest, self.index),
            Checkpoint(sequence, digest, self.index),
            Status(0, self.near(), sequence, self.index),
        ]
        envelope = Envelope(self.world.sign(self.name, self.random.choice(words)))
        if self.random.random() < 0.2:
            envelope = self.random.choice(self.world.sent).envelope
        self.world.under_way.append(Message(self.name, receiver, envelope))

    def near(self) -> int:
        core = self.random.choice(list(self.world.replicas.values())).core
        return max(0, core.executed + self.random.randrange(-2, 4))

    def true_digest(self, sequence: int) -> bytes:
        for replica in self.world.replicas.values():
            slot = replica.core.log.find(sequence)
            if slot is not None and slot.accepted is not None:
                return slot.accepted
        return bytes(32)


@pytest.mark.parametrize("first", range(0, SEEDS_WITH_A_LIAR, 40))
def test_random_schedules_with_a_liar(first: int) -> None:
    """One backup is hostile, another one may be killed: what is wrong is never agreed on."""
    for seed in range(first, first + 40):
        schedule = Schedule(10_000 + seed, 4)
        world = schedule.world
        index = schedule.random.randrange(1, 4)
        liar = Liar(schedule, index)
        correct = tuple(name for name in world.names if name != liar.name)
        world.ask(1, b"client 1")
        schedule.asked["client"] = 1
        world.crash(liar.name)
        del world.disks[liar.name]
        world.names = correct
        try:
            for _ in range(80):
                schedule.run(4)
                liar.speak()
            check_safety(world, correct)
            check_answers(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
