"""The hash-chained ledger: its entries as JSON that people can read, and the chain's check.

An entry's body is the JSON of one of the structs below, in their order of fields: one encoding.
The head after an entry is a SHA-256 over the head before it, its index and its body, so a head
stands for everything up to it. Entries are numbered 1, 2, 3 ...; index 0 is the empty ledger.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ci.artifact_rules import artifacts_sha256
from ci.operations import (
    Agreement,
    Artifact,
    Ballot,
    BuildResult,
    CaseReport,
    Outcome,
    ResultKey,
    ResultWithTests,
)
from pbft.ports import Entry

ABSTAINED = "abstained"
STEP_RAN = "ran"
STEP_SELECTED = "selected"
STEP_SKIPPED = "skipped by when"
STEP_MAY_HAVE_FAILED = "may have failed"


class MalformedEntry(ValueError):
    """Bytes that are not the body of a ledger entry; the text says what was wrong."""


class RecordedAsker(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked for a build: the request's client, number and SHA-256 (hex).

    person: whom the client said that it asks for; None: it did not say.
    """

    client: str
    timestamp: int
    request_sha256: str
    person: str | None = None


class RecordedArtifact(msgspec.Struct, frozen=True):
    """A file that a build made: `length` in bytes."""

    path: str
    sha256: str
    length: int


class RecordedImage(msgspec.Struct, frozen=True):
    """An image of a build that ran in several: its name in the pipeline file, and its registry's
    digest; null for one that was made locally."""

    name: str
    digest: str | None


class RecordedStep(msgspec.Struct, frozen=True):
    """A step of a build's pipeline.

    state: in a build that passed `ran` (to its end, with 0) or `may have failed` (it ran, and its
    pipeline ignores how it ended); in any other `selected`: `when` let it run, but the build may
    have ended before it. In each `skipped by when`.
    """

    name: str
    state: str


class RecordedCase(msgspec.Struct, frozen=True):
    """A test case that did not pass."""

    id: str
    outcome: str


class RecordedCases(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report of test cases in a ballot: the fields of CaseReport.

    same_as: the replica before in the same entry whose report is equal; then its ballot has `lines`
    and `not_passed` for both (`whole_cases`).
    """

    report_sha256: str
    set_sha256: str
    passed: int
    failed: int
    skipped: int
    warned: int
    lines: str = ""
    not_passed: tuple[RecordedCase, ...] = ()
    is_cut: bool = False
    same_as: str | None = None
    quarantined: tuple[int, ...] = ()


class RecordedCache(msgspec.Struct, frozen=True):
    """An entry of the replica's caches that its build began with, and the build that wrote it."""

    name: str
    build: str


class RecordedBallot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ballot: fields of ResultKey and BuildMetadata, or outcome `abstained` and the reason."""

    replica: str
    outcome: str
    exit_code: int | None = None
    commit: str | None = None
    pipeline_sha256: str | None = None
    # of the only image
    image_digest: str | None = None
    # of a build in several images
    images: tuple[RecordedImage, ...] = ()
    agreement: str = Agreement.DEFAULT
    # of the whole list, as `ci.artifact_rules` makes it
    artifacts_sha256: str | None = None
    # only of a late ballot, as are the steps; else the verdict's statement has them
    artifacts: tuple[RecordedArtifact, ...] = ()
    steps: tuple[RecordedStep, ...] = ()
    log_sha256: str | None = None
    log_bytes: int | None = None
    image_id: str | None = None
    checkout_milliseconds: int | None = None
    build_milliseconds: int | None = None
    version: str | None = None
    # left out if the finding was made without caches
    caches: tuple[RecordedCache, ...] = ()
    # why the replica abstained; None if it did not
    reason: str | None = None
    # None if its pipeline names no test reports
    tests: RecordedCases | None = None


class VerdictEntry(msgspec.Struct, frozen=True, tag_field="type", tag="verdict"):
    """A build was decided. `statement` is the statement itself, its bytes unchanged."""

    build: str
    opened: int
    askers: tuple[RecordedAsker, ...]
    ballots: tuple[RecordedBallot, ...]
    deadline_reports: tuple[str, ...]
    statement: msgspec.Raw


class LateBallotEntry(msgspec.Struct, frozen=True, tag_field="type", tag="late_ballot"):
    """A ballot came after the verdict: recorded as agreement or dissent, it changes nothing.

    `agrees` is None where it can be neither: an abstention, or a disputed build.
    """

    build: str
    opened: int
    ballot: RecordedBallot
    agrees: bool | None


class CancelEntry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="cancel"):
    """A gateway withdrew its asking, or an operator ended the build; a verdict may follow.

    person: whom the client said that it acts for; None: it did not say.
    """

    build: str
    opened: int
    client: str
    person: str | None = None


class ApproveEntry(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="approve"
):
    """An operator let a build begin that waited for approval. person: as in a CancelEntry."""

    build: str
    opened: int
    client: str
    person: str | None = None


class NoteEntry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="note"):
    """A client had something to say about a build. person: as in a CancelEntry."""

    build: str
    client: str
    text: str
    person: str | None = None


class RecordedApproval(msgspec.Struct, frozen=True):
    """An operator approved a proposal: `operates` are the replicas that it stands for."""

    operator: str
    operates: tuple[str, ...]


class LimitsEntry(msgspec.Struct, frozen=True, tag_field="type", tag="limits"):
    """Operators changed the limits, for builds opened at later sequence numbers than `since`.

    `digest` is that of the proposal; its proposer is the first who approved.
    """

    serial: int
    since: int
    limits: Mapping[str, bool | int | float | str]
    until: int
    digest: str
    approvals: tuple[RecordedApproval, ...]


class RecordedMember(msgspec.Struct, frozen=True):
    """A member of the next epoch: its public key in hexadecimal digits."""

    name: str
    public_key: str
    roles: tuple[str, ...]


class MembersEntry(msgspec.Struct, frozen=True, tag_field="type", tag="members"):
    """Operators decided who the members of the next epoch are, at the sequence number `since`.

    epoch: the number of that epoch. configuration: its digest in hexadecimal digits. `digest` is
    that of the proposal; its proposer is the first who approved.
    """

    epoch: int
    since: int
    configuration: str
    replicas: tuple[RecordedMember, ...]
    clients: tuple[RecordedMember, ...]
    until: int
    digest: str
    approvals: tuple[RecordedApproval, ...]


class SupersededEntry(msgspec.Struct, frozen=True, tag_field="type", tag="superseded"):
    """The epoch ended before this build was decided; its gateway asks for it again in the next."""

    build: str
    opened: int


class AppendEntry(msgspec.Struct, frozen=True, tag_field="type", tag="append"):
    """A string was appended to the journal: its `length` in strings and `digest` after that."""

    client: str
    text: str
    length: int
    digest: str


AnyEntry = (
    VerdictEntry
    | LateBallotEntry
    | CancelEntry
    | ApproveEntry
    | NoteEntry
    | LimitsEntry
    | MembersEntry
    | SupersededEntry
    | AppendEntry
)


class ChainBreak(msgspec.Struct, frozen=True):
    """The first entry at which a chain does not hold, and why."""

    index: int
    reason: str


_decoder: msgspec.json.Decoder[AnyEntry] = msgspec.json.Decoder(AnyEntry)


def genesis_head(lineage: bytes) -> bytes:
    """The head of the empty ledger of that lineage (the id of the cluster of epoch 0).

    Chains of two clusters share no head, and a chain goes on over all epochs.
    """
    return hashlib.sha256(b"pbft-ci ledger genesis\0" + lineage).digest()


def next_head(head: bytes, index: int, body: bytes) -> bytes:
    """The head after the entry `index` with this body, where `head` (32 bytes) was before it."""
    return hashlib.sha256(b"pbft-ci ledger\0" + head + index.to_bytes(8, "big") + body).digest()


def verify_chain(entries: Iterable[Entry], head: bytes, index: int = 0) -> ChainBreak | None:
    """Where the chain of these entries breaks first; None: it holds.

    head, index: where the chain stands before the first of them (`genesis_head` and 0 for a
    whole ledger).
    """
    for entry in entries:
        index += 1
        if entry.index != index:
            return ChainBreak(index, f"entry {entry.index} stands where {index} should")
        head = next_head(head, index, entry.body)
        if entry.head != head:
            return ChainBreak(index, "the head does not follow from this entry and those before")
    return None


def encode_entry(entry: AnyEntry) -> bytes:
    """The body of an entry, in JSON."""
    return msgspec.json.encode(entry)


def decode_entry(body: bytes) -> AnyEntry:
    """The inverse of encode_entry. Raises MalformedEntry."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEntry(str(error)) from error


def by_whom(client: str, person: str | None) -> str:
    """Who did something, in words: the client signed it, and only says who asked it to."""
    return client if person is None else f"{person}, says {client}"


def recorded_artifacts(artifacts: Iterable[Artifact]) -> tuple[RecordedArtifact, ...]:
    """A list of artifacts as it stands in the ledger and in a statement."""
    return tuple(RecordedArtifact(a.path, a.sha256, a.length) for a in artifacts)


def recorded_images(compared: ResultKey) -> tuple[RecordedImage, ...]:
    """The images of a build that ran in several, as they stand in the ledger and in a statement."""
    return tuple(RecordedImage(image.name, image.digest) for image in compared.images)


def recorded_steps(compared: ResultKey) -> tuple[RecordedStep, ...]:
    """What became of each step, as far as replicas agree on it."""
    has_passed = compared.outcome is Outcome.PASSED
    states = {
        True: STEP_RAN if has_passed else STEP_SELECTED,
        False: STEP_SKIPPED,
        None: STEP_MAY_HAVE_FAILED if has_passed else STEP_SELECTED,
    }
    return tuple(RecordedStep(step.name, states[step.choice]) for step in compared.steps)


def recorded_ballots(ballots: Mapping[str, Ballot]) -> tuple[RecordedBallot, ...]:
    """The ballots of a verdict by replica, as they stand in its entry.

    Reports are mostly equal, and most of an entry's bytes, so each is there once.
    """
    first: dict[CaseReport, str] = {}
    recorded = []
    for replica, ballot in ballots.items():
        found = recorded_ballot(replica, ballot)
        if isinstance(ballot, ResultWithTests) and found.tests is not None:
            same_as = first.setdefault(ballot.tests, replica)
            if same_as != replica:
                tests = msgspec.structs.replace(
                    found.tests, lines="", not_passed=(), same_as=same_as
                )
                found = msgspec.structs.replace(found, tests=tests)
        recorded.append(found)
    return tuple(recorded)


def whole_cases(ballots: Iterable[RecordedBallot]) -> dict[str, RecordedCases]:
    """The reports of test cases in the ballots of one entry, by replica, each as it was cast."""
    found: dict[str, RecordedCases] = {}
    for ballot in ballots:
        tests = ballot.tests
        if tests is not None:
            found[ballot.replica] = tests if tests.same_as is None else found[tests.same_as]
    return found


def recorded_caches(ballot: BuildResult) -> tuple[RecordedCache, ...]:
    """The entries of caches that this result was made with."""
    return tuple(RecordedCache(used.name, used.build.hex()) for used in ballot.evidence.caches)


def caches_text(caches: Sequence[RecordedCache]) -> str:
    """What to say of a result that was made with these, and differs; empty if there are none."""
    builds = [build[:12] for build in dict.fromkeys(cache.build for cache in caches)]
    if len(caches) == 1:
        return f"with a cache from build {builds[0]}"
    named = f"build{'s' if len(builds) > 1 else ''} {', '.join(builds)}"
    return f"with caches from {named}" if caches else ""


def recorded_ballot(replica: str, ballot: Ballot, *, is_late: bool = False) -> RecordedBallot:
    """A ballot as it stands in the ledger. A late one is in no statement, so it says all."""
    if isinstance(ballot, BuildResult):
        tests = ballot.tests if isinstance(ballot, ResultWithTests) else None
        artifacts = ballot.compared.artifacts
        found: Mapping[str, object] = {
            **msgspec.structs.asdict(ballot.compared),
            **msgspec.structs.asdict(ballot.evidence),
            "image_digest": ballot.compared.only_image_digest,
            "images": recorded_images(ballot.compared),
            "artifacts_sha256": artifacts_sha256(artifacts),
            "artifacts": recorded_artifacts(artifacts) if is_late else (),
            "steps": recorded_steps(ballot.compared) if is_late else (),
            "tests": None if tests is None else _recorded_cases(tests),
            "caches": recorded_caches(ballot),
        }
        return msgspec.convert({"replica": replica, **found}, RecordedBallot)
    return RecordedBallot(replica=replica, outcome=ABSTAINED, reason=ballot.reason)


def _recorded_cases(report: CaseReport) -> RecordedCases:
    return RecordedCases(
        report_sha256=report.report_sha256,
        set_sha256=report.set_sha256,
        passed=report.passed,
        failed=report.failed,
        skipped=report.skipped,
        warned=report.warned,
        lines=report.lines,
        not_passed=tuple(RecordedCase(case.id, case.outcome) for case in report.not_passed),
        is_cut=report.is_cut,
        quarantined=report.quarantined,
    )
