"""What is proved about a build: the in-toto statement and the DSSE envelope that carries it.

The statement is frozen at the verdict and equal on all replicas: no view, no local time, no
later ballot. Its bytes are JSON in the order of the structs below: one encoding. Each replica
signs them (as DSSE prescribes: PAE), so the f+1 replies that a client accepts make an envelope
that anybody with the replicas' public keys can verify offline.
in-toto Statement v1, predicate test-result v0.1, DSSE v1.0.2.

The rule: a test result is issued of what was tested alone. Where nothing ran to an end that says
anything of the commit (cancelled, disputed, skipped, no checkout, ...) the predicate is one of our
own, so that nobody who reads test results takes it for tests that failed.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ci.artifact_rules import artifacts_sha256
from ci.builds import OpenBuild
from ci.case_agreement import agreed_cases
from ci.ledger import (
    ABSTAINED,
    AnyEntry,
    LateBallotEntry,
    RecordedArtifact,
    RecordedImage,
    RecordedStep,
    VerdictEntry,
    recorded_artifacts,
    recorded_images,
    recorded_steps,
)
from ci.operations import (
    TESTED_OUTCOMES,
    Abstain,
    Agreement,
    Event,
    Outcome,
    ResultKey,
    SubmitBuild,
)
from ci.references import full_ref, target_of
from ci.stated_cases import CaseNames, StatedCases, stated_cases
from ci.verdict import Verdict
from pbft.genesis import Cluster
from pbft.messages import REQUEST_BYTES_MAX
from pbft.ports import Verify

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
# Of all other outcomes: a predicate with `pbftci_verdict` (VerdictFields), and `url`.
OUTCOME_TYPE = "urn:pbft-ci:outcome:v1"

# A statement travels as the result of a reply; its base64 takes a third more, a signature 200.
ENVELOPE_BYTES_MAX = 1024 * 1024
# What test-result v0.1 knows.
TestResult = Literal["PASSED", "WARNED", "FAILED"]
# Each costs at most one check per replica; one with the right keyid costs one.
SIGNATURES_MAX = 256
# A statement must fit into a reply however many replicas there are: beside the agreed artifacts
# it lists so many of all found values, and so much of each reason to abstain.
FOUND_ARTIFACTS_MAX = 256
REASON_BYTES_MAX = 200


class InvalidStatement(ValueError):
    """Bytes that are not a statement of ours; the text says what was wrong."""


class InvalidEnvelope(ValueError):
    """An envelope that proves nothing; the text says why."""


class Subject(msgspec.Struct, frozen=True):
    """What a statement is about. `digest`: algorithm -> hex."""

    name: str
    digest: dict[str, str]


class FoundValue(msgspec.Struct, frozen=True, rename="camel"):
    """One compared value, and the replicas that found it before the verdict."""

    outcome: Outcome
    exit_code: int | None
    commit: str | None
    pipeline_sha256: str | None
    # of the only image
    image_digest: str | None
    agreement: Agreement
    # of the whole list (`ci.artifact_rules`)
    artifacts_sha256: str | None
    # left out (empty) if many values have long ones: see FOUND_ARTIFACTS_MAX
    artifacts: tuple[RecordedArtifact, ...]
    replicas: tuple[str, ...]
    # of its steps in MessagePack; None if it has none
    steps_sha256: str | None = None
    # of a build in several images; left out (and `image_digest` null) if there was one
    images: tuple[RecordedImage, ...] | msgspec.UnsetType = msgspec.UNSET


class Abstention(msgspec.Struct, frozen=True):
    """A replica that abstained before the verdict, and the beginning of its reason."""

    replica: str
    reason: str


class VerdictFields(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Our extension of the predicate."""

    # of the cluster of epoch 0, for ever
    cluster_id: str
    epoch: int
    build: str
    # the sequence number of the request that opened the build
    opened: int
    # repository, branch, commit, ref and event are as requested. A tag's branch is its name
    repository: str
    branch: str
    # None if the branch had none
    commit: str | None
    # a full name; None in statements of older versions if it is refs/heads/<branch>
    ref: str | None
    event: Event
    outcome: Outcome
    exit_code: int | None
    # what the agreed pipeline file asks for; None if nothing is agreed on
    agreement: Agreement | None
    # how many of the `replicas` this outcome took; None for disputed and cancelled
    threshold: int | None
    replicas: int
    # the replicas whose equal ballots decided
    agreeing: tuple[str, ...]
    # what the agreeing replicas made, all alike
    artifacts: tuple[RecordedArtifact, ...]
    # found and abstained: all ballots before the verdict
    found: tuple[FoundValue, ...]
    abstained: tuple[Abstention, ...]
    # the replicas that had cast no ballot by then
    without_ballot: tuple[str, ...]
    # of the verdict's entry in the ledger
    ledger_index: int
    # the ledger's head before that entry (hex)
    previous_head: str
    # who was to build first; left out if every replica was. The others stood by, so it says nothing
    # of them that they are among those without a ballot
    executors: tuple[str, ...] = ()
    # of a pull request and a merge group: the full name of the branch that it is for, which is
    # `branch`; git does not show it
    target: str | None = None
    # of the pipeline file (or the Dockerfile), if the replicas agreed on it
    pipeline_sha256: str | None = None
    # of that file, in their order; none of a Dockerfile, and none if nothing was agreed on
    steps: tuple[RecordedStep, ...] = ()
    # left out if no replica reported test cases, and if nothing was tested
    tests: StatedCases | None = None
    # which schedule was due, as the gateway said that asked; None for all events but cron
    schedule: str | None = None
    # the replicas were asked to build without caches; left out if not
    is_cold: bool = False
    # the id of the cluster of this epoch (hex); left out in epoch 0, whose id is `cluster_id`
    instance: str | None = None

    @property
    def full_ref(self) -> str:
        """The ref that the commit was proved to be on."""
        return full_ref(self.branch, self.ref)


class Predicate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """test-result v0.1; the configuration is the pipeline file. Or our own, without its fields.

    result: WARNED is a build that passed, of whose test cases some are agreed to have warned.
    url: the build's page, where the gateway that asked for the build says it is; no replica did.
    passed_tests, warned_tests, failed_tests: ids of cases that are agreed on; left out if empty.
    """

    result: TestResult | None = None
    configuration: tuple[Subject, ...] = ()
    url: str | None = None
    passed_tests: tuple[str, ...] = msgspec.field(default=(), name="passedTests")
    warned_tests: tuple[str, ...] = msgspec.field(default=(), name="warnedTests")
    failed_tests: tuple[str, ...] = msgspec.field(default=(), name="failedTests")
    verdict: VerdictFields = msgspec.field(name="pbftci_verdict")


class StatementView(msgspec.Struct, frozen=True):
    """A statement, for reading. Fields it does not know are skipped, as in-toto asks."""

    type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Predicate

    @property
    def verdict(self) -> VerdictFields:
        """Our part of the statement."""
        return self.predicate.verdict


class EnvelopeSignature(msgspec.Struct, frozen=True):
    """One signature (base64). `keyid` is an unauthenticated hint."""

    keyid: str = ""
    sig: str = ""


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A DSSE envelope as it is read; nothing in it is verified."""

    payload: str
    payload_type: str
    signatures: tuple[EnvelopeSignature, ...]


class VerifiedEnvelope(msgspec.Struct, frozen=True):
    """A statement, its exact bytes, and the replicas (genesis order) that really signed it."""

    statement: StatementView
    payload: bytes
    replicas: tuple[str, ...]


_statement_decoder = msgspec.json.Decoder(StatementView)
_envelope_decoder = msgspec.json.Decoder(Envelope)


def submitted_build_id(lineage: bytes, client: str, operation: SubmitBuild) -> bytes:
    """The id (32 bytes) of the build that this operation of `client` asks for.

    lineage: of the cluster (32 bytes), so that the id is the same in each epoch.
    With a delivery it is a digest of all that replicas act on and not of who asks: two gateways
    that got it ask for one build, and none can give a delivery's id to another build.
    """
    if operation.delivery is None:
        return build_id_for(lineage, client, operation.identity)
    acted_on = msgspec.msgpack.encode(
        (
            # left out if they say nothing, so that ids are what they were before there were such
            *(() if operation.schedule is None else (operation.schedule,)),
            *((True,) if operation.is_cold else ()),
            operation.delivery,
            operation.repository,
            operation.branch,
            operation.commit,
            operation.event,
            operation.ref,
            operation.needs_approval,
        )
    )
    return hashlib.sha256(b"pbft-ci delivery\0" + lineage + acted_on).digest()


def build_id_for(lineage: bytes, client: str, identity: bytes) -> bytes:
    """The id (32 bytes) of the build without a delivery that `client` asks for under this
    identity (32 bytes)."""
    assert len(lineage) == len(identity) == 32
    return hashlib.sha256(b"pbft-ci build\0" + lineage + identity + client.encode()).digest()


def statement_bytes(
    cluster: Cluster,
    build: OpenBuild,
    verdict: Verdict,
    *,
    ledger_index: int,
    previous_head: bytes,
    executors: tuple[str, ...] = (),
) -> bytes:
    """The statement about this build, decided now, whose entry in the ledger has that index.

    executors: those that this agreement needs; empty: every replica builds.
    """
    compared = verdict.compared
    is_tested = verdict.outcome in TESTED_OUTCOMES
    statement = StatementView(
        type=STATEMENT_TYPE,
        subject=_subjects(build, compared),
        predicate_type=TEST_RESULT_TYPE if is_tested else OUTCOME_TYPE,
        predicate=Predicate(
            result=_test_result(verdict.outcome, None) if is_tested else None,
            configuration=_configuration(compared) if is_tested else (),
            url=None if build.public_url is None else f"{build.public_url}/builds/{build.id.hex()}",
            verdict=VerdictFields(
                cluster_id=cluster.lineage.hex(),
                epoch=cluster.epoch,
                instance=cluster.id.hex() if cluster.epoch else None,
                build=build.id.hex(),
                opened=build.opened,
                repository=build.repository,
                branch=build.branch,
                commit=build.commit,
                ref=full_ref(build.branch, build.ref),
                event=build.event,
                outcome=verdict.outcome,
                exit_code=compared.exit_code if compared else None,
                agreement=compared.agreement if compared else None,
                threshold=verdict.threshold,
                replicas=cluster.quorums.replicas,
                agreeing=verdict.agreeing,
                artifacts=recorded_artifacts(compared.artifacts if compared else ()),
                found=_found_values(build),
                abstained=tuple(
                    Abstention(replica, beginning_of(ballot.reason))
                    for replica, ballot in build.ballots.items()
                    if isinstance(ballot, Abstain)
                ),
                without_ballot=tuple(
                    name for name in cluster.replica_names if name not in build.ballots
                ),
                ledger_index=ledger_index,
                previous_head=previous_head.hex(),
                executors=executors,
                target=target_of(build.event, build.branch),
                pipeline_sha256=compared.pipeline_sha256 if compared else None,
                steps=recorded_steps(compared) if compared else (),
                schedule=build.schedule,
                is_cold=build.is_cold,
            ),
        ),
    )
    if is_tested and compared is not None:
        agreement = agreed_cases(build.ballots.items(), compared, cluster.quorums)
        if agreement is not None:
            statement = _with_cases(statement, stated_cases(agreement))
    return msgspec.json.encode(statement)


def steps_sha256(compared: ResultKey) -> str | None:
    """The SHA-256 (hex) of a finding's steps, as a statement's found values name it."""
    if not compared.steps:
        return None
    return hashlib.sha256(msgspec.msgpack.encode(compared.steps)).hexdigest()


def beginning_of(reason: str) -> str:
    """A reason, short and without what JSON would make six characters of."""
    shown = "".join(c if c >= " " else " " for c in reason)
    return shown.encode()[:REASON_BYTES_MAX].decode(errors="ignore")


def parse_statement(data: bytes) -> StatementView:
    """The statement in these bytes. Raises InvalidStatement.

    Parse only bytes whose signatures are verified, or that f+1 replicas agree on.
    """
    if len(data) > REQUEST_BYTES_MAX:
        raise InvalidStatement(f"{len(data)} bytes; at most {REQUEST_BYTES_MAX}")
    try:
        statement = _statement_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidStatement(str(error)) from error
    if statement.type != STATEMENT_TYPE:
        raise InvalidStatement("not an in-toto v1 statement")
    outcome, result = statement.verdict.outcome, statement.predicate.result
    if statement.predicate_type == TEST_RESULT_TYPE:
        # Older versions issued one of every outcome: then all but passed was FAILED.
        if result != _test_result(outcome, statement.verdict.tests):
            raise InvalidStatement("result and outcome contradict each other")
    elif statement.predicate_type == OUTCOME_TYPE:
        if result is not None or outcome in TESTED_OUTCOMES:
            raise InvalidStatement(f"{outcome} is a test result, and the predicate is of none")
    else:
        raise InvalidStatement("its predicate is neither a test result nor an outcome of ours")
    return statement


def dissenters(entry: AnyEntry) -> frozenset[str]:
    """The replicas that a ledger entry shows to differ from a verdict.

    Where nothing was agreed on (disputed, cancelled) nobody differs; an abstention never does.
    """
    if isinstance(entry, LateBallotEntry):
        return frozenset({entry.ballot.replica} if entry.agrees is False else ())
    if not isinstance(entry, VerdictEntry):
        return frozenset()
    agreeing = parse_statement(bytes(entry.statement)).verdict.agreeing
    if not agreeing:
        return frozenset()
    found = {ballot.replica for ballot in entry.ballots if ballot.outcome != ABSTAINED}
    return frozenset(found - set(agreeing))


def pae(payload: bytes) -> bytes:
    """What is signed for a statement: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def keyid_for(public_key: bytes) -> str:
    """The keyid of an Ed25519 public key (32 bytes), as securesystemslib computes it."""
    described = {
        "keytype": "ed25519",
        "keyval": {"public": public_key.hex()},
        "scheme": "ed25519",
    }
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()


def envelope(
    statement: bytes, signatures: Iterable[tuple[str, bytes]]
) -> dict[str, str | list[dict[str, str]]]:
    """The DSSE envelope of a statement with (keyid, signature) pairs, ready to be made JSON."""
    return {
        "payload": base64.standard_b64encode(statement).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": keyid, "sig": base64.standard_b64encode(signature).decode()}
            for keyid, signature in signatures
        ],
    }


def verify_envelope(
    data: bytes, cluster: Cluster, verify: Verify, *, threshold: int | None = None
) -> VerifiedEnvelope:
    """What this envelope (JSON) proves to somebody who trusts this cluster, in its epoch.

    Accepted are an in-toto payload signed with the keys of at least `threshold` different
    replicas, f+1 where it is None, whose statement names this cluster and this epoch, or an earlier
    one: members attest only what the ledger says that they all follow. Nothing of the payload is
    parsed before. Raises InvalidEnvelope; ValueError for a threshold of f or less, since f
    signatures prove nothing.
    """
    payload, replicas = open_agreed_envelope(data, cluster, verify, threshold=threshold)
    try:
        statement = parse_statement(payload)
    except InvalidStatement as error:
        raise InvalidEnvelope(f"the statement: {error}") from error
    if reason := foreign_reason(statement.verdict, cluster):
        raise InvalidEnvelope(reason)
    return VerifiedEnvelope(statement, payload, replicas)


def foreign_reason(verdict: VerdictFields, cluster: Cluster) -> str | None:
    """Why this verdict is none that members of this cluster give in its epoch; None: it is."""
    if verdict.cluster_id != cluster.lineage.hex():
        return "the statement is of another cluster"
    if verdict.epoch > cluster.epoch:
        return (
            f"the statement is of epoch {verdict.epoch}, and the cluster file of epoch"
            f" {cluster.epoch}; take the newer cluster file"
        )
    is_present = verdict.epoch == cluster.epoch and cluster.epoch
    if is_present and verdict.instance != cluster.id.hex():
        return "the statement is of another cluster that continues the same one"
    return None


def open_agreed_envelope(
    data: bytes, cluster: Cluster, verify: Verify, *, threshold: int | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """The payload that at least `threshold` replicas signed (f+1 where it is None), and who did.

    Nothing of the payload is parsed. Raises InvalidEnvelope; ValueError for a threshold of f or
    less, since f signatures prove nothing.
    """
    if threshold is None:
        threshold = cluster.quorums.weak
    if threshold < cluster.quorums.weak:
        raise ValueError(f"a threshold of {threshold}: at least {cluster.quorums.weak}")
    payload, signatures = open_envelope(data, cluster, verify)
    if len(signatures) < threshold:
        raise InvalidEnvelope(f"too few replicas signed it: {len(signatures)}, not {threshold}")
    return payload, tuple(signatures)


def open_envelope(
    data: bytes, cluster: Cluster, verify: Verify, *, bytes_max: int = ENVELOPE_BYTES_MAX
) -> tuple[bytes, Mapping[str, bytes]]:
    """The payload of an envelope (JSON), and the signature of each replica that really signed it.

    In the order of the genesis. Nothing of the payload is parsed: how many signatures it takes is
    the caller's to say. Raises InvalidEnvelope.
    """
    read = _read_envelope(data, bytes_max)
    payload = _decode_base64(read.payload)
    found = _signatures(read.signatures, pae(payload), _replica_keys(cluster), verify=verify)
    return payload, {name: found[name] for name in cluster.replica_names if name in found}


def _with_cases(statement: StatementView, names: CaseNames) -> StatementView:
    predicate = statement.predicate
    verdict = predicate.verdict
    return msgspec.structs.replace(
        statement,
        predicate=msgspec.structs.replace(
            predicate,
            result=_test_result(verdict.outcome, names.stated),
            passed_tests=names.passed,
            warned_tests=names.warned,
            failed_tests=names.failed,
            verdict=msgspec.structs.replace(verdict, tests=names.stated),
        ),
    )


def _test_result(outcome: Outcome, cases: StatedCases | None) -> TestResult:
    """What a test result says of this outcome, with these cases agreed on."""
    if outcome is not Outcome.PASSED:
        return "FAILED"
    return "WARNED" if cases is not None and cases.warned else "PASSED"


def _subjects(build: OpenBuild, compared: ResultKey | None) -> tuple[Subject, ...]:
    request = Subject("request", {"sha256": build.request_digest.hex()})
    if compared is None or compared.commit is None:
        return (request,)
    commit = Subject("commit", {"gitCommit": compared.commit})
    artifacts = (Subject(a.path, {"sha256": a.sha256}) for a in compared.artifacts)
    return (request, commit, *artifacts)


def _configuration(compared: ResultKey | None) -> tuple[Subject, ...]:
    if compared is None or compared.pipeline_sha256 is None:
        return ()
    return (Subject("pipeline", {"sha256": compared.pipeline_sha256}),)


def _found_values(build: OpenBuild) -> tuple[FoundValue, ...]:
    found: dict[ResultKey, list[str]] = {}
    for replica, ballot in build.ballots.items():
        if not isinstance(ballot, Abstain):
            found.setdefault(ballot.compared, []).append(replica)
    values = []
    room = FOUND_ARTIFACTS_MAX
    for compared, replicas in found.items():
        listed = compared.artifacts if len(compared.artifacts) <= room else ()
        room -= len(listed)
        values.append(
            FoundValue(
                outcome=compared.outcome,
                exit_code=compared.exit_code,
                commit=compared.commit,
                pipeline_sha256=compared.pipeline_sha256,
                image_digest=compared.only_image_digest,
                agreement=compared.agreement,
                artifacts_sha256=artifacts_sha256(compared.artifacts),
                artifacts=recorded_artifacts(listed),
                replicas=tuple(replicas),
                steps_sha256=steps_sha256(compared),
                images=recorded_images(compared) or msgspec.UNSET,
            )
        )
    return tuple(values)


def _read_envelope(data: bytes, bytes_max: int) -> Envelope:
    if len(data) > bytes_max:
        raise InvalidEnvelope(f"{len(data)} bytes; at most {bytes_max}")
    try:
        read = _envelope_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEnvelope(f"not a DSSE envelope: {error}") from error
    if read.payload_type != PAYLOAD_TYPE:
        raise InvalidEnvelope(f"the payload type is not {PAYLOAD_TYPE}")
    if len(read.signatures) > SIGNATURES_MAX:
        raise InvalidEnvelope(f"{len(read.signatures)} signatures; at most {SIGNATURES_MAX}")
    return read


def _replica_keys(cluster: Cluster) -> dict[str, bytes]:
    return {
        member.name: member.public_key
        for member in cluster.genesis.replicas  # clients' keys sign no statements
    }


def _signatures(
    signatures: Iterable[EnvelopeSignature],
    message: bytes,
    keys: Mapping[str, bytes],
    *,
    verify: Verify,
) -> dict[str, bytes]:
    """A signature of each replica that signed; the keyid only says whose key to try first."""
    keyids = {name: keyid_for(key) for name, key in keys.items()}
    signed_by: dict[str, bytes] = {}
    for signature in signatures:
        try:
            signature_bytes = _decode_base64(signature.sig)
        except InvalidEnvelope:
            continue  # one spoilt signature must not spoil the others
        for name in sorted(keys, key=lambda name: keyids[name] != signature.keyid):
            if verify(keys[name], message, signature_bytes):
                signed_by[name] = signature_bytes
                break
    return signed_by


def _decode_base64(text: str) -> bytes:
    """Base64, standard or URL-safe, as DSSE asks. Raises InvalidEnvelope."""
    try:
        standard = text.encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(standard, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidEnvelope(f"not base64: {error}") from error
