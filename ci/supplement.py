"""Who contradicted a verdict later: a statement beside the verdict's own, signed likewise.

A verdict is frozen at the ballot that decided it, so it says nothing of those that came after.
They stand in the ledger. A supplement is a pure function of the cluster, a verdict's entry, the
late ballots among the ledger's entries up to an index, and whether the build takes more. So f+1
replicas that are asked for the same index sign the same bytes.

The rule: only a final supplement says that nobody contradicted. One that is not says what there
was up to its entry, and who shows it chose that entry.
in-toto Statement v1, DSSE v1.0.2.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from ci.ledger import ABSTAINED, LateBallotEntry, RecordedImage, VerdictEntry
from ci.operations import Agreement
from ci.statement import (
    STATEMENT_TYPE,
    InvalidEnvelope,
    Subject,
    VerdictFields,
    VerifiedEnvelope,
    beginning_of,
    open_agreed_envelope,
    parse_statement,
)
from pbft.genesis import Cluster
from pbft.ports import Verify

SUPPLEMENT_TYPE = "urn:pbft-ci:late-ballots:v1"

# `neither`: nothing was agreed on (disputed), so that nobody can contradict it.
Stance = Literal["agrees", "contradicts", "abstains", "neither"]


class LateBallot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A ballot after the verdict; fields without a comment are those of RecordedBallot."""

    replica: str
    stance: Stance
    # of its entry, which has its artifacts, steps and test cases
    ledger_index: int
    outcome: str
    exit_code: int | None = None
    commit: str | None = None
    pipeline_sha256: str | None = None
    image_digest: str | None = None
    images: tuple[RecordedImage, ...] = ()
    agreement: str = Agreement.DEFAULT
    artifacts_sha256: str | None = None
    log_sha256: str | None = None
    # only its beginning
    reason: str | None = None
    # of its report of test cases; None if it has none
    report_sha256: str | None = None


class SupplementFields(msgspec.Struct, frozen=True, rename="camel"):
    """The predicate."""

    cluster_id: str
    build: str
    # the sequence number of the request that opened the build
    opened: int
    # the digest of the verdict's statement, that is of its envelope's payload
    verdict: dict[str, str]
    # the entry up to which late ballots are listed
    ledger_index: int
    # the head after that entry (hex)
    ledger_head: str
    # whether no further ballot is taken: all that were to come are in, or their time is over
    is_final: bool = msgspec.field(name="final")
    late_ballots: tuple[LateBallot, ...]
    # the replicas that had cast none by then
    without_ballot: tuple[str, ...]


class SupplementView(msgspec.Struct, frozen=True):
    """The whole statement, for writing and reading; its subjects are the verdict's."""

    type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: SupplementFields


class VerifiedSupplement(msgspec.Struct, frozen=True):
    """What a supplement says, and the replicas (genesis order) that really signed it."""

    fields: SupplementFields
    replicas: tuple[str, ...]


_decoder = msgspec.json.Decoder(SupplementView)


def supplement_bytes(
    cluster: Cluster,
    verdict: VerdictEntry,
    late_ballots: Iterable[tuple[int, LateBallotEntry]],
    *,
    ledger_index: int,
    ledger_head: bytes,
    is_final: bool,
) -> bytes:
    """The supplement to that verdict.

    late_ballots: all on that very build up to the entry `ledger_index`, each with its index,
        in their order. ledger_head: after that entry. is_final: no further one can come.
    """
    statement = bytes(verdict.statement)
    ballots = tuple(_late_ballot(index, entry) for index, entry in late_ballots)
    cast = {ballot.replica for ballot in verdict.ballots} | {late.replica for late in ballots}
    supplement = SupplementView(
        type=STATEMENT_TYPE,
        subject=parse_statement(statement).subject,
        predicate_type=SUPPLEMENT_TYPE,
        predicate=SupplementFields(
            cluster_id=cluster.lineage.hex(),
            build=verdict.build,
            opened=verdict.opened,
            verdict={"sha256": hashlib.sha256(statement).hexdigest()},
            ledger_index=ledger_index,
            ledger_head=ledger_head.hex(),
            is_final=is_final,
            late_ballots=ballots,
            without_ballot=tuple(name for name in cluster.replica_names if name not in cast),
        ),
    )
    return msgspec.json.encode(supplement)


def verify_supplement(
    data: bytes,
    verdict: VerifiedEnvelope,
    cluster: Cluster,
    *,
    verify: Verify,
    threshold: int | None = None,
) -> VerifiedSupplement:
    """What this envelope (JSON) says about that verdict.

    Accepted as `verify_envelope` accepts one, if it is a supplement to the very statement of that
    verdict. Raises InvalidEnvelope; ValueError for a threshold of f or less.
    """
    payload, replicas = open_agreed_envelope(data, cluster, verify, threshold=threshold)
    try:
        supplement = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEnvelope(f"the supplement: {error}") from error
    if supplement.type != STATEMENT_TYPE or supplement.predicate_type != SUPPLEMENT_TYPE:
        raise InvalidEnvelope(f"not an in-toto v1 statement with {SUPPLEMENT_TYPE}")
    fields = supplement.predicate
    if fields.verdict.get("sha256") != hashlib.sha256(verdict.payload).hexdigest():
        raise InvalidEnvelope("it is the supplement to another verdict")
    return VerifiedSupplement(fields, replicas)


def contradicting(verdict: VerdictFields, supplement: SupplementFields) -> tuple[str, ...]:
    """The replicas that found something else than was agreed on, before the verdict or after it.

    Empty if nothing was agreed on.
    """
    if not verdict.agreeing:
        return ()
    agreeing = set(verdict.agreeing)
    before = (name for found in verdict.found for name in found.replicas if name not in agreeing)
    after = (late.replica for late in supplement.late_ballots if late.stance == "contradicts")
    return (*before, *after)


def _late_ballot(index: int, entry: LateBallotEntry) -> LateBallot:
    ballot = entry.ballot
    return LateBallot(
        replica=ballot.replica,
        stance=_stance(entry),
        ledger_index=index,
        outcome=ballot.outcome,
        exit_code=ballot.exit_code,
        commit=ballot.commit,
        pipeline_sha256=ballot.pipeline_sha256,
        image_digest=ballot.image_digest,
        images=ballot.images,
        agreement=ballot.agreement,
        artifacts_sha256=ballot.artifacts_sha256,
        log_sha256=ballot.log_sha256,
        reason=None if ballot.reason is None else beginning_of(ballot.reason),
        report_sha256=None if ballot.tests is None else ballot.tests.report_sha256,
    )


def _stance(entry: LateBallotEntry) -> Stance:
    if entry.agrees is not None:
        return "agrees" if entry.agrees else "contradicts"
    return "abstains" if entry.ballot.outcome == ABSTAINED else "neither"
