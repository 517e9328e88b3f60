"""Seeded random schedules: messages late, lost, doubled, out of order; replicas killed, cut off.

Safety is checked at the end of every run, over all lives of all replicas; then the network heals
and everything that was asked must be answered. A seed that fails is named in the message.
"""

import random

import pytest

from pbft.codec import digest_of
from pbft.core import Settings
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
)
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.world import CrashPoint, Message, World

SEEDS = 120
SEEDS_WITH_A_LIAR = 80


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
            settings=Settings(view_change_seconds=2.0, view_change_seconds_max=16.0),
        )
        self.down_max = self.world.cluster.quorums.faults_max
        self.drop = draw.choice([0.0, 0.02, 0.1, 0.3])
        self.double = draw.choice([0.0, 0.1, 0.2])
        self.is_in_order = draw.random() < 0.3
        self.crash = draw.choice([0.0, 0.01, 0.03])
        self.part = draw.choice([0.0, 0.0, 0.01])
        self.tick = draw.choice([0.005, 0.02, 0.05])
        self.is_primary_hunted = draw.random() < 0.4
        self.cut_off: set[str] = set()
        self.asked = dict.fromkeys(self.world.clients, 0)
        self.executed_before: dict[str, int] = {}
        self.views_before: dict[str, int] = {}
        self.restarts = 0
        self.partitions = 0

    def run(self, steps: int) -> None:
        """Some steps of everything, with at most f replicas down at a time."""
        for _ in range(steps):
            chance = self.random.random()
            if chance < 0.05:
                self.ask()
            elif chance < 0.05 + self.tick or not self.world.under_way:
                self.world.tick(0.5)
            elif chance < 0.05 + self.tick + self.crash:
                self.crash_or_restart()
            elif chance < 0.05 + self.tick + self.crash + self.part:
                self.partition()
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
        is_cut = (message.sender in self.cut_off) != (message.receiver in self.cut_off)
        if self.random.random() < self.drop or is_cut:
            return
        if self.random.random() < self.double:
            under_way.append(message)
        together = [message]
        while self.random.random() < 0.4:
            more = next(
                (
                    m
                    for m in under_way
                    if m.receiver == message.receiver
                    and (m.sender in self.cut_off) == (m.receiver in self.cut_off)
                ),
                None,
            )
            if more is None:
                break
            under_way.remove(more)
            together.append(more)
        self.world.deliver_together(together)
        self.check_steps()

    def partition(self) -> None:
        """Cut some replicas off from everybody else, or make it whole again."""
        if self.cut_off:
            self.cut_off = set()
            return
        count = self.random.randrange(1, len(self.world.names))
        self.cut_off = set(self.random.sample(self.world.names, count))
        self.partitions += 1

    def victim(self) -> str:
        """A replica to kill: any, or where primaries are hunted, that of the highest view."""
        world = self.world
        if not self.is_primary_hunted:
            return self.random.choice(list(world.replicas))
        view = max(replica.core.view for replica in world.replicas.values())
        primary = world.cluster.replica_names[world.cluster.primary(view)]
        return primary if primary in world.replicas else self.random.choice(list(world.replicas))

    def crash_or_restart(self) -> None:
        world = self.world
        down = [name for name in world.names if name not in world.replicas]
        if down and (len(down) == self.down_max or self.random.random() < 0.5):
            name = self.random.choice(down)
            world.crash_points.pop(name, None)
            world.start(name)
            world.connect(name)
            self.restarts += 1
            return
        if len(down) + len(world.crash_points.keys() - set(down)) >= self.down_max:
            return
        name = self.victim()
        if self.random.random() < 0.3:
            world.crash(name)
        else:
            turn = world.turns[name] + 1 + self.random.randrange(3)
            saved = self.random.random() < 0.7
            world.crash_points[name] = CrashPoint(turn, saved, self.random.randrange(4) * saved)

    def check_steps(self) -> None:
        """Nobody ever goes back, in no life, and the water marks hold for every slot."""
        for name, replica in self.world.replicas.items():
            core = replica.core
            assert core.executed >= self.executed_before.get(name, 0)
            assert core.view >= self.views_before.get(name, 0)
            self.executed_before[name] = core.executed
            self.views_before[name] = core.view
            assert core.low <= core.executed <= core.high
            assert all(core.kept_above < s.sequence <= core.high for s in core.log.above(0))

    def heal(self) -> None:
        world = self.world
        world.crash_points = {}
        self.cut_off = set()
        for name in world.names:
            if name not in world.replicas:
                world.start(name)
        for name in world.names:
            world.connect(name)
        for _ in range(80):
            world.run(1)
            if self.is_quiet():
                break

    def is_quiet(self) -> bool:
        return self.is_answered() and self.has_converged()

    def is_answered(self) -> bool:
        outputs = self.world.client_outputs
        return all(len(outputs[name].accepted) == n for name, n in self.asked.items())

    def has_converged(self) -> bool:
        """Whether all executed the same, and all but f at most stand in one view that has begun.

        Whoever left a view alone gets no company while the others are content; it executes.
        """
        cores = [replica.core for replica in self.world.replicas.values()]
        entered = [core.view for core in cores if core.has_entered]
        return (
            len({core.executed for core in cores}) == 1
            and len(cores) - len(entered) <= self.down_max
            and len(set(entered)) == 1
        )


@pytest.mark.parametrize("first", range(0, SEEDS, 40))
def test_random_schedules(first: int) -> None:
    """Correct replicas; any f are killed at any point and come back, the network is cut in two."""
    answered = restarts = views = partitions = transfers = 0
    for seed in range(first, first + 40):
        schedule = Schedule(seed, 7 if seed % 10 == 0 else 4)
        world = schedule.world
        try:
            schedule.run(500)
            check_safety(world)
            schedule.heal()
            check_safety(world)
            check_answers(world)
            assert schedule.is_answered(), "not all was answered"
            assert schedule.has_converged(), where(world)
            for name in world.names:
                assert world.emitted(name, "diverged") == []
                assert world.emitted(name, "equivocation") == []
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r} {where(world)}") from error
        answered += sum(schedule.asked.values())
        restarts += schedule.restarts
        partitions += schedule.partitions
        views += max(schedule.views_before.values(), default=0)
        transfers += sum(len(world.emitted(name, "state_transferred")) for name in world.names)
    # The schedules do enough to mean something.
    assert answered > 300
    assert restarts > 30
    assert views > 40
    assert partitions > 10
    assert transfers > 0


def where(world: World) -> dict[str, tuple[int, int, bool, str]]:
    """Where each replica stands, for the message of a failure."""
    return {
        name: (r.core.executed, r.core.view, r.core.has_entered, r.core.status.value)
        for name, r in world.replicas.items()
    }


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
        view = self.view()
        receiver = self.random.choice([n for n in self.world.names if n != self.name])
        sequence = self.near()
        true = self.true_digest(sequence)
        digest = self.random.choice([true, digest_of(b"%d" % self.random.randrange(2))])
        words: list[AnyMessage] = [
            Prepare(view, sequence, digest, self.index),
            PrePrepare(view, sequence, digest, self.index),
            Commit(view, sequence, digest, self.index),
            Checkpoint(sequence, digest, self.index),
            ViewChange(self.random.choice([view + 1, view + 2, 2**60]), 0, (), (), self.index),
            self.new_view(view),
            Status(0, True, self.near(), sequence, self.index),
        ]
        envelope = Envelope(self.world.sign(self.name, self.random.choice(words)))
        if self.random.random() < 0.2:
            envelope = self.random.choice(self.world.sent).envelope
        self.world.under_way.append(Message(self.name, receiver, envelope))

    def view(self) -> int:
        return self.random.choice(list(self.world.replicas.values())).core.view

    def new_view(self, view: int) -> NewView:
        """As the primary of its next view, begin it with the VIEW-CHANGEs that were sent, and
        order nothing of what was prepared."""
        own = next(v for v in range(view, view + 4) if v % 4 == self.index) or 4
        said = {
            m.envelope.signed.signer: m.envelope.signed
            for m in self.world.sent[-400:]
            if isinstance(m.payload, ViewChange) and m.payload.view == own
        }
        return NewView(own, tuple(said.values()), (), self.index)

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
    """One replica is hostile, and silent in the end; meanwhile the network does what it likes:
    what is wrong is never agreed on, and everything that was asked is answered."""
    views = 0
    for seed in range(first, first + 40):
        schedule = Schedule(10_000 + seed, 4)
        world = schedule.world
        index = schedule.random.randrange(4)
        liar = Liar(schedule, index)
        correct = tuple(name for name in world.names if name != liar.name)
        world.ask(1, b"client 1")
        schedule.asked["client"] = 1
        world.crash(liar.name)
        del world.disks[liar.name]
        world.names = correct
        schedule.down_max = seed % 2
        try:
            for _ in range(80):
                schedule.run(4)
                liar.speak()
            check_safety(world, correct)
            check_answers(world)
            schedule.down_max = 0
            schedule.heal()
            check_safety(world, correct)
            check_answers(world)
            assert schedule.is_answered(), "not all was answered"
            assert len(set(world.executed().values())) == 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r} {where(world)}") from error
        views += max(schedule.views_before.values(), default=0)
    assert views > 20
