"""What a faulty replica sends in bulk: STATUS, RECOVER, large bodies, and requests of its own.

None of it is forged: each is properly signed by the replica that sends it. What it may cost the
others is bounded (docs/PROTOCOL.md, Bounds); here it is tried.
"""

from collections.abc import Callable, Sequence

import msgspec

from ci.operations import Noop, encode_operation
from pbft.codec import digest_of
from pbft.messages import (
    REQUEST_BYTES_MAX,
    AnyMessage,
    Body,
    Envelope,
    FetchBody,
    FetchState,
    PrePrepare,
    Recover,
    Request,
    Status,
)
from simulator.faults.forgeries import Forger
from simulator.machine.process import Process
from simulator.world.network import Network
from simulator.world.seeded_random import stream
from simulator.world.world import World

FLOODS = ("status flood", "recover flood", "huge bodies")
# Of these in one go.
STATUSES = 20
RECOVERS = 5


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the liars work against."""

    # The replicas that do not lie, and the clients.
    replicas: tuple[str, ...]
    clients: tuple[str, ...]
    # The process of any replica, by its name.
    process: Callable[[str], Process]


class Flooder:
    """The floods of all liars that have such ways.

    injects: whether a fault of this kind is to be injected, which it notes.
    """

    def __init__(
        self,
        world: World,
        forger: Forger,
        targets: Targets,
        *,
        network: Network,
        injects: Callable[[str], bool],
    ) -> None:
        self._cluster = forger.cluster
        self._forger = forger
        self._scheduler = world.scheduler
        self._targets = targets.replicas
        self._chance = stream(world.seed, "floods")
        self._send = network.send
        self._process = targets.process
        self._injects = injects
        self._is_healed = False
        self._bodies: dict[tuple[str, bool], bytes] = {}

    def start(self, name: str, ways: Sequence[str]) -> None:
        """Begin with those of these ways that are floods."""
        for way in ways:
            if way in FLOODS:
                self._scheduler.after(2 * self._chance.random(), self._again, name, way)

    def heal(self) -> None:
        """From now on slower, so that runs end; it never stops."""
        self._is_healed = True

    def _again(self, name: str, way: str) -> None:
        if self._injects(way):
            self._flood(name, way)
        mean = 2.0 if self._is_healed else 0.3
        self._scheduler.after(self._chance.exponential(mean), self._again, name, way)

    def _flood(self, name: str, way: str) -> None:
        if way == "status flood":
            self._statuses(name)
        elif way == "recover flood":
            self._recovers(name)
        else:
            self._huge_bodies(name)

    def _statuses(self, name: str) -> None:
        """Always another place, so that something has to be sent again; and all of it asked for."""
        chance = self._chance
        target = chance.choice(self._targets)
        replica = self._process(target).replica
        if replica is None:
            return
        core, index = replica.core, self._forger.index(name)
        words: list[AnyMessage] = [
            Status(
                max(0, core.view + chance.randint(-2, 2)),
                chance.random() < 0.5,
                chance.choice((0, core.low)),
                chance.randint(0, core.executed + 1),
                index,
            )
            for _ in range(STATUSES)
        ]
        words += [FetchState(core.low, (), index)] * 3
        words += [
            FetchBody(slot.sequence, digest, index)
            for slot in core.log.above(0)
            for digest in slot.batches
        ]
        for message in words:
            self._send(name, target, self._forger.say(name, message))

    def _recovers(self, name: str) -> None:
        """It claims again and again to have lost everything, by another nonce each time."""
        replica = self._process(self._chance.choice(self._targets)).replica
        if replica is None:
            return
        core = replica.core
        for _ in range(RECOVERS):
            # The newest checkpoint, so that it counts, or one that is too old or not reached yet.
            stable = self._chance.choice((core.low, core.low, 0, core.low + core.interval))
            message = Recover(self._chance.randbytes(32), self._forger.index(name), stable)
            envelope = self._forger.say(name, message)
            for target in self._targets:
                self._send(name, target, envelope)

    def _huge_bodies(self, name: str) -> None:
        """As primary, the largest bodies for all numbers; else bodies that nobody waits for.

        And requests of its own, of the largest size, for more numbers than its window has.
        """
        chance = self._chance
        target = chance.choice(self._targets)
        replica = self._process(target).replica
        if replica is None:
            return
        core, index = replica.core, self._forger.index(name)
        body = self._body(name, chance.random() < 0.5)
        number = chance.randint(core.low + 1, core.high + 1)
        if core.primary == index:
            message = PrePrepare(core.view, number, digest_of(body), index)
            self._send(name, target, self._forger.say(name, message, body))
        else:
            self._send(
                name, target, self._forger.say(name, Body(number, digest_of(body), index), body)
            )
        first = core.execution.clients.low_timestamp(name) + chance.randint(
            0, self._cluster.genesis.client_window
        )
        for timestamp in (first, first + 1, first + 10**6):
            own = self._request(name, max(1, timestamp), b"large")
            self._send(name, target, own)

    def _request(self, name: str, timestamp: int, text: bytes) -> Envelope:
        operation = encode_operation(Noop(text.ljust(REQUEST_BYTES_MAX - 16)))
        return self._forger.say(name, Request(name, timestamp, operation))

    def _body(self, name: str, is_allowed: bool) -> bytes:
        """A batch of that replica's own largest requests, just below or above what is allowed."""
        key = (name, is_allowed)
        if key not in self._bodies:
            limit = self._cluster.body_bytes_max
            count = limit // (REQUEST_BYTES_MAX + 300) + (0 if is_allowed else 1)
            requests = [self._request(name, t, b"%d" % t).signed for t in range(1, count + 1)]
            self._bodies[key] = msgspec.msgpack.encode(requests)
        return self._bodies[key]
