"""The operations that clients ask for, and the ballots that replicas cast.

An operation is the `operation` of a signed PBFT request, in MessagePack. A finding has a
compared value, equal as a whole to count together, and evidence that is only recorded.
"""

import enum
from collections.abc import Mapping
from typing import Annotated

import msgspec

from ci.case_results import CASE_ID_CHARACTERS_MAX, CASES_MAX, CaseOutcome
from ci.limits import LIMITS_BYTES_MAX
from pbft.messages import Name, Signature

OPERATION_BYTES_MAX = 64 * 1024
# The members of the next epoch, encoded: some hundreds.
CONFIGURATION_BYTES_MAX = 32 * 1024
READIES_MAX = 256
# Of one ballot in the replicated state, encoded; `ci.admission` reckons with it. Never raise it:
# limits that hold would be refused, and replicas of two versions would judge proposals differently.
BALLOT_BYTES = 32 * 1024
# Of a ballot with a report of test cases, which gets the room that the rest leaves. The rest has at
# most 29.3 KiB (tests/ci/test_case_reports.py tries it).
REPORTING_BALLOT_BYTES = 30 * 1024
SUBMIT_BUILD_TAG = "submit_build"
CAST_BALLOT_TAG = "cast_ballot"

BuildId = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
ProposalDigest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
# \Z, because $ would let a line feed follow
Sha256Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
CommitHex = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})\Z")]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
# An image's id, a version: a ballot has room for the names of all its artifacts and steps beside.
ShortText = Annotated[str, msgspec.Meta(max_length=256)]
# Nothing that git would take for anything but one full name of a ref (git-check-ref-format).
FullRef = Annotated[
    str, msgspec.Meta(max_length=1024, pattern=r"^refs/[^\x00-\x20\x7f~^:?*\[\\]+\Z")
]
# A gateway's public address; visible ASCII, because the statement repeats it.
PageUrl = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^https?://[!-~]+\Z")]
# Docker's reference grammar is for the pipeline file; here it is what the statement repeats. It is
# shorter than the name of an only image may be: a state has room for so much of each build.
IMAGE_NAME_CHARACTERS_MAX = 200
ImageName = Annotated[str, msgspec.Meta(max_length=IMAGE_NAME_CHARACTERS_MAX, pattern=r"^[!-~]+\Z")]
RegistryDigest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
# of a build, those of its services included
IMAGES_MAX = 8
StepName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
STEPS_MAX = 64
# What an operator calls a schedule (`schedules:` of client.yml); it is part of a status's name.
ScheduleName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
# Entries of caches that a ballot names. A pipeline names no more caches, but each cell of a matrix
# may have found others.
CACHES_MAX = 4
CaseId = Annotated[str, msgspec.Meta(min_length=1, max_length=CASE_ID_CHARACTERS_MAX)]
# No controls, no marks that turn the direction of writing, no separators of lines: a name or a note
# must not look like other text beside it. A note may have line feeds and tabs.
_UNFIT = "\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff"
PERSON_CHARACTERS_MAX = 128
# Whom the gateway that signs says it acts for: its own word.
PersonName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=PERSON_CHARACTERS_MAX, pattern=rf"^[^\x00-\x0a{_UNFIT}]+\Z"
    ),
]
NOTE_CHARACTERS_MAX = 1000
NoteText = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=NOTE_CHARACTERS_MAX, pattern=rf"^[^\x00-\x08{_UNFIT}]+\Z"
    ),
]
CaseCount = Annotated[int, msgspec.Meta(ge=0, le=CASES_MAX)]
# What a ballot names of its test cases: the whole canonical report if it is no longer than this;
# else so many cases that did not pass, whose lines in the report have so many bytes together. Less
# if the ballot has no room for that (`ci.case_reports`).
REPORT_LINES_BYTES_MAX = 12 * 1024
NOT_PASSED_MAX = 128
NOT_PASSED_BYTES_MAX = 12 * 1024
# as many as a pipeline file names
QUARANTINED_MAX = 50


class MalformedOperation(ValueError):
    """Bytes that are not an operation; the text says what was wrong."""


class Outcome(enum.StrEnum):
    """What a build came to. The last two are the network's, never a replica's finding."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CHECKOUT_FAILED = "checkout_failed"
    PIPELINE_INVALID = "pipeline_invalid"
    IMAGE_UNAVAILABLE = "image_unavailable"
    # a server has not what a lock file pins, or has other bytes
    DEPENDENCIES_UNAVAILABLE = "dependencies_unavailable"
    # no step of the pipeline is for this event and branch: nothing ran, so nothing passed
    SKIPPED = "skipped"
    DISPUTED = "disputed"
    CANCELLED = "cancelled"


CHECKOUT_FAILED_EXIT_CODE = 128
FINDING_OUTCOMES = frozenset(Outcome) - {Outcome.DISPUTED, Outcome.CANCELLED}
# Those in which what the pipeline file says was run, so that they say how it ended.
TESTED_OUTCOMES = frozenset(
    {Outcome.PASSED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY}
)


class Event(enum.StrEnum):
    """What somebody did that asks for a build. A plain POST is a push; a rebuild keeps its own."""

    PUSH = "push"
    TAG = "tag"
    PULL_REQUEST = "pull_request"
    # a merge queue asks about what a branch would become
    MERGE_GROUP = "merge_group"
    # a gateway's schedule is due
    CRON = "cron"


class Agreement(enum.StrEnum):
    """How many equal `passed` a pipeline asks for: n - f, or f + 1 where the genesis allows it."""

    DEFAULT = "default"
    WEAK = "weak"


class Artifact(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file that a build made. `path` is relative to the workspace (`ci.artifact_rules` says how);
    `length` is in bytes."""

    path: Text
    sha256: Sha256Hex
    length: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A step of the pipeline, and whether its `when` has it run.

    choice: True if it is to run. False if not: it is for other events or branches, or for builds in
    which a step failed, and this one passed. None if it is to run and the pipeline ignores how it
    ends (`failure: ignore`).

    So it follows from the pipeline file, the request and the outcome. It is equal for builds that
    fail in different steps, and for those in which an ignored step ended differently.
    """

    name: StepName
    choice: bool | None

    @property
    def is_wanted(self) -> bool:
        """Whether it is to run."""
        return self.choice is not False


class ImageDigest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An image of a build: its name in the pipeline file, and the digest that its registry gave
    that name. None: the image has no registry (it was made locally)."""

    name: ImageName
    digest: RegistryDigest | None


# Sorted by name, each name once; `ci.builds` checks that.
Images = Annotated[tuple[ImageDigest, ...], msgspec.Meta(min_length=2, max_length=IMAGES_MAX)]


class ResultKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What must be equal as a whole for two findings to count together.

    `exit_code` is 0 for passed, 1-255 for failed, 128 for checkout_failed, else None.
    `commit` is None only for checkout_failed without a commit in the request.
    `pipeline_sha256` is the SHA-256 of the pipeline file (or of the Dockerfile where there is no
    pipeline file). `image_digest` says which images the build ran in. One image: its registry
    digest, None for an image that has none (made locally) and for a Dockerfile. Several, in steps
    and services: each of them, sorted by name. The pipeline file says which is whose.
    `agreement` is what the pipeline file asks for, `default` where there is none that is valid.
    `artifacts` are the files that the pipeline names, sorted by path; none but for `passed`.
    `steps` are those of the pipeline in their order; none where there is no valid pipeline file.
    """

    outcome: Outcome
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None
    commit: CommitHex | None
    pipeline_sha256: Sha256Hex | None
    image_digest: Text | Images | None
    agreement: Agreement = Agreement.DEFAULT
    artifacts: tuple[Artifact, ...] = ()
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=STEPS_MAX)] = ()

    @property
    def only_image_digest(self) -> str | None:
        """The digest of the only image; None if there are several, or it has none."""
        return self.image_digest if isinstance(self.image_digest, str) else None

    @property
    def images(self) -> tuple[ImageDigest, ...]:
        """The images of a build that ran in several; empty for one image, whose name is not
        recorded."""
        return self.image_digest if isinstance(self.image_digest, tuple) else ()


class UsedCache(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An entry of a replica's caches that its build began with. build: the id of the build that
    wrote it."""

    name: StepName
    build: BuildId


class BuildMetadata(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is recorded beside a finding and never compared: it differs between honest replicas.

    caches: what the finding was made with, sorted; empty if it was made without caches.
    """

    log_sha256: Sha256Hex
    log_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    image_id: ShortText | None
    checkout_milliseconds: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    build_milliseconds: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    version: ShortText
    # left out of the encoding if there are none (`ballot_fields`), so an empty list is malformed
    caches: Annotated[tuple[UsedCache, ...], msgspec.Meta(min_length=1, max_length=CACHES_MAX)] = ()


class BuildResult(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="finding"
):
    """What a replica found: the build ran (or provably cannot)."""

    compared: ResultKey
    evidence: BuildMetadata


class NamedCase(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A test case that did not pass: `failed` or `warned`."""

    id: CaseId
    outcome: CaseOutcome


class CaseReport(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a replica's run of the tests came to (`ci.case_results`). Recorded, never compared:
    a flaky case must not change a verdict.

    report_sha256: of the canonical report; set_sha256: of its ids.
    passed, failed, skipped, warned: how many cases ended so.
    lines: the canonical report itself, if it is short (`ci.case_reports`); else empty.
    not_passed: if `lines` is empty, the failed cases, then the warned ones, each in the order of
        the report. is_cut: there are more of them than a ballot has room for.
    quarantined: the places, among the warned cases in the order of the report, of those that failed
        and are quarantined in the pipeline file.
    """

    report_sha256: Sha256Hex
    set_sha256: Sha256Hex
    passed: CaseCount
    failed: CaseCount
    skipped: CaseCount
    warned: CaseCount
    lines: Annotated[str, msgspec.Meta(max_length=REPORT_LINES_BYTES_MAX)]
    not_passed: Annotated[tuple[NamedCase, ...], msgspec.Meta(max_length=NOT_PASSED_MAX)] = ()
    is_cut: bool = False
    quarantined: Annotated[tuple[CaseCount, ...], msgspec.Meta(max_length=QUARANTINED_MAX)] = ()

    @property
    def total(self) -> int:
        """How many cases there were."""
        return self.passed + self.failed + self.skipped + self.warned


class ResultWithTests(BuildResult, frozen=True, tag="tested_finding"):
    """What a replica found, of a pipeline that names its test reports (`tests:`).

    It has a tag of its own, so that the bytes of a result without tests are what they were.
    """

    tests: CaseReport


class Abstain(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="abstain"
):
    """A replica could not find out, and why: its own trouble, which says nothing of the build."""

    reason: Text


Ballot = BuildResult | ResultWithTests | Abstain


class Delivery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which message of a forge asks for a build: two gateways that get it ask for one build.

    forge: its name as `forge:` of a configuration gives it, or `cron` for a schedule that is due;
    identity: SHA-256 (32 bytes) of what stays the same when it is delivered again.
    """

    forge: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    identity: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class SubmitBuild(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=SUBMIT_BUILD_TAG
):
    """A gateway asks for a build."""

    # the random identity of the outbox's row
    identity: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    repository: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    # what people call it: the pushed branch, the tag, the base branch of a pull request and of a
    # merge group
    branch: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    # None if the branch does not exist: the replicas agree on checkout_failed
    commit: CommitHex | None
    event: Event = Event.PUSH
    # the full ref that the commit must be on; None: refs/heads/<branch>
    ref: FullRef | None = None
    # of a forge; then the build's id is the delivery's, else the identity's
    delivery: Delivery | None = None
    # no replica builds it until an operator approves
    needs_approval: bool = False
    # where the gateway that opens the build shows it to people; the gateway alone says so
    public_url: PageUrl | None = None
    # which schedule is due; None for all events but cron
    schedule: ScheduleName | None = None
    # replicas build it without caches
    is_cold: bool = False
    # who asked the gateway for it: of a rebuild
    person: PersonName | None = None


class CastBallot(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=CAST_BALLOT_TAG
):
    """A replica's ballot on the build that was opened at sequence number `opened`."""

    build: BuildId
    opened: int
    ballot: Ballot


class ReportDeadline(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="report_deadline"
):
    """A replica says that the build's deadline passed, after its own ballot plus the limit."""

    build: BuildId
    opened: int


class CancelBuild(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="cancel_build"
):
    """A gateway withdraws its asking; an operator ends the build at once."""

    build: BuildId
    person: PersonName | None = None


class ApproveBuild(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="approve_build"
):
    """An operator lets a build begin that waits for approval."""

    build: BuildId
    person: PersonName | None = None


class AddNote(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="add_note"
):
    """A gateway or an operator has something to say about a build (`ci.notes`)."""

    build: BuildId
    text: NoteText
    person: PersonName | None = None


class ProposeLimits(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="propose_limits"
):
    """An operator proposes other limits, and so approves them (`ci.limit_changes`).

    serial: one above that of the limits that hold; until: the last sequence number at which it can
    be approved; limits: encoded by `ci.limits.encode_limits`.
    """

    serial: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    until: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    limits: Annotated[bytes, msgspec.Meta(max_length=LIMITS_BYTES_MAX)]


class ApproveLimits(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="approve_limits"
):
    """An operator approves the proposal with this digest (`ci.limit_changes.Proposal.digest`)."""

    proposal: ProposalDigest


class WithdrawLimits(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="withdraw_limits"
):
    """An operator withdraws its proposal with this digest, or its approval of it."""

    proposal: ProposalDigest


class Ready(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A replica of the next epoch is ready: its signature over `ci.member_changes.ready_bytes`."""

    replica: Name
    signature: Signature


class ProposeMembers(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="propose_members"
):
    """An operator proposes the members of the next epoch, and so approves them
    (`ci.member_changes`).

    until: the last sequence number at which it can be approved; configuration: an encoded Genesis.
    """

    until: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    configuration: Annotated[bytes, msgspec.Meta(max_length=CONFIGURATION_BYTES_MAX)]
    readies: Annotated[tuple[Ready, ...], msgspec.Meta(max_length=READIES_MAX)]


class ApproveMembers(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="approve_members"
):
    """An operator approves the proposal with this digest (`MembersProposal.digest`)."""

    proposal: ProposalDigest


class WithdrawMembers(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="withdraw_members"
):
    """An operator withdraws its proposal with this digest, or its approval of it."""

    proposal: ProposalDigest


class Append(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="append"
):
    """A string for the end of the replicated journal."""

    text: Annotated[str, msgspec.Meta(max_length=16 * 1024)]


class Noop(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="noop"):
    """Orders bytes and does nothing with them: for benchmarks."""

    padding: bytes = b""


Operation = (
    SubmitBuild
    | CastBallot
    | ReportDeadline
    | CancelBuild
    | ApproveBuild
    | AddNote
    | ProposeLimits
    | ApproveLimits
    | WithdrawLimits
    | ProposeMembers
    | ApproveMembers
    | WithdrawMembers
    | Append
    | Noop
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)


# How many fields at the end came later than the operation itself.
_LATER_FIELDS: Mapping[type, int] = {SubmitBuild: 3, CancelBuild: 1, ApproveBuild: 1, AddNote: 1}


def encode_operation(operation: Operation) -> bytes:
    """The bytes that go into `Request.operation`.

    Later fields at the end that say nothing are left out. So an operation has the bytes that it had
    before there were those fields. A ballot is as `ballot_fields` says.
    """
    if isinstance(operation, CastBallot):
        ballot = ballot_fields(operation.ballot)
        return _encoder.encode((CAST_BALLOT_TAG, operation.build, operation.opened, ballot))
    fields = msgspec.structs.astuple(operation)
    kept = len(fields)
    for _ in range(_LATER_FIELDS.get(type(operation), 0)):
        if fields[kept - 1] is not None and fields[kept - 1] is not False:
            break
        kept -= 1
    if kept == len(fields):
        return _encoder.encode(operation)
    return _encoder.encode((operation.__struct_config__.tag, *fields[:kept]))


def ballot_fields(ballot: Ballot) -> object:
    """What is encoded of a ballot: all of it, but no `caches` if there are none."""
    if isinstance(ballot, Abstain) or ballot.evidence.caches:
        return ballot
    evidence = msgspec.structs.astuple(ballot.evidence)[:-1]
    rest = msgspec.structs.astuple(ballot)[2:]
    return (ballot.__struct_config__.tag, ballot.compared, evidence, *rest)


def decode_operation(data: bytes) -> Operation:
    """The operation in these bytes. Raises MalformedOperation.

    No type here skips a field that it does not know: how deep a skipped field may be nested
    depends on the stack, so two replicas could differ.
    """
    if len(data) > OPERATION_BYTES_MAX:
        raise MalformedOperation(f"{len(data)} bytes; at most {OPERATION_BYTES_MAX}")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedOperation(str(error)) from error
