"""One run: replicas, clients, network and faults of one seed, first for safety, then healed."""

import collections
import hashlib
import math
from collections.abc import Callable

import msgspec

from ci.builds import OpenBuild
from ci.limits import ALL, Limits, encode_limits
from ci.operations import ApproveBuild, CancelBuild
from driver.ledger_fetcher import PageRequest
from pbft.authentication import is_relayed
from pbft.client import Accepted
from pbft.codec import decode_message
from pbft.core import Settings
from pbft.genesis import Cluster, Genesis, Member, vacant_key
from pbft.messages import Envelope, Status
from pbft.ports import Entry, Output, Send
from simulator.campaigns.coverage import Coverage
from simulator.campaigns.liveness import Liveness
from simulator.campaigns.succession import NAME_PREFIXES, NextEpoch, Succession
from simulator.checkers.build_checker import BuildChecker
from simulator.checkers.checkers import Checkers
from simulator.checkers.limits_checker import LimitsChecker
from simulator.faults.adversary import Adversary
from simulator.faults.equivocating_client import EquivocatingClient
from simulator.faults.floods import Targets
from simulator.faults.nemesis import Nemesis
from simulator.faults.parameters import Parameters, next_parameters
from simulator.faults.rushing import RushingForger
from simulator.faults.thief import Thief
from simulator.faults.version_skew import newer_words
from simulator.machine.ledger import PAGE_ENTRIES
from simulator.machine.process import Process
from simulator.world.builds import BuildTruth
from simulator.world.coverage_goals import CoverageGoals
from simulator.world.fault_record import FaultRecord
from simulator.world.gateways import Asked, Gateway
from simulator.world.network import LinkFaults, Network
from simulator.world.operators import LimitOperators, operator_roles
from simulator.world.reader import Reader, SharedAuthenticator
from simulator.world.run_trace import Trace
from simulator.world.scheduler import SECOND, Scheduler
from simulator.world.seeded_random import stream
from simulator.world.signatures import Oracle, Signatures, SignaturesMaker
from simulator.world.world import World

OPERATOR = "operator"
# Every replica says something to every other one every second.
STEPS_PER_PAIR_MAX = 25_000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to."""

    seed: int
    replicas: int
    events: int
    virtual_seconds: float
    executed: int
    verdicts: int
    views: int
    faults: dict[str, int]
    cells: dict[str, int]
    event_counts: dict[str, int]
    goals: dict[str, int]
    trace: str


class Simulation:
    """The run of these parameters. `tell` gets a readable trace, line by line.

    begins: what the epoch before left, where this run is of a later one.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        tell: Callable[[str], None] | None = None,
        signatures: SignaturesMaker = Oracle,
        keeps_faults: bool = False,
        begins: Succession | None = None,
    ) -> None:
        self.parameters = parameters
        self._begins = begins
        self._tell = tell
        self.record = FaultRecord(parameters.only_faults, is_kept=keeps_faults)
        self.scheduler = Scheduler()
        self.trace = Trace(self.scheduler, tell)
        seed = parameters.seed
        self.names = (
            tuple(f"{NAME_PREFIXES[0]}{index}" for index in range(parameters.replicas))
            if begins is None
            else begins.cluster.replica_names
        )
        gateways = tuple(f"gateway{i}" for i in range(parameters.gateways))
        # somebody has to let begin what waits
        gateways = (*gateways, OPERATOR) if parameters.workload.waiting else gateways
        self.operator_roles = operator_roles(self.names) if parameters.limit_operations else {}
        self.gateway_names = (*gateways, *self.operator_roles)
        self.cheat_names = tuple(f"cheat{i}" for i in range(parameters.cheats))
        self.limits = self._limits()
        if begins is None:
            self.signatures = signatures(seed, self.scheduler)
            self.cluster = Cluster(self.genesis(parameters, self.names, self.signatures))
        else:
            self.signatures = begins.signatures.later(self.scheduler)
            self.cluster = begins.cluster
        self.vacant = tuple(self.names[index] for index in parameters.vacant)
        self._following = NextEpoch(self) if parameters.next_sizes else None
        # Whose disk was damaged where that may not be noticed.
        self.forgetful: dict[str, None] = {}
        # Who follows the rules: those too whose disks are damaged, for they notice.
        # In the order of their numbers; a dict, because every message looks here.
        lying = {self.names[index] for index in (*parameters.byzantine, *parameters.wiped)}
        lawless = lying.union(self.vacant)
        self.correct = dict.fromkeys(name for name in self.names if name not in lawless)
        self.goals = CoverageGoals()
        self.truth = BuildTruth(seed, parameters.builds)
        self.authenticator = SharedAuthenticator(self.cluster, self.signatures.verify)
        self.world = self._world()
        self.limits_checker = LimitsChecker(self.world)
        self.builds = BuildChecker(
            self.world, (*self.correct, *self.gateway_names), self.limits_checker
        )
        if begins is not None:
            self.limits_checker.go_on_from(begins.builds.limits)
            self.builds.go_on_from(begins.builds)
        self.reader = Reader(self.cluster, self.signatures.verify)
        self.checkers = Checkers(self.world, self.reader, self.builds, is_deep=parameters.is_deep)
        self.coverage = Coverage(self.reader.decode)
        self.network = Network(
            seed,
            self.scheduler,
            self.trace,
            faults=parameters.links,
            deliver=self._deliver,
            record=self.record,
        )
        liars = {self.names[index]: ways for index, ways in parameters.byzantine.items()}
        forger = self.forger = RushingForger(
            self.cluster, self.signatures, tuple(liars), chance=stream(seed, "forger")
        )
        targets = Targets(
            replicas=tuple(name for name in self.names if name not in liars),
            clients=self.gateway_names,
            process=self._find_process,
        )
        self.adversary = Adversary(self.world, liars, forger, network=self.network, targets=targets)
        self.processes = {name: self._process(name) for name in self.names}
        self.nemesis = Nemesis(
            self.world,
            parameters.plan,
            self.network,
            processes=self.processes,
            members=(*self.names, *self.gateway_names, *self.cheat_names),
            set_back=self._set_back,
        )
        self.nemesis.keep_away(self.vacant)
        self.gateways = {name: self._gateway(name) for name in self.gateway_names}
        self.cheats = {name: self._equivocating_client(name) for name in self.cheat_names}
        self.newer = {
            name: newer_words(name, self.cluster, self.signatures.signer(name))
            for name in map(self.names.__getitem__, parameters.newer)
        }
        self.thief = Thief(
            self.world,
            () if begins is None else begins.retired_keys,
            () if begins is None else begins.clusters,
            reader=self.reader,
            authenticator=self.authenticator,
            deliver=self._deliver,
        )
        self.event_counts: dict[str, int] = {}
        self.extra_faults: dict[str, int] = {}
        self.ledger_entries_fetched = 0
        self._ledger_chance = stream(seed, "ledger")

    # --- making ---------------------------------------------------------------------------------

    def _limits(self) -> Limits:
        parameters = self.parameters
        limits = Limits(
            deadline_seconds=parameters.deadline_seconds,
            open_builds_max=parameters.open_builds_max,
            open_builds_per_client_max=parameters.open_builds_max,
            closing_builds_max=parameters.closing_builds_max,
            waiting_builds_per_client_max=parameters.open_builds_max,
            weak_agreement_allowed=parameters.weak_agreement_allowed,
        )
        if parameters.executors == ALL:
            return limits
        # Who stands by waits so long for a build without any ballot: not for most of the run.
        longest = math.ceil(parameters.builds.seconds_max)
        return msgspec.structs.replace(
            limits, executors=parameters.executors, build_seconds_max=longest
        )

    def genesis(
        self, parameters: Parameters, names: tuple[str, ...], signatures: Signatures
    ) -> Genesis:
        """With replicas of these names, the clients of this run, and the rules of these
        parameters. signatures: whose keys these are."""
        key = signatures.public_key
        keys = {names[index]: vacant_key(names[index]) for index in parameters.vacant}
        roles = operator_roles(names) if parameters.limit_operations else {}
        others = (name for name in self.gateway_names if name not in self.operator_roles)
        return Genesis(
            parameters.protocol,
            tuple(Member(name, keys.get(name) or key(name), ("replica",)) for name in names),
            tuple(
                Member(name, key(name), roles.get(name) or _roles(name))
                for name in (*others, *roles, *self.cheat_names)
            ),
            parameters.checkpoint_interval,
            parameters.window,
            parameters.client_window,
            encode_limits(self.limits),
        )

    def _operators(self) -> LimitOperators:
        """Operators who change between limits that differ in all that a build may differ in."""
        parameters = self.parameters
        longest = math.ceil(parameters.builds.seconds_max)
        first = msgspec.structs.replace(self.limits, build_seconds_max=longest)
        variants = (
            msgspec.structs.replace(first, executors="minimal", weak_agreement_allowed=True),
            msgspec.structs.replace(first, executors="all", weak_agreement_allowed=False),
            msgspec.structs.replace(first, open_builds_max=2, closing_builds_max=1),
            msgspec.structs.replace(
                first,
                deadline_seconds=min(3, self.limits.deadline_seconds),
                weak_agreement_allowed=not first.weak_agreement_allowed,
            ),
        )
        return LimitOperators(
            self.cluster,
            self.scheduler,
            stream(parameters.seed, "operators"),
            clients={name: self.gateways[name] for name in self.operator_roles},
            look=lambda: self.limits_checker.standing,
            variants=variants,
        )

    def _settings(self) -> Settings:
        known = {field.name for field in msgspec.structs.fields(Settings)}
        base = self.parameters.view_change_seconds
        wanted: dict[str, object] = {
            "pipeline_depth": self.parameters.pipeline_depth,
            "batch_bytes_max": self.parameters.batch_bytes_max,
            "batch_delay_seconds": self.parameters.batch_delay_seconds,
            "status_seconds": self.parameters.status_seconds,
            "view_change_seconds": base,
            "view_change_seconds_max": 8 * base,
        }
        return msgspec.convert({k: v for k, v in wanted.items() if k in known}, Settings)

    def _world(self) -> World:
        return World(
            seed=self.parameters.seed,
            cluster=self.cluster,
            limits=self.limits,
            settings=self._settings(),
            scheduler=self.scheduler,
            trace=self.trace,
            signatures=self.signatures,
            authenticator=self.authenticator,
            truth=self.truth,
            faults=self.parameters.processes,
            record=self.record,
            goals=self.goals,
            stand_by_seconds=self.parameters.stand_by_seconds,
            begin=None if self._begins is None else self._begins.parts,
            begin_entries=() if self._begins is None else self._begins.entries,
            begin_ledgers={} if self._begins is None else self._begins.ledgers,
        )

    def _process(self, name: str) -> Process:
        chance = stream(self.parameters.seed, f"process {name}")
        react = self.adversary.reaction(name)
        return Process(self.world, name, chance, observer=self, links=self, react=react)

    def _find_process(self, name: str) -> Process:
        return self.processes[name]

    def _gateway(self, name: str) -> Gateway:
        return Gateway(
            self.world,
            name,
            stream(self.parameters.seed, f"workload {name}"),
            send=self._send_from_gateway,
            observer=self,
            resend_seconds=1.0,
        )

    def _equivocating_client(self, name: str) -> EquivocatingClient:
        def injects() -> bool:
            return self._injects("double signing")

        return EquivocatingClient(
            self.world,
            name,
            stream(self.parameters.seed, f"cheat {name}"),
            send=self.network.send,
            injects=injects,
            timestamps=2 * self.parameters.workload.requests,
        )

    # --- running --------------------------------------------------------------------------------

    def run(self) -> Result:
        """Safety mode, then liveness mode. Raises Violation."""
        parameters = self.parameters
        self._boot_all()
        for gateway in self.gateways.values():
            if gateway.name != OPERATOR and gateway.name not in self.operator_roles:
                gateway.plan(parameters.workload)
        if parameters.limit_operations:
            self._operators().plan(parameters.limit_operations, parameters.workload.spread_seconds)
        if self._following is not None:
            self._following.plan(parameters.safety_seconds)
        if self._begins is not None:
            self._begin_with(self._begins)
        for cheat in self.cheats.values():
            cheat.start()
        self.nemesis.start(
            [self.names[index] for index in parameters.rotten],
            [self.names[index] for index in parameters.wiped],
            [self.names[index] for index in parameters.away],
        )
        self.adversary.start(parameters.adaptive, self._process)
        self.thief.start()
        self._run_until(int(parameters.safety_seconds * SECOND))
        self._run_healed()
        self.thief.check()
        # the approvals may all have come before the proposal, which then waits for ever
        if self._following is None or self.checkers.end.end is None:
            return self._result()
        return self._with_next(self._following)

    def _boot_all(self) -> None:
        """At once, or in a later epoch as each replica comes to it."""
        begins = stream(self.parameters.seed, "when each replica begins")
        for process in self.processes.values():
            if process.name in self.vacant:
                self.goals.hit("the seat of a replica is vacant")
            elif self.parameters.begin_seconds and begins.happens(0.5):
                seconds = begins.exponential(self.parameters.begin_seconds)
                self.scheduler.after(seconds, self.nemesis.boot_late, process)
            else:
                process.boot()

    def _with_next(self, following: NextEpoch) -> Result:
        """This run and that of the epoch that follows, as one."""
        later = Simulation(
            next_parameters(self.parameters),
            tell=self._tell,
            keeps_faults=self.record.is_kept,
            begins=following.succession(self._begins),
        )
        try:
            ended = later.run()
        finally:
            self.record.injected += later.record.injected
        return _together(self._result(), ended)

    def _begin_with(self, begins: Succession) -> None:
        """Ask again for what was not decided, and have old messages come once more."""
        chance = stream(self.parameters.seed, "what the epoch before left")
        spread = self.parameters.workload.spread_seconds
        for name, operation in begins.unfinished:
            gateway = self.gateways[name]
            last = frozenset({"decided", "refused"})
            self.scheduler.after(chance.random() * spread, gateway.ask, operation, last)
        for sender, envelope in begins.words:
            at = chance.random() * self.parameters.safety_seconds
            receiver = chance.choice(self.names)
            if sender != receiver:
                self.scheduler.after(at, self._deliver_old, sender, receiver, envelope)

    def _deliver_old(self, sender: str, receiver: str, envelope: Envelope) -> None:
        self.goals.hit("a message of the epoch before is refused")
        self._deliver(sender, receiver, envelope)

    def _run_until(self, end: int) -> None:
        scheduler = self.scheduler
        events_max = STEPS_PER_PAIR_MAX * len(self.names) ** 2
        scheduler.run_until(end, events_max)
        if scheduler.events > events_max:
            self.world.violate("34 no storm", f"{scheduler.events} events in {scheduler.seconds} s")

    def _run_healed(self) -> None:
        parameters = self.parameters
        self.network.faults = LinkFaults(
            delay_seconds=parameters.healed_delay_seconds / 2,
            delay_mean_seconds=parameters.healed_delay_seconds / 4,
            on_the_wire=parameters.links.on_the_wire,
        )
        self.nemesis.heal()
        self.adversary.heal()
        left_out = [self.names[index] for index in parameters.left_out]
        self.nemesis.cut_off(left_out, parameters.left_out_one_way)
        others = tuple(
            name for name in self.correct if name not in left_out and name not in self.nemesis.away
        )
        self._converge()
        while self.nemesis.damage_another(others):
            self._converge()

    def _converge(self) -> None:
        liveness = Liveness(self)
        end = self.scheduler.now + int(liveness.bound_seconds * SECOND)
        while not liveness.is_done() and self.scheduler.now < end:
            # while all replicas are down, seconds may pass in which nothing happens
            due = self.scheduler.next_time
            if due is None:
                break
            self._run_until(max(self.scheduler.now + SECOND, due))
        liveness.check()

    def _result(self) -> Result:
        faults = {
            **self.network.counts,
            **self.nemesis.counts,
            **self.adversary.counts,
            **self.extra_faults,
        }
        if self.thief.count:
            faults["stolen key"] = self.thief.count
        if self.ledger_entries_fetched:
            faults["ledger entries fetched"] = self.ledger_entries_fetched
        refused = sum(process.saves_failed for process in self.processes.values())
        if refused:
            faults["saves failed"] = refused
        cores = [p.replica.core for p in self.processes.values() if p.replica is not None]
        return Result(
            seed=self.parameters.seed,
            replicas=self.parameters.replicas,
            events=self.scheduler.events,
            virtual_seconds=self.scheduler.seconds,
            executed=max(self.checkers.history.executed, default=0),
            verdicts=len(self.builds.verdicts),
            views=max((core.view for core in cores), default=0),
            faults=faults,
            cells=self.coverage.cells,
            event_counts=self.event_counts,
            goals=self.goals.counts,
            trace=self.trace.digest,
        )

    # --- what happens ---------------------------------------------------------------------------

    def _deliver(self, sender: str, receiver: str, envelope: Envelope) -> None:
        if is_relayed(sender, envelope.signed):
            return  # as the shells of replicas and clients do
        if self._following is not None:
            self._following.hear(sender, envelope)
        self.thief.hear(envelope)
        process = self.processes.get(receiver)
        if process is None:
            client = self.gateways.get(receiver) or self.cheats[receiver]
            client.arrive(envelope)
        elif receiver in self.adversary.liars:
            if not self.adversary.hear(receiver, envelope):
                return
            for instance in self.adversary.instances(receiver, sender):
                instance.arrive(envelope)
        elif (replica := process.replica) is not None:
            self.coverage.see(replica.core, envelope.signed.payload)
            process.arrive(envelope)

    def _newer_words(self, name: str, send: Send) -> list[Envelope]:
        """With each STATUS, one thing that a replica of the next version says beside it."""
        words = self.newer.get(name)
        if words is None or not isinstance(decode_message(send.envelope.signed.payload), Status):
            return []
        said = self.extra_faults.get("newer version", 0)
        return [words[said % len(words)]] if self._injects("newer version") else []

    def _injects(self, kind: str) -> bool:
        if not self.record.allows(kind):
            return False
        self.extra_faults[kind] = self.extra_faults.get(kind, 0) + 1
        return True

    def _serve_ledger(self, process: Process, request: PageRequest) -> None:
        server, gap = self.processes[request.peer], request.gap
        is_whole = self.network.is_whole(process.name, server.name)
        if server.is_up and not server.is_paused and is_whole:
            page = server.disk.ledger.page_up_to(gap.last, min(PAGE_ENTRIES, gap.missing))
            process.pages.on_page(request, self.adversary.page(server.name, page))

    def _send_from_gateway(self, name: str, send: Send) -> None:
        for other in self.names if send.to is None else (send.to,):
            self.network.send(name, other, send.envelope)

    # --- the links of the processes -------------------------------------------------------------

    def connect(self, process: Process) -> None:
        """A replica has started."""
        self.nemesis.connect(process)

    def send(self, process: Process, send: Send) -> None:
        """A message leaves a replica; a liar's is changed first."""
        name = process.name
        if name in self.correct:
            self.checkers.messages.on_sent(process, send)
        elif name in self.adversary.liars:
            self.adversary.send(process, send)
            return
        if send.to is not None:
            self.network.send(name, send.to, send.envelope)
            return
        newer = self._newer_words(name, send)
        for other in self.names:
            if other != name:
                self.network.send(name, other, send.envelope)
                for envelope in newer:
                    self.network.send(name, other, envelope)

    def fetch_ledger(self, process: Process, request: PageRequest) -> None:
        """An HTTP request to a peer: over the same links, but lost only where one is cut."""
        faults = self.network.faults
        mean = 2 * (faults.delay_seconds + faults.delay_mean_seconds)
        if self.network.is_whole(process.name, request.peer):
            delay = self._ledger_chance.exponential(mean)
            self.scheduler.after(delay, self._serve_ledger, process, request)

    # --- the observer of the processes ----------------------------------------------------------

    def before_turn(self, process: Process, inbox: list[Envelope]) -> None:
        """A replica is about to be fed."""
        if self.parameters.is_deep and len(inbox) == 1 and process.name in self.correct:
            self.checkers.before_turn(process)

    def on_turn(self, process: Process, outputs: list[Output], has_expired: bool) -> None:
        """A replica was fed."""
        counts = self.event_counts
        is_marked = process.name not in self.adversary.liars
        for output in outputs:
            for event in output.events:
                counts[event.name] = counts.get(event.name, 0) + 1
                if event.name == "forgot" and process.name in self.correct:
                    self.world.violate(
                        "26 what was lost is noticed", f"{process.name} lost nothing"
                    )
                if is_marked and process.replica is not None:
                    self.goals.on_event(process.replica.core, event)
                if self.trace.is_read:
                    self.trace.note(process.name, event)
        if process.name in self.correct:
            self.checkers.on_turn(process, outputs, has_expired)
            if self.checkers.end.end is not None:
                self._look_at_end(process, outputs)

    def _look_at_end(self, process: Process, outputs: list[Output]) -> None:
        if not any(output.records for output in outputs):
            return
        if process.replica is not None and not process.replica.core.is_sealed:
            self.nemesis.on_end_near(process)

    def on_boot(self, process: Process, restored: Output) -> None:
        """A replica started."""
        if process.name not in self.adversary.liars and process.replica is not None:
            self.goals.on_boot(process.replica.core)
        if process.name in self.correct:
            self.checkers.on_boot(process, restored)

    def on_saved(self, process: Process) -> None:
        """A turn is on disk."""
        if process.name in self.correct:
            self.checkers.on_saved(process)
            if (
                process.damages
                and process.replica is not None
                and not process.replica.core.is_recovering
            ):
                self.nemesis.on_vote_regained(process.name, tuple(self.correct))

    def _set_back(self, name: str) -> None:
        if name in self.correct:
            del self.correct[name]
            self.forgetful[name] = None
            self.checkers.on_loss(name)

    def on_loss(self, process: Process) -> None:
        """A replica found its disk damaged."""
        if process.name not in self.correct:
            return
        if process.name not in self.nemesis.damaged:
            self.world.violate("26 what was lost is noticed", f"{process.name} lost nothing")
        self.nemesis.on_loss(process.name)
        self.checkers.on_loss(process.name)

    def on_ledger(self, process: Process, entries: tuple[Entry, ...]) -> None:
        """A peer's entries are in a replica's ledger."""
        self.ledger_entries_fetched += len(entries)
        if process.name in self.correct or process.name in self.forgetful:
            self.checkers.executions.on_fetched(process.name, entries)

    def on_standing_by(self, process: Process, builds: list[OpenBuild]) -> None:
        """A replica looked at what it owes."""
        if process.name in self.correct:
            self.builds.on_standing_by(process.name, builds)

    def on_crash(self, process: Process) -> None:
        """A process died at its crash point."""
        self.nemesis.restart_later(process)

    def on_failure(self, process: Process, doing: str, error: Exception) -> None:
        """The core raised something."""
        if process.name in self.adversary.liars:
            process.crash()  # it contradicts itself; only correct replicas must never fall
            self.nemesis.restart_later(process)
            return
        self.checkers.on_failure(process, doing, error)

    # --- the observer of the gateways -----------------------------------------------------------

    def on_asked(self, asked: Asked) -> None:
        """A gateway sends a request for the first time."""
        self.checkers.messages.on_asked(asked)

    def on_answer(self, asked: Asked, answer: Accepted) -> None:
        """A gateway believes an answer."""
        self.checkers.messages.on_answer(asked, answer)

    def on_waiting(self, build: bytes) -> None:
        """A build opened and waits; some time later the operator lets it begin, or not."""
        seconds = stream(self.parameters.seed, f"approval {build.hex()}").random() * 3
        operation = CancelBuild(build) if build[0] % 8 == 0 else ApproveBuild(build)
        last = frozenset({"done", "refused"})
        self.scheduler.after(seconds, self.gateways[OPERATOR].ask, operation, last)


def _roles(name: str) -> tuple[str, ...]:
    return ("operator" if name == OPERATOR else "gateway",)


def _together(first: Result, second: Result) -> Result:
    """The run of two epochs."""

    def added(name: str) -> dict[str, int]:
        counts = collections.Counter(getattr(first, name))
        counts.update(getattr(second, name))
        return dict(counts)

    return Result(
        seed=first.seed,
        replicas=first.replicas,
        events=first.events + second.events,
        virtual_seconds=first.virtual_seconds + second.virtual_seconds,
        executed=second.executed,
        verdicts=first.verdicts + second.verdicts,
        views=max(first.views, second.views),
        faults=added("faults"),
        cells=added("cells"),
        event_counts=added("event_counts"),
        goals=added("goals"),
        trace=hashlib.sha256((first.trace + second.trace).encode()).hexdigest(),
    )
