"""The clients of a simulated world: what they ask for, and the real client code that asks."""

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from ci.admission import is_temporary
from ci.operations import (
    Append,
    ApproveBuild,
    CancelBuild,
    Delivery,
    Event,
    Noop,
    Operation,
    SubmitBuild,
    encode_operation,
)
from ci.statement import submitted_build_id
from pbft.authentication import Identity
from pbft.client import Accepted, Client, ClientOutput, ClientSettings, make_request
from pbft.messages import Envelope, Signed
from pbft.ports import Send
from simulator.world.clock import Clock
from simulator.world.seeded_random import SeededRandom
from simulator.world.world import World

# An operator who is told that there is no room now.
APPROVE_AGAIN_SECONDS = 2.0

REPOSITORY = "https://forge.example/project.git"
# What a forge tells of the branch main: an event, and the ref that goes with it.
_ASKED_FOR = (
    (Event.PUSH, None),
    (Event.TAG, "refs/tags/main"),
    (Event.PULL_REQUEST, "refs/pull/7/head"),
)


class Workload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """requests: of each gateway; builds, cancels: shares of them; spread_seconds: over how long
    they are asked; double: share that asks for a build that was asked for before; deliveries:
    share of builds that a forge told all gateways of; waiting: share that needs approval."""

    requests: int = 10
    builds: float = 0.3
    cancels: float = 0.05
    spread_seconds: float = 8.0
    double: float = 0.1
    deliveries: float = 0.0
    waiting: float = 0.0


class Asked(msgspec.Struct):
    """One request of a gateway, and how far it came. Times in nanoseconds."""

    client: str
    timestamp: int
    signed: Signed
    operation: Operation
    last_kinds: frozenset[str]
    asked_at: int
    sent_at: int | None = None
    answered_at: int | None = None
    finished_at: int | None = None


class GatewayObserver(Protocol):
    """Who looks at what an honest client asks and believes."""

    def on_asked(self, asked: Asked) -> None:
        """A request is sent for the first time."""

    def on_answer(self, asked: Asked, answer: Accepted) -> None:
        """An answer is believed."""

    def on_waiting(self, build: bytes) -> None:
        """A build of this client opened, and needs approval."""


class Gateway:
    """One honest client. send: (name of the client, message)."""

    def __init__(
        self,
        world: World,
        name: str,
        chance: SeededRandom,
        *,
        send: Callable[[str, Send], None],
        observer: GatewayObserver,
        resend_seconds: float,
    ) -> None:
        self.name = name
        self.asked: dict[int, Asked] = {}
        self.unfinished: dict[int, Asked] = {}
        self._cluster = world.cluster
        self._sign = world.signatures.signer(name)
        self._scheduler = world.scheduler
        self._chance = chance
        self._send = send
        self._observer = observer
        self._clock = Clock()
        settings = ClientSettings(resend_seconds=resend_seconds, resend_seconds_max=4.0)
        self._client = Client(world.cluster, name, world.signatures.verify, settings=settings)
        self._timer_at: int | None = None
        self._by_payload: dict[bytes, Asked] = {}
        self._builds: list[SubmitBuild] = []

    def plan(self, workload: Workload) -> None:
        """Spread the work over the time to come."""
        for number in range(workload.requests):
            delay = self._chance.random() * workload.spread_seconds
            self._scheduler.after(delay, self._ask_next, workload, number)

    def _ask_next(self, workload: Workload, number: int) -> None:
        chance = self._chance
        if chance.random() >= workload.builds:
            if chance.random() < 0.7:
                self.ask(Append(f"{self.name} {number}"), frozenset({"appended", "refused"}))
            else:
                self.ask(Noop(b"%d" % number), frozenset({"done", "refused"}))
            return
        if self._builds and chance.random() < workload.cancels:
            submitted = chance.choice(self._builds)
            build_id = submitted_build_id(self._cluster.lineage, self.name, submitted)
            self.ask(CancelBuild(build_id), frozenset({"done", "refused"}))
            return
        if self._builds and chance.random() < workload.double:
            submitted = chance.choice(self._builds)
        else:
            # each epoch asks for builds of its own, beside those that go over
            epoch = f" in epoch {self._cluster.epoch}" if self._cluster.epoch else ""
            identity = hashlib.sha256(f"{self.name} {number}{epoch}".encode()).digest()
            commit = None if chance.random() < 0.1 else identity.hex()[:40]
            submitted = SubmitBuild(identity, REPOSITORY, "main", commit)
            submitted = self._of_a_forge(submitted, workload, number)
            self._builds.append(submitted)
        self.ask(submitted, frozenset({"decided", "refused"}))

    def _of_a_forge(self, asked: SubmitBuild, workload: Workload, number: int) -> SubmitBuild:
        """Perhaps a delivery instead, equal at all gateways but for what is each one's own."""
        if not self._chance.happens(workload.deliveries):
            needs_approval = self._chance.happens(workload.waiting)
            return msgspec.structs.replace(asked, needs_approval=needs_approval)
        key = hashlib.sha256(b"delivery %d" % (number // 2)).digest()
        event, ref = _ASKED_FOR[key[0] % 3]
        return msgspec.structs.replace(
            asked,
            commit=key.hex()[:40],
            event=event,
            ref=ref,
            delivery=Delivery("github", key),
            needs_approval=key[1] < 256 * workload.waiting,
        )

    def ask(self, operation: Operation, last_kinds: frozenset[str]) -> None:
        """Sign the next request, and ask until one of these answers is believed."""
        timestamp = len(self.asked) + 1
        signed = make_request(
            Identity(self._cluster, self.name, self._sign), timestamp, encode_operation(operation)
        )
        now = self._scheduler.now
        asked = Asked(self.name, timestamp, signed, operation, last_kinds, now)
        self.asked[timestamp] = self.unfinished[timestamp] = asked
        self._by_payload[signed.payload] = asked
        self._take(self._client.ask(signed, last_kinds, self._clock.seconds(now)))

    def arrive(self, envelope: Envelope) -> None:
        """A message came from a replica."""
        now = self._clock.seconds(self._scheduler.now)
        self._take(self._client.receive([envelope], now))

    def _take(self, output: ClientOutput) -> None:
        for send in output.messages:
            asked = self._by_payload[send.envelope.signed.payload]
            if asked.sent_at is None:
                asked.sent_at = self._scheduler.now
                self._observer.on_asked(asked)
            self._send(self.name, send)
        for answer in output.accepted:
            asked = self.asked[answer.timestamp]
            if asked.answered_at is None:
                asked.answered_at = self._scheduler.now
            needs_approval = getattr(asked.operation, "needs_approval", False)
            if answer.kind == "opened" and needs_approval:
                self._observer.on_waiting(answer.subject)
            self._again_if_full(asked, answer)
            if answer.kind in asked.last_kinds:
                asked.finished_at = self._scheduler.now
                self.unfinished.pop(answer.timestamp, None)
            self._observer.on_answer(asked, answer)
        if output.deadline is not None:
            self._arm(output.deadline)

    def _again_if_full(self, asked: Asked, answer: Accepted) -> None:
        """An operator who was told that too many builds are open approves it again later."""
        is_approval = isinstance(asked.operation, ApproveBuild)
        if is_approval and answer.kind == "refused" and is_temporary(answer.result.decode()):
            delay = APPROVE_AGAIN_SECONDS
            self._scheduler.after(delay, self.ask, asked.operation, asked.last_kinds)

    def _arm(self, deadline: float) -> None:
        at = self._clock.when(deadline, self._scheduler.now)
        if self._timer_at is None or at < self._timer_at:
            self._timer_at = at
            self._scheduler.at(at, self._on_timer, at)

    def _on_timer(self, at: int) -> None:
        if at != self._timer_at:
            return
        self._timer_at = None
        self._take(self._client.handle_timer(self._clock.seconds(self._scheduler.now)))
