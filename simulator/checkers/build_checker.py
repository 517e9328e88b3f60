"""The invariants of builds: ballots, verdicts, and what the containers really showed."""

from ci.builds import OpenBuild
from ci.ledger import (
    LateBallotEntry,
    VerdictEntry,
    decode_entry,
    genesis_head,
    recorded_artifacts,
)
from ci.limits import ALL
from ci.operations import (
    Abstain,
    Agreement,
    ApproveBuild,
    Ballot,
    BuildResult,
    CancelBuild,
    CastBallot,
    MalformedOperation,
    Outcome,
    ReportDeadline,
    ResultKey,
    SubmitBuild,
    decode_operation,
)
from ci.statement import VerdictFields, parse_statement, submitted_build_id
from pbft.client import Accepted
from pbft.messages import Request
from pbft.ports import Entry, ExecutedRequest
from simulator.checkers.case_checker import CaseChecker
from simulator.checkers.limits_checker import LimitsChecker
from simulator.machine.process import Process
from simulator.world.gateways import Asked
from simulator.world.world import World

Key = tuple[bytes, int]

# The goals of simulator.world.coverage_goals that stand for verdicts.
OF_OUTCOME = {
    Outcome.PASSED: "a build passes",
    Outcome.FAILED: "a build fails",
    Outcome.CANCELLED: "a build is cancelled",
    Outcome.DISPUTED: "a verdict that no value can reach any more",
    Outcome.DEPENDENCIES_UNAVAILABLE: "a build ends without its dependencies",
}


class BuildChecker:
    """Counts ballots by itself, from the executed requests, and compares.

    correct: the members that follow the rules. limits: which ones a build has.
    """

    def __init__(self, world: World, correct: tuple[str, ...], limits: LimitsChecker) -> None:
        cluster = world.cluster
        self.limits = limits
        self._goals = world.goals
        self._asked: dict[bytes, None] = {}
        self.genesis_head = genesis_head(cluster.lineage)
        self.verdicts: dict[Key, bytes] = {}
        self._lineage = cluster.lineage
        self._quorums = cluster.quorums
        self._replicas = cluster.replica_names
        self._expected = len(cluster.expected_names)
        self._truth = world.truth
        self._correct = dict.fromkeys(correct)
        # Of those, who remembers all that it said.
        self._remembering = dict.fromkeys(correct)
        self._cases = CaseChecker(world, self._correct)
        self._violate = world.violate
        self._ballots: dict[Key, dict[str, Ballot]] = {}
        self._reports: dict[Key, dict[str, None]] = {}
        self._cancelled: dict[bytes, None] = {}
        self._cast: dict[tuple[str, Key], bytes] = {}
        # builds that need approval: is there one?
        self._approved: dict[Key, bool] = {}
        # the one opening of a build that came to a verdict other than by cancelling
        self._final: dict[bytes, int] = {}

    def go_on_from(self, earlier: "BuildChecker") -> None:
        """What was decided in the epoch before stays decided."""
        self._asked = dict(earlier._asked)
        self.verdicts = dict(earlier.verdicts)
        self._final = dict(earlier._final)

    def is_remembering(self, member: str) -> bool:
        """Whether this member follows the rules, and never lost what it said."""
        return member in self._remembering

    def on_loss(self, replica: str) -> None:
        """A replica lost what it said, its ballots too: it may cast others, which do not count."""
        self._remembering.pop(replica, None)

    def on_own_request(self, process: Process, request: Request) -> None:
        """A correct replica sends a request of its own."""
        operation = decode_operation(request.operation)
        if not isinstance(operation, CastBallot):
            return
        key = (process.name, (operation.build, operation.opened))
        said = request.operation + request.timestamp.to_bytes(8, "big")
        if self._cast.setdefault(key, said) != said and self.is_remembering(process.name):
            self._violate("24 one ballot per build", f"{process.name} votes twice")
        seen = self._truth.observed.get(key[1], {}).get(process.name, [])
        if operation.ballot not in seen:
            self._violate("24 one ballot per build", f"{process.name} says what it did not find")

    def on_execution(self, executed: ExecutedRequest) -> None:
        """A request was executed, for the first time in this world."""
        try:
            operation = decode_operation(executed.request.operation)
        except MalformedOperation:
            return
        self.limits.on_execution(executed, operation)
        if executed.applied.kind == "refused":
            return
        if isinstance(operation, CancelBuild):
            self._cancelled[operation.build] = None
        if isinstance(operation, SubmitBuild) and operation.needs_approval:
            # Where this joins a build that is open, no build has this key - or the one that was
            # opened in the same batch, and may have been approved in it since.
            self._approved.setdefault((executed.applied.subject, executed.sequence), False)
        if isinstance(operation, SubmitBuild):
            if executed.applied.subject in self._asked:
                self._goals.hit("a build is asked for by two clients or twice")
            self._asked[executed.applied.subject] = None
        if isinstance(operation, ApproveBuild):
            waiting = [key for key in self._approved if key[0] == operation.build]
            self._approved.update(dict.fromkeys(waiting, True))
        if isinstance(operation, CastBallot | ReportDeadline):
            self._on_word(operation, executed.request.client)  # whose signature was checked

    def _on_word(self, operation: CastBallot | ReportDeadline, replica: str) -> None:
        key = (operation.build, operation.opened)
        if not self._approved.get(key, True):
            self._violate("21 a quorum of ballots", f"{replica} on a build that nobody approved")
        if replica not in self._replicas:
            self._violate("21 a quorum of ballots", f"{replica} is no replica")
        if isinstance(operation, CastBallot):
            ballots = self._ballots.setdefault(key, {})
            if replica in ballots:
                self._violate("24 one ballot per build", f"{replica} counts twice")
            if isinstance(operation.ballot, Abstain):
                self._goals.hit("a replica abstains")
            ballots[replica] = operation.ballot
        elif key not in self.verdicts:
            self._reports.setdefault(key, {})[replica] = None

    def on_standing_by(self, replica: str, builds: list[OpenBuild]) -> None:
        """These builds a correct replica has not begun, by what it knows of them now.

        Also decided ones: they stay open for those ballots, so whoever is late begins as well.
        """
        for build in builds:
            if not build.is_approved or replica in build.ballots:
                continue
            found = [b.compared for b in build.ballots.values() if isinstance(b, BuildResult)]
            has_abstained = len(found) < len(build.ballots)
            if has_abstained or any(value != found[0] for value in found):
                self._violate("36 stand-bys take over", f"{replica} waits for {build.id.hex()}")
            if replica in self._executors_needed(build):
                self._violate("37 executors build", f"{replica} waits with {build.id.hex()}")

    def _executors_needed(self, build: OpenBuild) -> tuple[str, ...]:
        """Those whose ballots a build is there for, before its verdict and after it."""
        if build.is_decided:
            return parse_statement(build.statement).verdict.executors
        is_weak = self._is_weak_allowed(build.opened) and build.commit is not None
        is_weak = is_weak and self._truth.agreement(build.id) is Agreement.WEAK
        return build.executors[: self._quorums.weak if is_weak else len(build.executors)]

    def on_entry(self, entry: Entry) -> None:
        """A ledger entry was written, for the first time in this world.

        Entries are seen after the requests of their turn, so later ballots may be counted too.
        """
        decoded = decode_entry(entry.body)
        if isinstance(decoded, LateBallotEntry):
            key = (bytes.fromhex(decoded.build), decoded.opened)
            if key not in self.verdicts:
                self._violate("23 a verdict is final", "a late ballot before the verdict")
            if decoded.agrees is not None:
                how = "agrees" if decoded.agrees else "dissents"
                self._goals.hit(f"a ballot comes after the verdict and {how}")
        if not isinstance(decoded, VerdictEntry):
            return
        key = (bytes.fromhex(decoded.build), decoded.opened)
        statement = bytes(decoded.statement)
        if key in self.verdicts:
            self._violate("23 a verdict is final", f"{decoded.build} is decided twice")
        self.verdicts[key] = statement
        if self._final.get(key[0], key[1]) != key[1]:
            self._violate("23 a verdict is final", f"{decoded.build} was decided and built again")
        view = parse_statement(statement)
        verdict = view.verdict
        if verdict.outcome is not Outcome.CANCELLED:
            self._final[key[0]] = key[1]
        goal = OF_OUTCOME.get(verdict.outcome)
        if goal is not None:
            self._goals.hit(goal)
        listed = [ballot.replica for ballot in decoded.ballots]
        if verdict.executors and len(listed) < self._quorums.replicas:
            self._goals.hit("a build is decided while others stand by")
        if (verdict.build, verdict.opened) != (decoded.build, decoded.opened):
            self._violate("23 a verdict is final", "the statement is about another build")
        cast = self._ballots.get(key, {})
        if listed != list(cast)[: len(listed)]:
            self._violate("21 a quorum of ballots", f"{listed} where {list(cast)} voted")
        self._check_executors(verdict)
        self._check_quorum(key, verdict, {name: cast[name] for name in listed})
        self._check_backing(key, verdict)
        if verdict.agreeing and verdict.outcome is not Outcome.DEPENDENCIES_UNAVAILABLE:
            self._note_outvoted({name: cast[name] for name in listed})
        self._cases.on_verdict(key, view)

    def _note_outvoted(self, cast: dict[str, Ballot]) -> None:
        """Whose word that inputs are not to be had was not the verdict."""
        for name, ballot in cast.items():
            if not isinstance(ballot, BuildResult):
                continue
            if ballot.compared.outcome is Outcome.DEPENDENCIES_UNAVAILABLE:
                what = "mirror that sent" if name in self._correct else "false claim of"
                self._goals.hit(f"a {what} other bytes is outvoted")

    def _check_executors(self, verdict: VerdictFields) -> None:
        """Never fewer than a verdict takes, each once; none are named where all build."""
        if self.limits.at(verdict.opened).executors == ALL:
            if verdict.executors:
                self._violate("37 executors build", "executors where every replica builds")
            return
        is_weak = self._is_weak_allowed(verdict.opened) and verdict.agreement is Agreement.WEAK
        faults_max = self._quorums.faults_max
        needed = faults_max + 1 if is_weak else self._quorums.replicas - faults_max
        known = [name for name in self._replicas if name in verdict.executors]
        if len(known) != needed or len(verdict.executors) != needed:
            self._violate("37 executors build", f"{verdict.executors} where it takes {needed}")

    def _check_quorum(self, key: Key, verdict: VerdictFields, cast: dict[str, Ballot]) -> None:
        counts: dict[ResultKey, int] = {}
        for ballot in cast.values():
            if isinstance(ballot, BuildResult):
                counts[ballot.compared] = counts.get(ballot.compared, 0) + 1
        if verdict.outcome is Outcome.CANCELLED:
            if key[0] not in self._cancelled:
                self._violate("21 a quorum of ballots", "cancelled by nobody")
            return
        missing = self._expected - len(cast)
        if verdict.outcome is Outcome.DISPUTED:
            reachable = missing >= self._quorums.weak or any(
                count + missing >= self._needed(value, key[1]) for value, count in counts.items()
            )
            reports = len(self._reports.get(key, {}))
            if reachable and reports < self._quorums.strong:
                self._violate("21 a quorum of ballots", "disputed, but a value was in reach")
            return
        agreed = [
            value
            for value, count in counts.items()
            if _is_told(value, verdict) and count >= self._needed(value, key[1])
        ]
        if not agreed:
            self._violate(
                "21 a quorum of ballots", f"{verdict.outcome} with {sorted(counts.values())}"
            )

    def _is_weak_allowed(self, opened: int) -> bool:
        return self.limits.at(opened).weak_agreement_allowed

    def _needed(self, value: ResultKey, opened: int) -> int:
        is_weak = self._is_weak_allowed(opened) and value.agreement is Agreement.WEAK
        if value.outcome is Outcome.PASSED and not is_weak:
            return self._quorums.replicas - self._quorums.faults_max
        return self._quorums.faults_max + 1

    def _check_backing(self, key: Key, verdict: VerdictFields) -> None:
        if verdict.outcome in (Outcome.CANCELLED, Outcome.DISPUTED):
            return
        seen = [
            ballot.compared
            for replica, ballots in self._truth.observed.get(key, {}).items()
            if replica in self._correct
            for ballot in ballots
            if isinstance(ballot, BuildResult)
        ]
        if not any(_is_told(value, verdict) for value in seen):
            self._violate("22 a verdict was observed", f"nobody correct saw {verdict.outcome}")

    def is_of_another_asker(self, executed: ExecutedRequest, answer: Accepted) -> bool:
        """Whether a refused request, asked again once it is forgotten, is told of the build that
        somebody else opened since for the same delivery: that is true, and what it asked for.
        """
        operation = decode_operation(executed.request.operation)
        return (
            isinstance(operation, SubmitBuild)
            and answer.kind == "opened"
            and answer.subject == answer.result
            and answer.subject in self._asked
            and answer.subject
            == submitted_build_id(self._lineage, executed.request.client, operation)
        )

    def on_decided_answer(self, asked: Asked, answer: Accepted) -> None:
        """A correct client believes a verdict."""
        statements = [s for (build, _), s in self.verdicts.items() if build == answer.subject]
        if answer.result not in statements:
            self._violate("19 f+1 equal replies", f"{asked.client}: a verdict nobody reached")


def _is_told(value: ResultKey, verdict: VerdictFields) -> bool:
    """Is this what the verdict says, with all that it says of it?"""
    return (value.outcome, value.exit_code, value.agreement, value.commit) == (
        verdict.outcome,
        verdict.exit_code,
        verdict.agreement,
        verdict.commit,
    ) and recorded_artifacts(value.artifacts) == verdict.artifacts
