"""A build as the API and the pages show it: records and signed ballots to plain values."""

import datetime
import enum
from collections.abc import Sequence
from typing import Annotated

import msgspec

from ci.executors import STAND_BY
from ci.ledger import RecordedCache, RecordedStep, caches_text, recorded_caches
from ci.operations import (
    Abstain,
    Ballot,
    CastBallot,
    Event,
    MalformedOperation,
    Outcome,
    ResultKey,
    SubmitBuild,
    decode_operation,
)
from ci.statement import (
    FoundValue,
    InvalidStatement,
    StatementView,
    VerdictFields,
    foreign_reason,
    parse_statement,
)
from client.storage.archive import BallotRecord, BuildRecord, ReplyRecord, StateRecord
from client.views.artifact_view import (
    ArtifactView,
    FileDifference,
    artifact_views,
    file_differences,
    is_found_value,
)
from client.views.commit_view import About, CommitView, RequestView, commit_view, request_view
from client.views.differences import Difference, differences_of
from pbft.authentication import Authenticator
from pbft.codec import MalformedMessage, decode_request, decode_signed
from pbft.genesis import Cluster
from pbft.messages import Request

# What a build's detail says until it is approved; the network has it by then.
WAITS_FOR_APPROVAL = "if it is not approved yet, it waits for an operator: client approve BUILD"


class BuildStatus(enum.StrEnum):
    """How far a build is.

    `refused`: the network took the request and will not build it. `skipped`: the commit asks for
    no build. `cancelled`: it was cancelled before the network was asked for it. Where the network
    had it, the verdict says that it was cancelled or skipped.
    """

    QUEUED = "queued"
    BUILDING = "building"
    DECIDED = "decided"
    REFUSED = "refused"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class VerdictView(msgspec.Struct, frozen=True):
    """The accepted verdict.

    `agreeing` and `dissenting` count the ballots after it, too, and no replica that abstained. For
    disputed and cancelled there is no value to agree with, so both are empty.
    """

    outcome: str
    exit_code: int | None
    agreeing: tuple[str, ...]
    dissenting: tuple[str, ...]
    ledger_index: int
    threshold: Annotated[
        int | None,
        msgspec.Meta(description="how many equal ballots it took; null for disputed and cancelled"),
    ]
    executors: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="the replicas that were to build first, while the others stood by;"
            " empty: all were"
        ),
    ]
    ref: Annotated[
        str, msgspec.Meta(description="the full name that the commit was proved to be on")
    ]
    target: Annotated[
        str | None,
        msgspec.Meta(
            description="of a pull request or merge group: the full name of its target branch"
        ),
    ]
    pipeline_sha256: Annotated[str | None, msgspec.Meta(description="of the agreed pipeline file")]
    steps: Annotated[
        tuple[RecordedStep, ...],
        msgspec.Meta(description="of the agreed pipeline file; empty if nothing is agreed on"),
    ]
    failed_tests: Annotated[
        int, msgspec.Meta(description="how many test cases are agreed to have failed")
    ]
    failed_test: Annotated[str | None, msgspec.Meta(description="the first of them by its id")]


class BallotView(msgspec.Struct, frozen=True):
    """One replica's ballot."""

    replica: str
    outcome: str | None
    exit_code: int | None
    commit: str | None
    log_sha256: str | None
    abstains: Annotated[str | None, msgspec.Meta(description="its reason; then all else is null")]
    log_bytes: Annotated[
        int | None, msgspec.Meta(description="the length of its log, by its own account")
    ]
    checkout_milliseconds: Annotated[int | None, msgspec.Meta(description="by its own account")]
    build_milliseconds: Annotated[int | None, msgspec.Meta(description="by its own account")]
    caches: Annotated[
        tuple[RecordedCache, ...],
        msgspec.Meta(
            description="those it began with, and the builds that wrote them, by its own account"
        ),
    ] = ()


class ReplicaView(msgspec.Struct, frozen=True):
    """What one replica does about a build, or did when it was last asked."""

    replica: str
    has_ballot: Annotated[
        bool, msgspec.Meta(description="its ballot is here, or the accepted statement names it")
    ]
    state: Annotated[
        str | None,
        msgspec.Meta(
            description="that ballot in words (with the caches it used, if it differs from the"
            " verdict), else its own words; null: it never reported any;"
            " `stand-by`: it need not build; `cancelled`: the verdict is, and it has no ballot"
        ),
    ]
    seen: Annotated[
        str | None, msgspec.Meta(description="when it reported that; null for a ballot")
    ]
    problem: Annotated[str | None, msgspec.Meta(description="why it gives no answer now")]


class ReplyView(msgspec.Struct, frozen=True):
    """One replica's reply: agrees with the accepted verdict, its signature over it holds."""

    replica: str
    agrees: bool
    signed: bool


class TimesView(msgspec.Struct, frozen=True):
    """When the gateway saw each step: ISO 8601, UTC, by its own clock; null: not yet."""

    received: str | None
    resolved: str | None
    signed: str | None
    opened: str | None
    decided: str | None


class BuildView(msgspec.Struct, frozen=True):
    """GET /api/v1/builds/<id>."""

    id: str
    repository: str
    branch: str
    commit: str | None
    event: str
    ref: str | None
    author: Annotated[
        str | None, msgspec.Meta(description="whose pull request it is, as the forge reports it")
    ]
    schedule: Annotated[
        str | None, msgspec.Meta(description="which schedule was due, if the event is cron")
    ]
    sender: Annotated[
        str | None, msgspec.Meta(description="whose doing it is, as the forge reports it")
    ]
    commit_details: Annotated[
        CommitView | None,
        msgspec.Meta(description="what the commit says, proved by its hash; null: not here"),
    ]
    request: Annotated[
        RequestView | None, msgspec.Meta(description="the pull or merge request, if it is one")
    ]
    requested_by: Annotated[
        str | None,
        msgspec.Meta(description="the member whose key signed the request; null: not signed yet"),
    ]
    status: BuildStatus
    verdict: VerdictView | None
    ballots: tuple[BallotView, ...]
    replies: tuple[ReplyView, ...]
    times: TimesView
    detail: Annotated[
        str | None,
        msgspec.Meta(description="what it waits for, or why it was refused, in one line"),
    ]
    needs_approval: Annotated[
        bool, msgspec.Meta(description="it is not built before an operator approves it")
    ]
    withdrawn: Annotated[
        str | None,
        msgspec.Meta(
            description="why this gateway withdrew its request (cancelled, superseded by another)"
        ),
    ]
    rebuild_of: Annotated[
        str | None, msgspec.Meta(description="the build that this one does again")
    ]
    is_cold: Annotated[
        bool, msgspec.Meta(description="the replicas were asked to build it without caches")
    ]
    rebuilds: Annotated[tuple[str, ...], msgspec.Meta(description="those that did this one again")]
    logs: Annotated[
        tuple[str, ...], msgspec.Meta(description="the replicas whose log can be downloaded here")
    ]
    replicas: tuple[ReplicaView, ...]
    differences: Annotated[
        tuple[Difference, ...],
        msgspec.Meta(
            description="what the build results disagree about; empty if all are the same"
        ),
    ]
    artifacts: Annotated[
        tuple[ArtifactView, ...], msgspec.Meta(description="agreed on by the verdict")
    ]
    artifact_differences: Annotated[
        tuple[FileDifference, ...], msgspec.Meta(description="of all ballots that are here")
    ]


def schedule_of(record: BuildRecord) -> str | None:
    """Which schedule was due, as the network was asked; None also while it is not asked yet."""
    if record.event is not Event.CRON or record.request is None:
        return None
    return _asked(record.request).schedule


def _is_cold(record: BuildRecord) -> bool:
    """Whether it is to be built without caches; False also while the network is not asked yet."""
    is_rebuild = record.rebuild_of is not None
    return is_rebuild and record.request is not None and _asked(record.request).is_cold


def _asked(request: bytes) -> SubmitBuild:
    operation = decode_operation(decode_request(decode_signed(request)).operation)
    assert isinstance(operation, SubmitBuild), "a build was asked for by such a request"
    return operation


def build_view(
    record: BuildRecord,
    ballots: list[BallotRecord],
    replies: list[ReplyRecord],
    *,
    states: Sequence[StateRecord] = (),
    rebuilds: Sequence[bytes] = (),
    about: About | None = None,
) -> BuildView:
    """What people and programs are shown of a build. states: of all replicas.

    about: what is known of its commit, and what its forge said.
    """
    about = about or About()
    cast = {ballot.replica: read_ballot(ballot.signed) for ballot in ballots}
    statement = parse_statement(record.statement) if record.statement else None
    verdict = statement.verdict if statement else None
    verdict_view = _verdict_view(statement, cast) if statement else None
    return BuildView(
        id=record.build.hex(),
        repository=record.repository,
        branch=record.branch,
        commit=record.commit,
        event=record.event,
        ref=record.ref,
        author=record.author,
        schedule=schedule_of(record),
        sender=about.words.sender,
        commit_details=None if about.commit is None else commit_view(about.commit, about.pages),
        request=request_view(record.ref, about) if record.event is Event.PULL_REQUEST else None,
        requested_by=None if record.request is None else decode_signed(record.request).signer,
        status=_status(record),
        verdict=verdict_view,
        ballots=tuple(_ballot_view(replica, ballot) for replica, ballot in cast.items()),
        replies=tuple(
            ReplyView(reply.replica, reply.agrees, reply.attestation is not None)
            for reply in replies
        ),
        times=TimesView(
            received=iso_time(record.received_at),
            resolved=iso_time(record.resolved_at),
            signed=iso_time(record.signed_at),
            opened=iso_time(record.opened_at),
            decided=iso_time(record.decided_at),
        ),
        detail=_detail(record),
        needs_approval=record.detail == WAITS_FOR_APPROVAL,
        withdrawn=record.withdrawn,
        rebuild_of=None if record.rebuild_of is None else record.rebuild_of.hex(),
        is_cold=_is_cold(record),
        rebuilds=tuple(build.hex() for build in rebuilds),
        logs=tuple(ballot.replica for ballot in ballots if ballot.log_archived),
        replicas=tuple(
            _replica_view(
                state,
                cast.get(state.replica),
                verdict,
                is_dissent=verdict_view is not None and state.replica in verdict_view.dissenting,
            )
            for state in states
        ),
        differences=differences_of(cast),
        artifacts=artifact_views(verdict.artifacts if verdict else ()),
        artifact_differences=file_differences(verdict, cast),
    )


def is_over(record: BuildRecord) -> bool:
    """Is there nothing more to come but late ballots and logs?"""
    return _status(record) not in (BuildStatus.QUEUED, BuildStatus.BUILDING)


def read_ballot(signed: bytes) -> Ballot:
    """The ballot in an encoded Signed Request that `checked_ballot` let into the archive."""
    operation = decode_operation(decode_request(decode_signed(signed)).operation)
    assert isinstance(operation, CastBallot), "only ballots are kept as ballots"
    return operation.ballot


def checked_ballot(
    signed: bytes, replica: str, build: bytes, *, opened: int, authenticator: Authenticator
) -> CastBallot | None:
    """The ballot in these bytes, if this replica signed it for this build; else None.

    Checked: a Signed Request whose signer is `replica`, its signature, and a CastBallot that
    names this build and opening.
    """
    try:
        decoded = decode_signed(signed)
        message = authenticator.read(decoded)
        if not isinstance(message, Request) or decoded.signer != replica:
            return None
        operation = decode_operation(message.operation)
    except (MalformedMessage, MalformedOperation):
        return None
    if not isinstance(operation, CastBallot):
        return None
    if operation.build != build or operation.opened != opened:
        return None
    if authenticator.check(decoded, message) is not None:
        return None
    return operation


def accepted_verdict(statement: bytes, cluster: Cluster, build: bytes) -> VerdictFields | None:
    """The verdict of a statement about just this build of this cluster, in its epoch or an earlier
    one; else None."""
    try:
        verdict = parse_statement(statement).verdict
    except InvalidStatement:
        return None
    if verdict.build != build.hex() or foreign_reason(verdict, cluster) is not None:
        return None
    return verdict


def iso_time(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 with milliseconds, UTC."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _status(record: BuildRecord) -> BuildStatus:
    if record.statement is not None:
        return BuildStatus.DECIDED
    if record.refused is not None:
        return BuildStatus.REFUSED
    if record.skipped is not None:
        return BuildStatus.SKIPPED
    if record.is_never_asked:
        return BuildStatus.CANCELLED
    return BuildStatus.QUEUED if record.opened_at is None else BuildStatus.BUILDING


def _detail(record: BuildRecord) -> str | None:
    """One line on what it waits for, or why it ended without a result."""
    if record.withdrawn is not None and record.statement is None and not record.is_never_asked:
        return f"{record.withdrawn}; the network is being told"
    is_cancelled = record.statement is not None and (
        parse_statement(record.statement).verdict.outcome is Outcome.CANCELLED
    )
    withdrawn = record.withdrawn if is_cancelled or record.is_never_asked else None
    return record.refused or record.skipped or withdrawn or record.detail


def _verdict_view(statement: StatementView, cast: dict[str, Ballot]) -> VerdictView:
    verdict = statement.verdict
    decided = next(
        (found for found in verdict.found if set(verdict.agreeing) & set(found.replicas)), None
    )
    agreeing = list(verdict.agreeing)
    dissenting: list[str] = []
    if decided is not None:
        for found in verdict.found:
            if found is not decided:
                dissenting.extend(found.replicas)
        for replica, ballot in cast.items():
            if isinstance(ballot, Abstain) or replica in agreeing or replica in dissenting:
                continue
            is_equal = is_found_value(ballot.compared, decided)
            (agreeing if is_equal else dissenting).append(replica)
    return VerdictView(
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        agreeing=tuple(agreeing),
        dissenting=tuple(sorted(dissenting)),
        ledger_index=verdict.ledger_index,
        threshold=verdict.threshold,
        executors=verdict.executors,
        ref=verdict.full_ref,
        target=verdict.target,
        pipeline_sha256=verdict.pipeline_sha256,
        steps=verdict.steps,
        failed_tests=0 if verdict.tests is None else verdict.tests.failed,
        failed_test=next(iter(statement.predicate.failed_tests), None),
    )


def stood_by(verdict: VerdictFields | VerdictView, replica: str) -> bool:
    """Whether one without a ballot was not asked for one, as far as the verdict tells.

    A dispute may be for want of it.
    """
    is_spared = bool(verdict.executors) and replica not in verdict.executors
    return is_spared and verdict.outcome != Outcome.DISPUTED


def _replica_view(
    state: StateRecord, ballot: Ballot | None, verdict: VerdictFields | None, *, is_dissent: bool
) -> ReplicaView:
    recorded = None if verdict is None else _recorded(verdict, state.replica)
    if ballot is None and recorded is not None:
        # its signed ballot is not here yet
        return ReplicaView(state.replica, True, recorded, None, state.problem)
    if ballot is None:
        words = state.state
        if words in (None, "none") and verdict is not None and stood_by(verdict, state.replica):
            words = STAND_BY
        if verdict is not None and verdict.outcome is Outcome.CANCELLED:
            # whoever executed the verdict has stopped; nobody is asked any more how far it was
            words = BuildStatus.CANCELLED
        seen = iso_time(state.seen_at)
        return ReplicaView(state.replica, False, words, seen, state.problem)
    if isinstance(ballot, Abstain):
        words = _abstains(ballot.reason)
    else:
        made_with = caches_text(recorded_caches(ballot)) if is_dissent else ""
        words = ", ".join(filter(None, (_found(ballot.compared), made_with)))
    return ReplicaView(state.replica, True, words, None, state.problem)


def _recorded(verdict: VerdictFields, replica: str) -> str | None:
    """What the statement says of this replica's ballot, in words; None: it had none by then."""
    for found in verdict.found:
        if replica in found.replicas:
            return _found(found)
    for abstention in verdict.abstained:
        if replica == abstention.replica:
            return _abstains(abstention.reason)
    return None


def _found(value: ResultKey | FoundValue) -> str:
    return f"found {value.outcome}" + ("" if value.exit_code is None else f" {value.exit_code}")


def _abstains(reason: str) -> str:
    return f"abstains: {reason}"


def _ballot_view(replica: str, ballot: Ballot) -> BallotView:
    if isinstance(ballot, Abstain):
        return BallotView(replica, None, None, None, None, ballot.reason, None, None, None)
    compared, evidence = ballot.compared, ballot.evidence
    return BallotView(
        replica,
        compared.outcome,
        compared.exit_code,
        compared.commit,
        evidence.log_sha256,
        None,
        evidence.log_bytes,
        evidence.checkout_milliseconds,
        evidence.build_milliseconds,
        recorded_caches(ballot),
    )
