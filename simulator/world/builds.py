"""What builds come to in a simulated world: the truth, known beforehand by build and replica."""

import hashlib

import msgspec

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.assignments import Key
from ci.case_reports import with_cases
from ci.case_results import CaseOutcome
from ci.operations import (
    TESTED_OUTCOMES,
    Abstain,
    Agreement,
    Artifact,
    Ballot,
    BuildMetadata,
    BuildResult,
    Outcome,
    ResultKey,
)
from simulator.world.seeded_random import SeededRandom, stream


class BuildFaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """flaky: share of builds that come out differently here and there; abstentions: share of
    ballots of a replica in trouble; seconds_max: the longest build; weak: share of pipelines that
    ask for weak agreement; artifacts: of those that name artifacts; unreproducible: share of
    artifacts that differ from one container to the next; tests: share of pipelines that name test
    reports; flaky_cases: share of test cases that end differently here and there; locked: share of
    pipelines that name lock files; tampered: share of those of which all mirrors send other bytes,
    and of the other ones' mirrors that do so alone."""

    flaky: float = 0.0
    weak: float = 0.0
    artifacts: float = 0.0
    unreproducible: float = 0.0
    abstentions: float = 0.0
    seconds_max: float = 5.0
    tests: float = 0.0
    flaky_cases: float = 0.0
    locked: float = 0.0
    tampered: float = 0.0


# The first has no room in a ballot, and only its first cases may not pass.
CASE_COUNTS = (200, 5, 2)
CASES_VARIED = 5


class BuildTruth:
    """The container of every replica. One replica that builds again may find something else."""

    def __init__(self, seed: int, faults: BuildFaults) -> None:
        self._seed = seed
        self._faults = faults
        # (build, opening) -> replica -> all that its container really showed
        self.observed: dict[tuple[bytes, int], dict[str, list[Ballot]]] = {}

    def duration_seconds(self, build: bytes, replica: str, attempt: int) -> float:
        """How long that build takes there."""
        chance = stream(self._seed, f"duration {build.hex()} {replica} {attempt}")
        return 0.1 + chance.random() * self._faults.seconds_max

    def run(self, key: Key, commit: str | None, *, replica: str, attempt: int) -> Ballot:
        """What the replica's container shows. attempt: which start of its process this is."""
        build = key[0]
        own = stream(self._seed, f"build {build.hex()} {replica} {attempt}")
        if own.happens(self._faults.abstentions):
            ballot: Ballot = Abstain("docker is down")
        else:
            shared = stream(self._seed, f"build {build.hex()}")
            is_flaky = shared.happens(self._faults.flaky)
            chance = own if is_flaky else shared
            exit_code = chance.choice((0, 0, 0, 1, 2, None))
            agreement, artifacts = self._pipeline(build, own)
            is_sent_others = self._is_sent_others(build, replica, attempt)
            if is_sent_others is not None:
                artifacts = (*artifacts, artifact(BILL_OF_MATERIALS, 0))
            if is_sent_others and commit is not None:
                ballot = without_inputs(commit, replica=replica, agreement=agreement)
            else:
                ballot = finding(
                    commit, exit_code, replica=replica, agreement=agreement, artifacts=artifacts
                )
                ballot = self._with_cases(ballot, build, replica=replica, attempt=attempt)
        seen = self.observed.setdefault(key, {}).setdefault(replica, [])
        seen.append(ballot)
        return ballot

    def agreement(self, build: bytes) -> Agreement:
        """What the build's pipeline file asks for, as every checkout shows it."""
        return self._pipeline(build, stream(self._seed, "a look at the file"))[0]

    def _is_sent_others(self, build: bytes, replica: str, attempt: int) -> bool | None:
        """Whether the replica's mirror sends other bytes than the lock files name; None: the
        pipeline names none. Drawn apart, as test cases are."""
        file = stream(self._seed, f"inputs {build.hex()}")
        if not file.happens(self._faults.locked):
            return None
        own = stream(self._seed, f"inputs {build.hex()} {replica} {attempt}")
        return file.happens(self._faults.tampered) or own.happens(self._faults.tampered)

    def _with_cases(
        self, found: BuildResult, build: bytes, *, replica: str, attempt: int
    ) -> BuildResult:
        """The finding with its test cases, if the pipeline names reports and was run.

        Drawn apart: a run without reports is what its seed always was.
        """
        file = stream(self._seed, f"test cases {build.hex()}")
        if not file.happens(self._faults.tests) or found.compared.outcome not in TESTED_OUTCOMES:
            return found
        own = stream(self._seed, f"test cases {build.hex()} {replica} {attempt}")
        count = file.choice(CASE_COUNTS)
        cases = {
            f"suite::{number:03}".ljust(64, "x"): CaseOutcome.PASSED for number in range(count)
        }
        for case in list(cases)[:CASES_VARIED]:
            chance = own if file.happens(self._faults.flaky_cases) else file
            cases[case] = chance.choice((CaseOutcome.PASSED, *CaseOutcome))
        # the file's quarantine, equal for all: every other one of these cases
        warned = {case for case in list(cases)[::2] if cases[case] is CaseOutcome.WARNED}
        return with_cases(found, cases, quarantined=warned)

    def _pipeline(self, build: bytes, own: SeededRandom) -> tuple[Agreement, tuple[Artifact, ...]]:
        """What the build's pipeline file asks for, and what one container makes of it."""
        faults = self._faults
        file = stream(self._seed, f"pipeline {build.hex()}")
        agreement = Agreement.WEAK if file.happens(faults.weak) else Agreement.DEFAULT
        if not file.happens(faults.artifacts):
            return agreement, ()
        differs = [file.happens(faults.unreproducible) for _ in range(file.randint(1, 3))]
        contents = [own.randint(1, 3) if different else 0 for different in differs]
        return agreement, tuple(
            artifact(f"dist/{place}", content) for place, content in enumerate(contents)
        )


def artifact(path: str, content: int) -> Artifact:
    """A file of one byte."""
    return Artifact(path, hashlib.sha256(bytes([content])).hexdigest(), 1)


def without_inputs(commit: str, *, replica: str, agreement: Agreement) -> BuildResult:
    """A finding that what the lock files name is not to be had."""
    found = finding(commit, None, replica=replica, agreement=agreement)
    outcome = Outcome.DEPENDENCIES_UNAVAILABLE
    compared = msgspec.structs.replace(found.compared, outcome=outcome)
    return msgspec.structs.replace(found, compared=compared)


def finding(
    commit: str | None,
    exit_code: int | None,
    *,
    replica: str,
    agreement: Agreement = Agreement.DEFAULT,
    artifacts: tuple[Artifact, ...] = (),
) -> BuildResult:
    """A finding with this exit code; None: the build timed out, or there was no commit.

    Where there was one, the pipeline's agreement; and the artifacts of a build that passed.
    """
    outcome = Outcome.PASSED if exit_code == 0 else Outcome.FAILED
    if commit is None:
        outcome, exit_code = Outcome.CHECKOUT_FAILED, 128
    elif exit_code is None:
        outcome = Outcome.TIMED_OUT
    log = hashlib.sha256(f"log of {replica}".encode()).hexdigest()
    pipeline = hashlib.sha256(b"pipeline").hexdigest() if commit else None
    if commit is None:
        agreement = Agreement.DEFAULT
    made = artifacts if outcome is Outcome.PASSED else ()
    return BuildResult(
        ResultKey(outcome, exit_code, commit, pipeline, None, agreement, made),
        BuildMetadata(log, 10, None, 1, 2, "simulated"),
    )
