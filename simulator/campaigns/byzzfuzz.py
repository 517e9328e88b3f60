"""ByzzFuzz (Winter et al., OOPSLA 2023): few faults, in rounds, with small changes of messages.

A round is a (view, number, phase) in the order in which the run comes to it. In the first ROUNDS
of them, up to two process faults change what a faulty replica says in that round, by a little
(number or view one off, an older digest, less in a VIEW-CHANGE) or leave it out, to some of the
others; and up to two network faults cut the network in two for that round's messages.
"""

from collections.abc import Callable

import msgspec

from pbft.codec import decode_message
from pbft.messages import AnyMessage, Checkpoint, Envelope, NewView, ViewChange
from pbft.ports import Send
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import Parameters
from simulator.machine.process import Process
from simulator.world.gateways import Workload
from simulator.world.scheduler import SECOND
from simulator.world.seeded_random import SeededRandom, stream

ROUNDS = 8
FAULTS_MAX = 2
KINDS = ("sequence", "view", "digest", "old", "omit", "less")
REMEMBERED_MAX = 64
HEALED_AT_SECONDS = 8.0


class ProcessFault(msgspec.Struct, frozen=True):
    """In this round this faulty replica's messages to these replicas are changed so."""

    round: int
    sender: str
    kind: str
    receivers: tuple[str, ...]


class NetworkFault(msgspec.Struct, frozen=True):
    """In this round nothing passes between these replicas and the others."""

    round: int
    side: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True):
    """The faults of one seed: who lies, and c process faults and d network faults."""

    faulty: tuple[int, ...]
    process: tuple[ProcessFault, ...]
    network: tuple[NetworkFault, ...]


def plan_of(seed: int, replicas: int = 4) -> Plan:
    """The plan of that seed."""
    chance = stream(seed, "byzzfuzz")
    names = [f"r{index}" for index in range(replicas)]
    faulty = sorted(chance.sample(range(replicas), (replicas - 1) // 3))
    return Plan(
        faulty=tuple(faulty),
        process=tuple(
            ProcessFault(
                chance.randrange(ROUNDS),
                names[chance.choice(faulty)],
                chance.choice(KINDS),
                _some(names, chance),
            )
            for _ in range(chance.randint(0, FAULTS_MAX))
        ),
        network=tuple(
            NetworkFault(chance.randrange(ROUNDS), _some(names, chance))
            for _ in range(chance.randint(0, FAULTS_MAX))
        ),
    )


def _some(names: list[str], chance: SeededRandom) -> tuple[str, ...]:
    return tuple(chance.some(names, 0.5)) or (chance.choice(names),)


class ByzzFuzzSimulation(Simulation):
    """The run of one plan; nothing else goes wrong in it."""

    def __init__(
        self, seed: int, replicas: int = 4, *, tell: Callable[[str], None] | None = None
    ) -> None:
        self.plan = plan_of(seed, replicas)
        chance = stream(seed, "byzzfuzz world")
        parameters = Parameters(
            seed=seed,
            replicas=replicas,
            checkpoint_interval=2,
            window=4,
            view_change_seconds=1.0,
            gateways=chance.randint(1, 2),
            workload=Workload(requests=chance.randint(1, 4), builds=0.0, spread_seconds=2.0),
            byzantine=dict.fromkeys(self.plan.faulty, ("byzzfuzz",)),
            safety_seconds=HEALED_AT_SECONDS,
        )
        super().__init__(parameters, tell=tell)
        self._fuzz_chance = stream(seed, "byzzfuzz changes")
        self._rounds: dict[tuple[int, int, str], int] = {}
        self._said: list[Envelope] = []

    def send(self, process: Process, send: Send) -> None:
        """As Simulation."""
        name = process.name
        if name in self.correct:
            self.checkers.messages.on_sent(process, send)
        message = decode_message(send.envelope.signed.payload)
        number = self._round_of(message)
        receivers = [send.to] if send.to is not None else [n for n in self.names if n != name]
        for receiver in receivers:
            if self._is_cut(number, name, receiver):
                self._note("byzzfuzz: cut")
                continue
            envelope: Envelope | None = send.envelope
            if name not in self.correct and send.envelope.signed.signer == name:
                envelope = self._changed(number, receiver, message, envelope=send.envelope)
            if envelope is not None:
                self.network.send(name, receiver, envelope)

    def _round_of(self, message: AnyMessage) -> int | None:
        """The number of the round that a message belongs to; None: to none, or to a later one."""
        if isinstance(message, ViewChange | NewView):
            key = (message.view, 0, type(message).__name__)
        elif isinstance(message, Checkpoint):
            key = (0, message.sequence, "Checkpoint")
        elif type(message).__name__ in ("PrePrepare", "Prepare", "Commit"):
            view, sequence = getattr(message, "view", 0), getattr(message, "sequence", 0)
            key = (view, sequence, type(message).__name__)
        else:
            return None
        number = self._rounds.setdefault(key, len(self._rounds))
        return number if number < ROUNDS else None

    def _is_cut(self, number: int | None, one: str, other: str) -> bool:
        if number is None or self.scheduler.now >= HEALED_AT_SECONDS * SECOND:
            return False  # what was cut is sent again once the network is whole
        return any(
            fault.round == number and (one in fault.side) != (other in fault.side)
            for fault in self.plan.network
        )

    def _changed(
        self, number: int | None, receiver: str, message: AnyMessage, *, envelope: Envelope
    ) -> Envelope | None:
        """What the faulty replica really sends; None: nothing."""
        if len(self._said) < REMEMBERED_MAX:
            self._said.append(envelope)
        changed: Envelope | None = envelope
        for fault in self.plan.process:
            is_meant = fault.sender == envelope.signed.signer and receiver in fault.receivers
            if number is None or fault.round != number or not is_meant:
                continue
            self._note(f"byzzfuzz: {fault.kind}")
            if fault.kind == "omit":
                return None
            changed = self._small_change(fault.kind, message, envelope)
        return changed

    def _small_change(self, kind: str, message: AnyMessage, envelope: Envelope) -> Envelope:
        name = envelope.signed.signer
        if kind == "old":
            return self._fuzz_chance.choice(self._said)
        if kind == "less":
            return self.forger.false_view(name, envelope)
        return self.forger.mutate(name, envelope, kind)

    def _note(self, kind: str) -> None:
        self.extra_faults[kind] = self.extra_faults.get(kind, 0) + 1
