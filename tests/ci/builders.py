"""Clusters with real keys, ballots and a driver of the application, for the tests of ci."""

import hashlib
from collections.abc import Mapping

import msgspec
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from ci.application import BuildApplication
from ci.case_reports import with_cases
from ci.case_results import CaseOutcome
from ci.ledger import LateBallotEntry, VerdictEntry, decode_entry
from ci.limits import Limits, encode_limits
from ci.operations import (
    CACHES_MAX,
    IMAGES_MAX,
    Abstain,
    Agreement,
    ApproveBuild,
    Artifact,
    Ballot,
    BuildMetadata,
    BuildResult,
    CancelBuild,
    CastBallot,
    ImageDigest,
    Operation,
    Outcome,
    ReportDeadline,
    ResultKey,
    ResultWithTests,
    Step,
    SubmitBuild,
    UsedCache,
    encode_operation,
)
from pbft.genesis import Cluster, Genesis, Member, vacant_key
from pbft.messages import Request
from pbft.ports import Applied, Entry

COMMIT = "c" * 40
GATEWAY = "gateway"
OTHER_GATEWAY = "gateway-2"
OPERATOR = "operator"
PIPELINE_SHA256 = "ab" * 32


def signing_key(name: str) -> SigningKey:
    """The private key of a member: made from its name."""
    return SigningKey(hashlib.sha256(name.encode()).digest())


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """pbft.ports.Verify."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, CryptoError, ValueError, TypeError):
        return False
    return True


def member(name: str, *roles: str) -> Member:
    """A member with its real public key."""
    return Member(name, bytes(signing_key(name).verify_key), roles)


def cluster_of(
    replicas: int = 4,
    limits: Limits | None = None,
    prefix: str = "replica",
    gateway_roles: tuple[str, ...] = ("gateway",),
    checkpoint_interval: int = 128,
    protocol: int = 1,
    vacant: tuple[str, ...] = (),
) -> Cluster:
    """A cluster of that many replicas, two gateways and an operator.

    vacant: the replicas of which nobody has the key.
    """
    seats = tuple(member(f"{prefix}-{index}", "replica") for index in range(replicas))
    return Cluster(
        Genesis(
            protocol=protocol,
            replicas=tuple(
                Member(seat.name, vacant_key(seat.name), seat.roles)
                if seat.name in vacant
                else seat
                for seat in seats
            ),
            clients=(
                member(GATEWAY, *gateway_roles),
                member(OTHER_GATEWAY, "gateway"),
                member(OPERATOR, "operator"),
            ),
            checkpoint_interval=checkpoint_interval,
            window=2 * checkpoint_interval,
            client_window=256,
            application=encode_limits(limits or Limits()),
        )
    )


def finding(
    outcome: Outcome = Outcome.PASSED,
    exit_code: int | None = 0,
    *,
    commit: str | None = COMMIT,
    pipeline_sha256: str | None = PIPELINE_SHA256,
    image_digest: str | tuple[ImageDigest, ...] | None = None,
    agreement: Agreement = Agreement.DEFAULT,
    artifacts: tuple[Artifact, ...] = (),
    steps: tuple[Step, ...] = (),
    log: str = "log",
) -> BuildResult:
    """A finding; passed unless told otherwise."""
    return BuildResult(
        ResultKey(
            outcome, exit_code, commit, pipeline_sha256, image_digest, agreement, artifacts, steps
        ),
        BuildMetadata(hashlib.sha256(log.encode()).hexdigest(), len(log), None, 12, 345, "test"),
    )


def with_caches(result: BuildResult, *caches: UsedCache) -> BuildResult:
    """The same result, made with these entries of caches."""
    evidence = msgspec.structs.replace(result.evidence, caches=caches)
    return msgspec.structs.replace(result, evidence=evidence)


PASSED = finding()
FAILED = finding(Outcome.FAILED, 1)
FAILED_2 = finding(Outcome.FAILED, 2)
TIMED_OUT = finding(Outcome.TIMED_OUT, None)
SKIPPED = finding(Outcome.SKIPPED, None, steps=(Step("release", False),))
ABSTAIN = Abstain("no engine")


def reported(found: BuildResult, cases: Mapping[str, str]) -> ResultWithTests:
    """This finding with test cases: their outcomes by id."""
    return with_cases(found, {case: CaseOutcome(outcome) for case, outcome in cases.items()})


def submit_build(identity: int = 0, **changed: object) -> SubmitBuild:
    """An asking for a build; `identity` stands for the row's random identity."""
    asked = SubmitBuild(
        hashlib.sha256(b"%d" % identity).digest(), "https://example.org/r.git", "master", COMMIT
    )
    return msgspec.structs.replace(asked, **changed)


def artifact(path: str, content: bytes = b"") -> Artifact:
    """A file that a build made."""
    return Artifact(path, hashlib.sha256(content).hexdigest(), len(content))


def largest_result(number: int) -> BuildResult:
    """All that a replica may say of a build that passed, but of its test cases."""
    text = "\U0001f99c" * 256
    artifacts = tuple(
        Artifact(f"{index:02}/" + "x" * 252, hashlib.sha256(b"%d" % index).hexdigest(), 2**20)
        for index in range(64)
    )
    steps = tuple(Step(f"{index:02}" + "s" * 62, True) for index in range(64))
    images = tuple(
        ImageDigest(f"{index}" + "i" * 199, f"sha256:{index}" + "0" * 63)
        for index in range(IMAGES_MAX)
    )
    compared = ResultKey(
        Outcome.PASSED, 0, COMMIT, PIPELINE_SHA256, images, Agreement.DEFAULT, artifacts, steps
    )
    caches = tuple(UsedCache(f"{n}" * 64, bytes([n]) * 32) for n in range(CACHES_MAX))
    evidence = BuildMetadata("0" * 64, 2**53, text, 2**53, 2**53, f"{number}" + text[1:], caches)
    return BuildResult(compared, evidence)


class World:
    """One application and what its shell would do: numbers, the ledger, looking statements up."""

    def __init__(self, cluster: Cluster | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.cluster = cluster or cluster_of(4, self.limits)
        self.ledger: list[Entry] = []
        self.sequence = 0
        self.timestamps: dict[str, int] = {}
        self.application = self.new_application()

    def new_application(self) -> BuildApplication:
        """An application in its first state that reads this world's ledger."""
        return BuildApplication(self.cluster, self.limits, self.find_statement, verify=verify)

    def restart(self) -> None:
        """Go on with another application, restored from this one's parts."""
        parts = self.application.parts()
        self.application = self.new_application()
        self.application.restore(parts)
        assert self.application.parts() == parts

    def find_statement(self, build_id: bytes) -> bytes | None:
        """The newest verdict statement of that build, as the shell finds it."""
        for entry in reversed(self.verdict_entries()):
            if entry.build == build_id.hex():
                return bytes(entry.statement)
        return None

    def verdict_entries(self) -> list[VerdictEntry]:
        """All verdicts in the ledger."""
        entries = [decode_entry(entry.body) for entry in self.ledger]
        return [entry for entry in entries if isinstance(entry, VerdictEntry)]

    def late_ballots(self) -> list[LateBallotEntry]:
        """All late ballots in the ledger."""
        entries = [decode_entry(entry.body) for entry in self.ledger]
        return [entry for entry in entries if isinstance(entry, LateBallotEntry)]

    def request(self, client: str, operation: bytes) -> tuple[Request, bytes]:
        """The client's next request and its digest."""
        self.timestamps[client] = self.timestamps.get(client, 0) + 1
        request = Request(client, self.timestamps[client], operation)
        return request, hashlib.sha256(msgspec.msgpack.encode(request)).digest()

    def apply_bytes(self, client: str, operation: bytes) -> Applied:
        """Order and apply these bytes as the client's next operation."""
        request, digest = self.request(client, operation)
        self.sequence += 1
        applied = self.application.apply(request, digest, self.sequence)
        self.ledger.extend(applied.entries)
        assert self.application.ledger_index == len(self.ledger)
        return applied

    def apply(self, client: str, operation: Operation) -> Applied:
        """Order and apply one operation."""
        return self.apply_bytes(client, encode_operation(operation))

    def replica(self, index: int) -> str:
        """The name of a replica."""
        return self.cluster.replica_names[index]

    def submit(self, identity: int = 0, *, client: str = GATEWAY, **changed: object) -> Applied:
        """Ask for a build; `identity` stands for the row's random identity."""
        return self.apply(client, submit_build(identity, **changed))

    def open(self, identity: int = 0, *, client: str = GATEWAY, **changed: object) -> bytes:
        """Ask for a build that is accepted; its id."""
        applied = self.submit(identity, client=client, **changed)
        assert applied.kind == "opened", applied.result
        return applied.result

    def cast(self, build: bytes, index: int, ballot: Ballot) -> Applied:
        """A replica casts a ballot on the open build of that id."""
        opened = self.opened(build)
        return self.apply(self.replica(index), CastBallot(build, opened, ballot))

    def report(self, build: bytes, index: int) -> Applied:
        """A replica reports the deadline of the open build of that id."""
        return self.apply(self.replica(index), ReportDeadline(build, self.opened(build)))

    def cancel(self, build: bytes, client: str) -> Applied:
        """A client cancels a build."""
        return self.apply(client, CancelBuild(build))

    def approve(self, build: bytes, client: str = OPERATOR) -> Applied:
        """A client approves a build."""
        return self.apply(client, ApproveBuild(build))

    def opened(self, build: bytes) -> int:
        """The opening sequence of an open build; 0, which none has, for another."""
        found = self.application.open_builds().get(build)
        return found.opened if found else 0


def reason_of(applied: Applied) -> str:
    """The reason of a refusal, which must have had no effect."""
    assert applied.kind == "refused"
    assert (applied.entries, applied.deferred) == ((), ())
    return applied.result.decode()


def decided_build(world: World, identity: int = 0) -> bytes:
    """A build that two of four found failed."""
    build = world.open(identity)
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    return build
