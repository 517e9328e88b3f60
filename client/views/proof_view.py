"""How a verdict came about, step by step, each with its signers and its hash, checked again. Pure.

The page and the command `proof` do the same: the page with the gateway's cluster file, the command
with the reader's own.
"""

import hashlib

import msgspec

from ci.operations import Abstain, CastBallot, SubmitBuild, decode_operation
from ci.statement import (
    InvalidStatement,
    StatementView,
    VerdictFields,
    foreign_reason,
    pae,
    parse_statement,
    submitted_build_id,
)
from common.english import counted
from pbft.authentication import Authenticator
from pbft.codec import MalformedMessage, decode_signed, digest_of
from pbft.genesis import Cluster
from pbft.messages import Request, Signed
from pbft.ports import Refusal, Verify

STEPS = ("webhook", "request", "order", "ballots", "verdict", "envelope")
BYTES_MAX = 8 * 1024 * 1024


class KeptBallot(msgspec.Struct, frozen=True):
    """A replica's ballot: its own encoded Signed Request (base64 on the wire)."""

    replica: str
    signed: bytes


class KeptSignature(msgspec.Struct, frozen=True):
    """A replica's signature over the statement, as DSSE has it."""

    replica: str
    signature: bytes


class BuildProof(msgspec.Struct, frozen=True):
    """GET /api/v1/builds/<id>/proof: all that is signed about a build, as the gateway keeps it.

    request: the gateway's own encoded Signed Request. statement: the accepted verdict.
    """

    build: str
    request: bytes | None
    ballots: tuple[KeptBallot, ...]
    statement: bytes | None
    signatures: tuple[KeptSignature, ...]


class ProofPart(msgspec.Struct, frozen=True):
    """One signed thing of a step. problem: why it proves nothing; None: it holds."""

    signer: str
    text: str
    sha256: str
    problem: str | None


class ProofStep(msgspec.Struct, frozen=True):
    """One step. sha256: of what it is about. problem: why it does not hold; None: it does.

    is_checked: False if it is somebody's word, or not there yet.
    """

    name: str
    text: str
    sha256: str | None = None
    parts: tuple[ProofPart, ...] = ()
    problem: str | None = None
    is_checked: bool = True


def proof_steps(
    proof: BuildProof, cluster: Cluster, verify: Verify, *, view: int | None = None
) -> tuple[ProofStep, ...]:
    """The steps in their order, checked. view: in which the build was ordered, if it is known."""
    check = _Check(proof, cluster, verify)
    return (
        check.webhook(),
        check.request(),
        check.order(view),
        check.ballots(),
        check.verdict(),
        check.envelope(),
    )


class _Check:
    def __init__(self, proof: BuildProof, cluster: Cluster, verify: Verify) -> None:
        self._proof = proof
        self._cluster = cluster
        self._verify = verify
        self._authenticator = Authenticator(cluster, verify)
        self._statement: StatementView | None = None
        self._wrong: str | None = None
        if proof.statement is not None:
            try:
                self._statement = parse_statement(proof.statement)
            except InvalidStatement as error:
                self._wrong = str(error)

    @property
    def _verdict(self) -> VerdictFields | None:
        return None if self._statement is None else self._statement.verdict

    def webhook(self) -> ProofStep:
        """What asked for it: a word that nothing proves, but which the request repeats."""
        submitted = self._submitted()
        if submitted is None:
            return ProofStep("webhook", "The request is not signed yet.", is_checked=False)
        delivery = submitted.delivery
        if delivery is None:
            text = "A plain request, a rebuild or a command: no forge's delivery is named."
            return ProofStep("webhook", text, is_checked=False)
        text = (
            f"A delivery of {delivery.forge}, as the gateway took it. Its hash covers the"
            " repository, the ref and what the ref points at."
        )
        return ProofStep("webhook", text, delivery.identity.hex(), is_checked=False)

    def request(self) -> ProofStep:
        """The gateway's signed request, which names the build."""
        if self._proof.request is None:
            return ProofStep("request", "It is not signed yet.", is_checked=False)
        read = self._read(self._proof.request)
        if isinstance(read, str):
            return ProofStep("request", "The gateway's request", problem=read)
        signed, request = read
        digest = digest_of(signed.payload).hex()
        text = f"Request {request.timestamp} of {request.client}."
        problem = None
        submitted = self._submitted()
        if submitted is None:
            problem = "it asks for no build"
        else:
            build = submitted_build_id(self._cluster.lineage, request.client, submitted)
            if build.hex() != self._proof.build:
                problem = "it asks for another build"
        if self._statement is not None and problem is None:
            named = {subject.digest.get("sha256") for subject in self._statement.subject}
            if digest not in named:
                text += " Another member asked for the same build first: the verdict names that"
                text += " request."
        part = ProofPart(signed.signer, "signed it", digest, problem)
        return ProofStep("request", text, digest, (part,), problem)

    def order(self, view: int | None) -> ProofStep:
        """The place in the order, which each ballot and the statement repeat."""
        verdict = self._verdict
        if verdict is None:
            return ProofStep("order", "It is not known yet.", is_checked=False)
        seen = "" if view is None else f", in view {view} as the replicas' messages say"
        text = (
            f"The replicas gave the request sequence number {verdict.opened}{seen}. Every ballot"
            " names it, and the verdict does."
        )
        others = [
            replica
            for replica, cast in self._cast().items()
            if isinstance(cast, CastBallot) and cast.opened != verdict.opened
        ]
        problem = f"other ballots are of another place: {', '.join(others)}" if others else None
        return ProofStep("order", text, problem=problem)

    def ballots(self) -> ProofStep:
        """Each replica's signed ballot: those that the verdict took, and those that came later."""
        before = _voices(self._verdict)
        parts = []
        for kept in self._proof.ballots:
            digest, text, problem = "", "", None
            read = self._read(kept.signed)
            if isinstance(read, str):
                problem = read
            else:
                digest = digest_of(read[0].payload).hex()
                cast = _cast_in(read[1])
                if cast is None or cast.build.hex() != self._proof.build:
                    problem = "it is no ballot on this build"
                elif read[0].signer != kept.replica:
                    problem = f"{read[0].signer} signed it"
                else:
                    text = _said(cast)
            when = "" if before is None else _when(kept.replica, before, self._verdict)
            parts.append(ProofPart(kept.replica, f"{text}{when}", digest, problem))
        bad = [part.signer for part in parts if part.problem is not None]
        problem = f"that of {', '.join(bad)} proves nothing" if bad else None
        text = f"{counted(len(parts), 'signed ballot')} of {counted(self._size, 'replica')}."
        if before is not None:
            in_time = sum(part.signer in before for part in parts)
            text += f" {in_time} came before the verdict, {len(parts) - in_time} later."
        return ProofStep("ballots", text, None, tuple(parts), problem, bool(parts))

    def verdict(self) -> ProofStep:
        """The statement, and whether the ballots that it names come to it."""
        verdict, statement = self._verdict, self._proof.statement
        if verdict is None or statement is None:
            text = "There is none yet."
            return ProofStep("verdict", text, problem=self._wrong, is_checked=False)
        digest = hashlib.sha256(statement).hexdigest()
        problem = None
        if verdict.build != self._proof.build or foreign_reason(verdict, self._cluster):
            problem = "it is about another build or cluster"
        elif verdict.threshold is not None and len(set(verdict.agreeing)) < verdict.threshold:
            problem = "fewer replicas agree than it takes"
        elif contradicting := self._contradicting(verdict):
            problem = f"the ballot of {', '.join(contradicting)} says something else"
        what = verdict.outcome.replace("_", " ")
        text = f"{what.capitalize()}"
        if verdict.threshold is not None:
            text += (
                f", by {len(verdict.agreeing)} equal ballots ({', '.join(verdict.agreeing)});"
                f" it took {verdict.threshold}"
            )
        text += (
            f". It is entry {verdict.ledger_index} of the ledger, after head"
            f" {verdict.previous_head[:16]}."
        )
        return ProofStep("verdict", text, digest, problem=problem)

    def envelope(self) -> ProofStep:
        """The replicas' signatures over the statement: f+1 prove it."""
        statement = self._proof.statement
        if statement is None:
            return ProofStep("envelope", "There is none yet.", is_checked=False)
        signed = pae(statement)
        digest = hashlib.sha256(signed).hexdigest()
        parts = []
        for kept in self._proof.signatures:
            key = self._cluster.public_key(kept.replica)
            is_replica = self._cluster.replica_index(kept.replica) is not None
            is_good = key is not None and is_replica and self._verify(key, signed, kept.signature)
            problem = None if is_good else "its signature does not hold"
            parts.append(ProofPart(kept.replica, "signed the statement", digest, problem))
        good = {part.signer for part in parts if part.problem is None}
        weak = self._cluster.quorums.weak
        text = f"{counted(len(good), 'replica')} signed the statement; {weak} prove it."
        problem = None if len(good) >= weak else "these are too few"
        return ProofStep("envelope", text, digest, tuple(parts), problem)

    @property
    def _size(self) -> int:
        return self._cluster.quorums.replicas

    def _contradicting(self, verdict: VerdictFields) -> list[str]:
        """Whose ballot here is not what the verdict says of it."""
        return [
            replica
            for replica, cast in self._cast().items()
            if replica in verdict.agreeing
            and isinstance(cast, CastBallot)
            and (
                isinstance(cast.ballot, Abstain)
                or cast.ballot.compared.outcome is not verdict.outcome
                or cast.ballot.compared.exit_code != verdict.exit_code
            )
        ]

    def _cast(self) -> dict[str, CastBallot | None]:
        found: dict[str, CastBallot | None] = {}
        for kept in self._proof.ballots:
            read = self._read(kept.signed)
            found[kept.replica] = None if isinstance(read, str) else _cast_in(read[1])
        return found

    def _submitted(self) -> SubmitBuild | None:
        if self._proof.request is None:
            return None
        read = self._read(self._proof.request)
        if isinstance(read, str):
            return None
        try:
            operation = decode_operation(read[1].operation)
        except ValueError:
            return None
        return operation if isinstance(operation, SubmitBuild) else None

    def _read(self, data: bytes) -> tuple[Signed, Request] | str:
        """A signed request whose signature holds, or why it is none."""
        try:
            signed = decode_signed(data)
        except MalformedMessage as error:
            return str(error)
        message = self._authenticator.read(signed)
        if isinstance(message, Refusal):
            return message.reason
        if not isinstance(message, Request):
            return "it is no request"
        refusal = self._authenticator.check(signed, message)
        return (signed, message) if refusal is None else refusal.reason


def _cast_in(request: Request) -> CastBallot | None:
    try:
        operation = decode_operation(request.operation)
    except ValueError:
        return None
    return operation if isinstance(operation, CastBallot) else None


def _said(cast: CastBallot) -> str:
    ballot = cast.ballot
    if isinstance(ballot, Abstain):
        return "abstained"
    code = ballot.compared.exit_code
    outcome = ballot.compared.outcome.replace("_", " ")
    return outcome if code is None else f"{outcome}, exit code {code}"


def _voices(verdict: VerdictFields | None) -> frozenset[str] | None:
    """Who had cast a ballot by the verdict; None: there is none."""
    if verdict is None:
        return None
    found = (replica for value in verdict.found for replica in value.replicas)
    return frozenset((*found, *(abstention.replica for abstention in verdict.abstained)))


def _when(replica: str, before: frozenset[str], verdict: VerdictFields | None) -> str:
    if replica not in before:
        return ", after the verdict"
    agrees = verdict is not None and replica in verdict.agreeing
    return ", taken by the verdict" if agrees else ", before the verdict"
