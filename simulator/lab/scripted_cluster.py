"""A simulated cluster that follows a script instead of chance, and records all messages.

The replicas, their disks and the clients are those of every simulated run. The network follows the
script's rules, and every link takes the same time. So a scenario shows what the real code does in
one situation, step by step.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ci.application import BuildApplication
from ci.builds import OpenBuild
from ci.limits import Limits, encode_limits
from ci.operations import Append, Operation, decode_operation
from driver.ledger_fetcher import PageRequest
from pbft.authentication import Authenticator, Identity, sign_message
from pbft.client import Accepted
from pbft.codec import MalformedMessage, decode_message, digest_of, encode_message
from pbft.core import Core, Settings
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import AnyMessage, Envelope
from pbft.ports import Entry, Event, Output, Send
from simulator.machine.process import Process
from simulator.world.builds import BuildFaults, BuildTruth
from simulator.world.gateways import Asked, Gateway
from simulator.world.run_trace import Trace
from simulator.world.scheduler import SECOND, Scheduler
from simulator.world.seeded_random import stream
from simulator.world.signatures import Oracle
from simulator.world.world import World

CLIENT = "client"
VIEW_CHANGE_SECONDS = 1.0
EVENTS_MAX = 200_000


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart the members are, and how patient; by default as scenarios show it best."""

    link_seconds: float = 0.010
    # Links differ a little, so that arrows do not lie on each other.
    link_step_seconds: float = 0.0007
    settings: Settings = Settings(
        view_change_seconds=VIEW_CHANGE_SECONDS, view_change_seconds_max=8 * VIEW_CHANGE_SECONDS
    )
    checkpoint_interval: int = 4
    window: int = 8
    # a build takes at most 0.1 s more
    build_seconds: float = 2.0


LAB_PACE = Pace()


class Transit(msgspec.Struct):
    """One message between two processes.

    sent, arrived: nanoseconds of virtual time. arrived is None if the message was lost.
    """

    sender: str
    receiver: str
    envelope: Envelope
    kind: str
    sent: int
    arrived: int | None = None
    refused: str | None = None
    is_forged: bool = False


class LogEntry(msgspec.Struct, frozen=True):
    """A log event of a replica, or a line of the script."""

    at: int
    lane: str
    event: str
    details: dict[str, str | int | None]


class LinkEffect(msgspec.Struct, frozen=True):
    """What the network does with a message: it delays it by extra_seconds, or (None) loses it."""

    extra_seconds: float | None = 0.0


# (sender, receiver, message) -> the effect on the message; None: the next rule decides
Rule = Callable[[str, str, AnyMessage], LinkEffect | None]

LOST = LinkEffect(None)


class ScriptedCluster:
    """The world of one scenario.

    faulty: the replicas whose messages the script may write itself.
    """

    def __init__(
        self,
        *,
        replicas: int = 4,
        faulty: Sequence[str] = (),
        tell: Callable[[str], None] = lambda line: None,
        seed: int = 1,
        pace: Pace = LAB_PACE,
    ) -> None:
        self.pace = pace
        self.scheduler = Scheduler()
        self.trace = Trace(self.scheduler, tell)
        self.signatures = Oracle(seed, self.scheduler)
        self.names = tuple(f"r{index}" for index in range(replicas))
        self.faulty = tuple(faulty)
        self.correct = tuple(name for name in self.names if name not in faulty)
        self.transits: list[Transit] = []
        self.log: list[LogEntry] = []
        self.rules: list[Rule] = []
        self.executed: dict[str, dict[int, str]] = {name: {} for name in self.names}
        self.appended: dict[str, list[str]] = {name: [] for name in self.names}
        self.answers: list[str] = []
        # times of which the picture shows nothing: (began, ended in nanoseconds, why)
        self.folds: list[tuple[int, int, str]] = []
        self.evidence: dict[str, set[str]] = {name: set() for name in self.names}
        self.muted: set[str] = set()
        self._arrived: dict[str, list[Transit]] = {name: [] for name in self.names}
        world = self._world(seed)
        self.processes = {
            name: Process(world, name, stream(seed, f"stage {name}"), observer=self, links=self)
            for name in self.names
        }
        self.client = Gateway(
            world,
            CLIENT,
            stream(seed, "stage client"),
            send=self._send_from_client,
            observer=self,
            resend_seconds=2.0,
        )
        for process in self.processes.values():
            process.boot()

    def _world(self, seed: int) -> World:
        """What the processes share; it makes the cluster."""
        limits = Limits()
        pace = self.pace
        key = self.signatures.public_key
        self.cluster = Cluster(
            Genesis(
                PROTOCOL_MIN,
                tuple(Member(name, key(name), ("replica",)) for name in self.names),
                (Member(CLIENT, key(CLIENT), ("gateway",)),),
                pace.checkpoint_interval,
                pace.window,
                pace.window,
                encode_limits(limits),
            )
        )
        return World(
            seed=seed,
            cluster=self.cluster,
            limits=limits,
            settings=pace.settings,
            scheduler=self.scheduler,
            trace=self.trace,
            signatures=self.signatures,
            authenticator=Authenticator(self.cluster, self.signatures.verify),
            truth=BuildTruth(seed, BuildFaults(seconds_max=pace.build_seconds)),
        )

    # --- what a script does ---------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.scheduler.run_until(self.scheduler.now + int(seconds * SECOND), EVENTS_MAX)
        assert self.scheduler.events < EVENTS_MAX, "a scenario is short"

    def ask(self, operation: Operation | str) -> None:
        """The client asks for this; a text is appended to the journal."""
        wanted = Append(operation) if isinstance(operation, str) else operation
        self.client.ask(wanted, frozenset({"appended", "decided", "done", "refused"}))

    def say(self, line: str) -> None:
        """A line of the script itself, for who reads along."""
        self.trace.event(f"-- {line}")
        self.log.append(LogEntry(self.scheduler.now, CLIENT, "script", {"text": line}))

    @contextlib.contextmanager
    def fold(self, why: str) -> Iterator[None]:
        """Draw nothing of what happens inside, because it is like what was drawn before."""
        began = self.scheduler.now
        yield
        self.folds.append((began, self.scheduler.now, why))

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].crash()
        self.log.append(LogEntry(self.scheduler.now, name, "killed", {}))

    def start(self, name: str) -> None:
        """Start it again, from its disk."""
        self.processes[name].boot()
        self.log.append(LogEntry(self.scheduler.now, name, "started", {}))

    def split(self, *sides: Sequence[str]) -> None:
        """Let only members of one side reach each other; others reach nobody."""
        side_of = {name: number for number, side in enumerate(sides) for name in side}

        def apart(sender: str, receiver: str, message: AnyMessage) -> LinkEffect | None:
            one, other = side_of.get(sender), side_of.get(receiver)
            return LOST if one is None or one != other else None

        self.rules.insert(0, apart)

    def heal(self) -> None:
        """Remove all rules and make all links anew."""
        self.rules.clear()
        for process in self.processes.values():
            self.connect(process)

    def silence(self, name: str) -> None:
        """Hold back what the replica's own code sends; the script sends for it."""
        assert name in self.faulty, "a correct replica is never silenced"
        self.muted.add(name)

    def forge(
        self, name: str, message: AnyMessage, *, to: Sequence[str], body: bytes = b""
    ) -> None:
        """A faulty replica sends this message to those, signed with its own key."""
        assert name in self.faulty, "nobody has a correct replica's key"
        signed = sign_message(
            message,
            encode_message(message),
            Identity(self.cluster, name, self.signatures.signer(name)),
        )
        for receiver in to:
            self.post(name, receiver, Envelope(signed, body), is_forged=True)

    def core(self, name: str) -> Core:
        """A running replica's state."""
        replica = self.processes[name].replica
        assert replica is not None, f"{name} is down"
        return replica.core

    def journal_of(self, name: str) -> tuple[int, str]:
        """Length and digest of a replica's journal."""
        application = self.processes[name].application
        assert isinstance(application, BuildApplication)
        return application.journal_length, application.journal_digest.hex()[:12]

    def forks(self) -> list[int]:
        """The sequence numbers at which two correct replicas executed different requests."""
        numbers = {number for name in self.correct for number in self.executed[name]}
        return [
            number
            for number in sorted(numbers)
            if len({d[number] for n in self.correct if number in (d := self.executed[n])}) > 1
        ]

    # --- the network ----------------------------------------------------------------------------

    def post(
        self, sender: str, receiver: str, envelope: Envelope, *, is_forged: bool = False
    ) -> None:
        """Send a message; the first rule that knows it decides its effect."""
        try:
            message = decode_message(envelope.signed.payload)
        except MalformedMessage:
            return
        effects = (rule(sender, receiver, message) for rule in self.rules)
        effect = next((effect for effect in effects if effect is not None), LinkEffect())
        now = self.scheduler.now
        kind = type(message).__name__
        transit = Transit(sender, receiver, envelope, kind, now, is_forged=is_forged)
        self.transits.append(transit)
        if effect.extra_seconds is not None:
            seconds = self._link_seconds(sender, receiver) + effect.extra_seconds
            self.scheduler.after(seconds, self._arrive, transit)

    def _link_seconds(self, sender: str, receiver: str) -> float:
        members = (CLIENT, *self.names)
        steps = 3 * members.index(sender) + members.index(receiver)
        pace = self.pace
        return pace.link_seconds + pace.link_step_seconds * (steps % len(members))

    def _arrive(self, transit: Transit) -> None:
        transit.arrived = self.scheduler.now
        link = f"{transit.sender} > {transit.receiver}"
        self.trace.arrival(link, link.encode(), transit.envelope)
        if transit.receiver == CLIENT:
            self.client.arrive(transit.envelope)
            return
        self._arrived[transit.receiver].append(transit)
        self.processes[transit.receiver].arrive(transit.envelope)

    def send(self, process: Process, send: Send) -> None:
        """A replica's message leaves it, unless the script sends for it."""
        if process.name in self.muted:
            return
        receivers = self.names if send.to is None else (send.to,)
        for receiver in receivers:
            if receiver != process.name:
                self.post(process.name, receiver, send.envelope)

    def _send_from_client(self, name: str, send: Send) -> None:
        for receiver in self.names if send.to is None else (send.to,):
            self.post(name, receiver, send.envelope)

    def connect(self, process: Process) -> None:
        """All links of a replica that has started are made."""
        for other in self.processes.values():
            if other is not process:
                process.on_peer_connected(other.name)
                other.on_peer_connected(process.name)

    def fetch_ledger(self, process: Process, request: PageRequest) -> None:
        """Ledger pages travel over HTTP, beside the protocol: no scenario shows them."""

    # --- the observer of the processes ----------------------------------------------------------

    def before_turn(self, process: Process, inbox: list[Envelope]) -> None:
        """Nothing is checked before a turn here."""

    def on_turn(self, process: Process, outputs: list[Output], has_expired: bool) -> None:
        """Write down what the replica emitted, and which message it refused."""
        arrived, self._arrived[process.name] = self._arrived[process.name], []
        for output in outputs:
            for event in output.events:
                self.trace.note(process.name, event)
                self._note(process.name, event, arrived)
            for executed in output.executed:
                digests = self.executed[process.name]
                digest = digest_of(executed.signed.payload).hex()[:8]
                digests[executed.sequence] = digests.get(executed.sequence, "") + digest
                operation = decode_operation(executed.request.operation)
                if isinstance(operation, Append):
                    self.appended[process.name].append(operation.text)
            for item in output.evidence:
                self.evidence[process.name].add(self.names[item.replica])

    def _note(self, name: str, event: Event, arrived: list[Transit]) -> None:
        details = event.details
        if event.name == "refused":
            for transit in arrived:
                if transit.envelope.signed.signer == details.get("signer") and not transit.refused:
                    transit.refused = str(details.get("reason"))
                    break
        self.log.append(LogEntry(self.scheduler.now, name, event.name, details))

    def on_saved(self, process: Process) -> None:
        """Disks have no faults here."""

    def on_boot(self, process: Process, restored: Output) -> None:
        """Said by `start`."""

    def on_loss(self, process: Process) -> None:
        """Disks have no faults here."""

    def on_standing_by(self, process: Process, builds: list[OpenBuild]) -> None:
        """Nothing to see."""

    def on_ledger(self, process: Process, entries: tuple[Entry, ...]) -> None:
        """No ledger is fetched here."""

    def on_crash(self, process: Process) -> None:
        """Nothing crashes but by `kill`."""

    def on_failure(self, process: Process, doing: str, error: Exception) -> None:
        """A fault of the core ends the scenario loudly."""
        raise error

    # --- the observer of the client -------------------------------------------------------------

    def on_asked(self, asked: Asked) -> None:
        """The picture shows the message itself."""

    def on_answer(self, asked: Asked, answer: Accepted) -> None:
        """The client believes: f+1 replicas gave this answer."""
        self.answers.append(f"{asked.timestamp}: {answer.kind}")
        self.log.append(
            LogEntry(self.scheduler.now, CLIENT, "accepted", {"timestamp": asked.timestamp})
        )

    def on_waiting(self, build: bytes) -> None:
        """No build needs approval here."""
