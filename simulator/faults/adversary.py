"""The lying replicas: real cores whose messages are changed, and an adversary who sees all.

They collude, and hold the keys of the faulty replicas only. Each has some of the BEHAVIOURS of
this module; with the adaptive adversary, forgeries are made for what each correct replica is
waiting for at that moment (`forgeries`).
"""

from collections.abc import Callable

import msgspec

from ci.builds import OpenBuild
from ci.case_reports import case_report
from ci.case_results import CaseOutcome
from ci.ledger import next_head
from ci.ledger_gap import LedgerPage
from ci.operations import (
    Abstain,
    Agreement,
    Ballot,
    BuildResult,
    CaseReport,
    NamedCase,
    ReportDeadline,
    ResultWithTests,
)
from pbft.codec import MalformedMessage, decode_message
from pbft.messages import (
    AnyMessage,
    Commit,
    Envelope,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Request,
    ViewChange,
)
from pbft.ports import Entry, Send
from simulator.faults.floods import FLOODS, Flooder, Targets
from simulator.faults.rushing import RushingForger
from simulator.machine.builder import Reaction
from simulator.machine.process import Process
from simulator.world.builds import artifact, finding, without_inputs
from simulator.world.network import Network
from simulator.world.scheduler import SECOND
from simulator.world.seeded_random import SeededRandom, stream
from simulator.world.world import World

BEHAVIOURS = (
    "omit",
    "victim",
    "mute",
    "delay",
    "equivocate",
    "wrong digest",
    "wrong view",
    "wrong sequence",
    "replay",
    "false content",
    "false view",
    "false ballot",
    "twin",
    "amnesia",
    "byzzfuzz",
    "censor",
)
# Those that came later are drawn apart, so that older seeds stay what they were.
MORE_BEHAVIOURS = (*FLOODS, "twin")
# What an executor can do to a build that waits for it, where not all build. A liar does so only
# to the builds that it was drawn for: it is the adversary who has corrupted just those.
BALLOT_BEHAVIOURS = (
    "lying executor",
    "silent executor",
    "late executor",
    "abstaining executor",
    "reporting executor",
)
# What a liar says of test cases, beside a finding that may be true.
FALSE_REPORT = "false report"
# It claims that its mirror sent other bytes than a lock file names.
FALSE_INPUTS = "false inputs"
REMEMBERED_MAX = 256
ROUNDS = 8


class Liar:
    """One faulty replica: its behaviours, and what it has seen."""

    def __init__(
        self, name: str, ways: tuple[str, ...], chance: SeededRandom, *, timeout: float
    ) -> None:
        self.name = name
        self.ways = dict.fromkeys(ways)
        self.chance = chance
        self.intensity = 0.05 + 0.4 * chance.random()
        self.victim = ""
        self.seen: list[Envelope] = []
        self.delay_seconds = (0.5 + 0.45 * chance.random()) * timeout
        # ByzzFuzz: in which rounds it misbehaves, and how; a round is (view, sequence, phase).
        self.rounds: dict[tuple[int, int, str], int] = {}
        self.fuzzed = {
            chance.randrange(ROUNDS): chance.choice(("digest", "view", "sequence", "old", "omit"))
            for _ in range(chance.randrange(3))
        }


class Adversary:
    """All liars of one run. ways: what each of them does, by its name."""

    def __init__(
        self,
        world: World,
        ways: dict[str, tuple[str, ...]],
        forger: RushingForger,
        *,
        network: Network,
        targets: Targets,
    ) -> None:
        self._record = world.record
        self._scheduler = world.scheduler
        self._trace = world.trace
        self._network = network
        self._forger = forger
        self._targets = targets.replicas
        self._process = targets.process
        self._chance = stream(world.seed, "adversary")
        self.counts: dict[str, int] = {}
        timeout = world.settings.view_change_seconds
        self.liars = {
            name: Liar(name, chosen, stream(world.seed, f"liar {name}"), timeout=timeout)
            for name, chosen in ways.items()
        }
        for liar in self.liars.values():
            liar.victim = self._chance.choice(self._targets)
        self._censored = self._chance.choice(targets.clients)
        # Twins: name -> the second instance, and which peers it is for at present.
        self.twins: dict[str, Process] = {}
        self._sides: dict[str, dict[str, None]] = {}
        self._is_healed = False
        self._late: dict[tuple[str, bytes, int], None] = {}
        self._floods = Flooder(world, forger, targets, network=network, injects=self._injects)

    # --- life -----------------------------------------------------------------------------------

    def start(self, is_adaptive: bool, make_twin: Callable[[str], Process]) -> None:
        """Begin."""
        for liar in self.liars.values():
            self._floods.start(liar.name, tuple(liar.ways))
            if "twin" in liar.ways:
                self.twins[liar.name] = make_twin(liar.name)
                self._divide(liar.name)
                self.twins[liar.name].boot()
            if "amnesia" in liar.ways:
                self._scheduler.after(2 + 6 * liar.chance.random(), self._forget, liar)
        if is_adaptive and self.liars:
            self._tick()

    def heal(self) -> None:
        """The network is whole from now on; the liars go on, but do not fill it."""
        self._is_healed = True
        self._floods.heal()

    def _divide(self, name: str) -> None:
        """Which peers the second instance talks with, for some time."""
        self._sides[name] = dict.fromkeys(self._chance.some(self._targets, 0.5))
        self._scheduler.after(1 + 4 * self._chance.random(), self._divide, name)

    def instances(self, receiver: str, sender: str) -> tuple[Process, ...]:
        """Which instance of a replica hears this sender."""
        main = self._process(receiver)
        twin = self.twins.get(receiver)
        if twin is None:
            return (main,)
        if sender in self._targets:
            return (twin,) if sender in self._sides[receiver] else (main,)
        return (main, twin)

    def _forget(self, liar: Liar) -> None:
        if self._injects("amnesia"):
            self._trace.event(f"{liar.name} forgets everything")
            process = self._process(liar.name)
            process.wipe()
            process.boot()
        if not self._is_healed:
            self._scheduler.after(2 + 6 * liar.chance.random(), self._forget, liar)

    def reaction(self, name: str) -> Callable[[Ballot, OpenBuild], Reaction]:
        """How that replica reacts to what its container showed."""

        def react(found: Ballot, build: OpenBuild) -> Reaction:
            liar = self.liars.get(name)
            if liar is None:
                return found
            if name in build.executors:
                for way in BALLOT_BEHAVIOURS:
                    if way in liar.ways and self._injects(way):
                        return self._react_as_executor(liar, way, found, build=build)
            if FALSE_INPUTS in liar.ways and isinstance(found, BuildResult):
                compared = found.compared
                if compared.commit is not None and self._injects(FALSE_INPUTS):
                    return without_inputs(
                        compared.commit, replica=name, agreement=compared.agreement
                    )
            if "false ballot" not in liar.ways:
                return self._with_false_report(liar, found)
            if isinstance(found, Abstain) or not self._injects("false ballot"):
                return self._with_false_report(liar, found)
            return _false_finding(liar, found)

        return react

    def _with_false_report(self, liar: Liar, found: Ballot) -> Ballot:
        """Other test cases than it saw, if it saw some."""
        if FALSE_REPORT not in liar.ways or not isinstance(found, ResultWithTests):
            return found
        if not self._injects(FALSE_REPORT):
            return found
        report = _false_report(liar, found.tests)
        return ResultWithTests(found.compared, found.evidence, report)

    def _react_as_executor(
        self, liar: Liar, way: str, found: Ballot, *, build: OpenBuild
    ) -> Reaction:
        match way:
            case "silent executor":
                return None
            case "reporting executor":
                # the deadline, at once, and never a ballot
                return ReportDeadline(build.id, build.opened)
            case "abstaining executor":
                return Abstain("it does not want to")
            case "late executor":
                key = (liar.name, build.id, build.opened)
                if key in self._late:
                    return found
                self._late[key] = None
                return 10 * liar.chance.random()
        return found if isinstance(found, Abstain) else _false_finding(liar, found)

    # --- what the real core of a liar wants to say ----------------------------------------------

    def send(self, process: Process, send: Send) -> None:
        """Bend what leaves a liar."""
        liar = self.liars[process.name]
        twin = self.twins.get(liar.name)
        names = self._receivers(liar.name, send)
        if twin is not None:
            side = self._sides[liar.name]
            if process is twin:
                names = [name for name in names if name in side]
            else:
                names = [name for name in names if name not in side]
        envelope = send.envelope
        if envelope.signed.signer != liar.name:
            for name in names:
                self._network.send(liar.name, name, envelope)
            return
        message = decode_message(envelope.signed.payload)
        self._remember(liar, envelope)
        can_split = isinstance(message, PrePrepare) and len(names) > 1
        is_split = can_split and "equivocate" in liar.ways and liar.chance.happens(0.7)
        if is_split and self._injects("equivocate"):
            assert isinstance(message, PrePrepare)
            self._equivocate(liar, message, envelope, receivers=names)
            return
        for name in names:
            self._send_bent(liar, name, message, envelope=envelope)

    def hear(self, name: str, envelope: Envelope) -> bool:
        """Something comes to a liar; whether its core gets to see it."""
        try:
            message = decode_message(envelope.signed.payload)
        except MalformedMessage:
            return True
        if isinstance(message, PrePrepare | Prepare):
            self._forger.hear(message, envelope.signed)
        elif isinstance(message, FetchState) and "false content" in self.liars[name].ways:
            self._serve_falsely(name, message)
        elif "censor" in self.liars[name].ways and self._is_censored(message):
            return not self._injects("censored")
        return True

    def _serve_falsely(self, name: str, message: FetchState) -> None:
        """Whoever fetches a state gets false parts of it, before and after the right ones."""
        if message.replica >= self._forger.count:
            return  # of an epoch before, in which there were more
        replica = self._process(name).replica
        parts = message.names or tuple(
            replica.core.checkpoints.stable_parts if replica is not None else ()
        )
        receiver = self._forger.name(message.replica)
        for envelope in self._forger.false_state(name, message.sequence, parts):
            for delay in (0.0, 0.02, 0.1, 0.4):
                if self._injects("false state"):
                    self._scheduler.after(delay, self._network.send, name, receiver, envelope)

    def page(self, name: str, page: LedgerPage) -> LedgerPage:
        """Ledger entries that a replica gives to one that lacks them; a liar bends them."""
        liar = self.liars.get(name)
        entries = page.entries
        if liar is None or "false content" not in liar.ways or not entries:
            return page
        if not self._injects("false ledger"):
            return page
        kind = liar.chance.randrange(5)
        if kind == 0:
            return LedgerPage(page.before, ())
        if kind == 1:
            return LedgerPage(page.before, entries[1:])
        if kind == 2:
            return LedgerPage(bytes(32), entries)
        # No chain any more, or one of another ledger.
        bent, head = [], page.before
        for entry in entries:
            body = entry.body + b" "
            head = entry.head if kind == 3 else next_head(head, entry.index, body)
            bent.append(Entry(entry.index, body, head))
        return LedgerPage(page.before, tuple(bent))

    def _is_censored(self, message: AnyMessage) -> bool:
        """It serves all others, but never these: one client, and whoever wants to recover."""
        if isinstance(message, Request):
            return message.client == self._censored
        return isinstance(message, Recover)

    def _receivers(self, name: str, send: Send) -> list[str]:
        if send.to is not None:
            return [send.to]
        others = [*self._targets, *self.liars]
        return [other for other in others if other != name]

    def _remember(self, liar: Liar, envelope: Envelope) -> None:
        if len(liar.seen) < REMEMBERED_MAX:
            liar.seen.append(envelope)
        else:
            liar.seen[liar.chance.randrange(REMEMBERED_MAX)] = envelope

    def _send_bent(
        self, liar: Liar, receiver: str, message: AnyMessage, *, envelope: Envelope
    ) -> None:
        chance, ways, intensity = liar.chance, liar.ways, liar.intensity
        if isinstance(message, Request):
            self._network.send(liar.name, receiver, envelope)
            return
        if "mute" in ways and isinstance(message, PrePrepare) and self._injects("mute"):
            return
        if "victim" in ways and receiver == liar.victim and self._injects("victim"):
            return
        if "omit" in ways and chance.happens(intensity) and self._injects("omit"):
            return
        for way, kind in (
            ("wrong digest", "digest"),
            ("wrong view", "view"),
            ("wrong sequence", "sequence"),
        ):
            if way in ways and chance.happens(intensity / 2) and self._injects(way):
                envelope = self._forger.mutate(liar.name, envelope, kind)
        is_false = "false content" in ways and chance.happens(intensity)
        if is_false and self._injects("false content"):
            envelope = self._forger.false_content(liar.name, envelope)
        is_about_view = isinstance(message, ViewChange | NewView)
        if "false view" in ways and is_about_view and self._injects("false view"):
            envelope = self._forger.false_view(liar.name, envelope)
        if "byzzfuzz" in ways:
            fuzzed = self._fuzz(liar, message, envelope)
            if fuzzed is None:
                return
            envelope = fuzzed
        if "delay" in ways and isinstance(message, PrePrepare) and self._injects("delay"):
            self._scheduler.after(
                liar.delay_seconds, self._network.send, liar.name, receiver, envelope
            )
            return
        self._network.send(liar.name, receiver, envelope)
        if "replay" in ways and chance.happens(intensity / 2) and self._injects("replay"):
            self._network.send(liar.name, receiver, chance.choice(liar.seen))

    def _fuzz(self, liar: Liar, message: AnyMessage, envelope: Envelope) -> Envelope | None:
        """ByzzFuzz: small changes in a few of the first rounds, towards some receivers."""
        if not isinstance(message, PrePrepare | Prepare | Commit):
            return envelope
        key = (message.view, message.sequence, type(message).__name__)
        number = liar.rounds.setdefault(key, len(liar.rounds))
        kind = liar.fuzzed.get(number)
        if kind is None or liar.chance.random() < 0.5 or not self._injects(f"byzzfuzz {kind}"):
            return envelope
        if kind == "omit":
            return None
        if kind == "old":
            return liar.chance.choice(liar.seen)
        return self._forger.mutate(liar.name, envelope, kind)

    def _equivocate(
        self, liar: Liar, message: PrePrepare, envelope: Envelope, *, receivers: list[str]
    ) -> None:
        """One batch to some, another to the others, and the colluders' votes for both."""
        other, body = self._forger.other_batch(liar.name, message, envelope.body)
        second = self._forger.say(liar.name, other, body)
        self.hear(liar.name, envelope)
        self.hear(liar.name, second)
        half = dict.fromkeys(liar.chance.some(receivers, 0.5))
        for receiver in receivers:
            is_second = receiver in half
            self._network.send(liar.name, receiver, second if is_second else envelope)
            said = other if is_second else message
            for name in self.liars:
                index = self._forger.index(name)
                votes: list[AnyMessage] = [
                    Commit(said.view, said.sequence, said.digest, index),
                ]
                if name != liar.name:
                    votes.insert(0, Prepare(said.view, said.sequence, said.digest, index))
                for vote in votes:
                    self._network.send(name, receiver, self._forger.say(name, vote))

    # --- the adaptive adversary -----------------------------------------------------------------

    def _tick(self) -> None:
        """Look at a correct replica, and send it what could hurt it most."""
        chance = self._chance
        target = chance.choice(self._targets)
        troubled = [name for name in self._targets if self._is_troubled(name)]
        if troubled and chance.random() < 0.5:
            target = chance.choice(troubled)
        replica = self._process(target).replica
        if replica is not None:
            sender = chance.choice(list(self.liars))
            lies = self._forger.targeted(replica.core)
            if lies and self._injects("targeted forgeries"):
                for envelope in lies:
                    self._network.send(sender, target, envelope)
        interval = 1.0 if self._is_healed else 0.02 + 0.1 * chance.random()
        self._scheduler.at(self._scheduler.now + int(interval * SECOND), self._tick)

    def _is_troubled(self, name: str) -> bool:
        replica = self._process(name).replica
        if replica is None:
            return False
        core = replica.core
        return core.status.value != "normal" or core.views.min_s > core.low

    def _injects(self, kind: str) -> bool:
        if not self._record.allows(kind):
            return False
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return True


def _false_finding(liar: Liar, found: BuildResult) -> BuildResult:
    compared = found.compared
    lie = liar.chance.choice(("outcome", "outcome", "agreement", "artifact"))
    if lie == "outcome" or compared.exit_code != 0:
        exit_code = 1 if compared.exit_code == 0 else 0
        return finding(compared.commit, exit_code, replica=liar.name)
    if lie == "agreement":
        artifacts = compared.artifacts
        return finding(
            compared.commit, 0, replica=liar.name, agreement=Agreement.WEAK, artifacts=artifacts
        )
    artifacts = (artifact("dist/0", 9),)
    return finding(
        compared.commit, 0, replica=liar.name, agreement=compared.agreement, artifacts=artifacts
    )


def _false_report(liar: Liar, found: CaseReport) -> CaseReport:
    """A report of other cases; or the true digests, with names or lines that are not theirs."""
    nowhere = NamedCase("nowhere", CaseOutcome.FAILED)
    lie = liar.chance.choice(("cases", "names", "names", "lines"))
    if lie == "names" and not found.lines and found.failed:
        named = (nowhere, *found.not_passed[1:])
        return msgspec.structs.replace(found, not_passed=named)
    if lie == "names" and not found.lines:
        named = (nowhere, *found.not_passed)
        return msgspec.structs.replace(found, passed=found.passed - 1, failed=1, not_passed=named)
    if lie == "lines" and found.lines:
        return msgspec.structs.replace(found, lines="nowhere\tfailed\n")
    outcome = liar.chance.choice(tuple(CaseOutcome))
    return case_report({"nowhere": outcome, "suite::000".ljust(64, "x"): CaseOutcome.FAILED})
