"""One replica's own SLSA v1 provenance of a build: what it, by itself, says that it ran.

The verdict's envelope says what the replicas agreed on; these lines say what each found, for
consumers who know SLSA and not us. A replica signs one for its own ordered finding alone, so
each line is worth as much as that replica. Times and ids of the machine are left out: they are
nobody's to check.

What went in by lock files is in the list that the replicas agreed on (`ci.artifact_rules`). A line
names the list, and behind it each input, in the list's order. So whoever has verdict and list knows
what each line must say. A line has no inputs if the replica has no list any more, or if the line
would be longer than PAYLOAD_BYTES_MAX; the list's digest stands for them.
SLSA provenance v1 (buildDefinition, runDetails), in-toto Statement v1, DSSE v1.0.2.
"""

import base64
import hashlib
from typing import Annotated

import msgspec

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.operations import Abstain, Ballot, Outcome, ResultKey
from ci.statement import (
    STATEMENT_TYPE,
    InvalidEnvelope,
    StatementView,
    Subject,
    VerdictFields,
    open_envelope,
)
from pbft.genesis import Cluster
from pbft.ports import Verify

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pbft-ci:build:v1"
# some 30,000 inputs; base64 takes a third more
PAYLOAD_BYTES_MAX = 11 * 2**20
LINE_BYTES_MAX = 16 * 2**20
_ALGORITHMS = {"SHA-256": "sha256", "SHA-512": "sha512"}
_GO_PREFIX = "h1:"


class InvalidProvenance(ValueError):
    """A line that proves nothing; the text says why."""


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ResourceDescriptor. `digest`: algorithm -> hex."""

    digest: dict[str, str]
    name: str = ""
    uri: str = ""


class BuildDefinition(msgspec.Struct, frozen=True, rename="camel"):
    """What was to be built: the repository, and the branch as it was asked for."""

    build_type: str
    external_parameters: dict[str, str]
    internal_parameters: dict[str, str]
    resolved_dependencies: tuple[Resource, ...]


class Builder(msgspec.Struct, frozen=True):
    """Who built: `urn:pbft-ci:<cluster id>:<replica>`."""

    id: str
    version: dict[str, str]


class RunDetails(msgspec.Struct, frozen=True):
    """Who ran it, and what came out beside the subjects: the log."""

    builder: Builder
    metadata: dict[str, str]
    byproducts: tuple[Resource, ...]


class FindingFields(msgspec.Struct, frozen=True, rename="camel"):
    """Our extension: what the replica found, of which build."""

    build: str
    opened: int
    outcome: Outcome
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None


class ProvenancePredicate(msgspec.Struct, frozen=True, rename="camel"):
    """SLSA provenance v1, and our extension."""

    build_definition: BuildDefinition
    run_details: RunDetails
    finding: FindingFields = msgspec.field(name="pbftci_finding")


class ProvenanceView(msgspec.Struct, frozen=True):
    """The whole statement, for writing and reading."""

    type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: ProvenancePredicate


class _Hash(msgspec.Struct, frozen=True):
    alg: str
    content: str


class _Property(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Reference(msgspec.Struct, frozen=True):
    url: str


class _Component(msgspec.Struct, frozen=True, rename="camel"):
    purl: str = ""
    hashes: tuple[_Hash, ...] = ()
    external_references: tuple[_Reference, ...] = ()
    properties: tuple[_Property, ...] = ()


class _Bill(msgspec.Struct, frozen=True):
    components: tuple[_Component, ...]


_decoder = msgspec.json.Decoder(ProvenanceView)
_bill_decoder = msgspec.json.Decoder(_Bill)


def builder_id(cluster: Cluster, replica: str) -> str:
    """The name under which a replica builds; the verifier's trust is in (key, builder id)."""
    return f"urn:pbft-ci:{cluster.lineage.hex()}:{replica}"


def provenance_bytes(
    cluster: Cluster,
    statement: StatementView,
    replica: str,
    *,
    ballot: Ballot,
    bill: bytes | None = None,
) -> bytes | None:
    """What this replica signs about its own ballot in the build of that verdict.

    bill: its copy of the list of what went in. It counts if it is the list of the ballot.
    None where there is nothing to say: an abstention, or a finding without a commit.
    """
    if isinstance(ballot, Abstain) or (commit := ballot.compared.commit) is None:
        return None
    compared, evidence, verdict = ballot.compared, ballot.evidence, statement.verdict
    ran = _Ran(
        commit=commit,
        image_digest=compared.only_image_digest,
        images=tuple((image.name, image.digest) for image in compared.images),
        pipeline_sha256=compared.pipeline_sha256,
        bill_sha256={a.path: a.sha256 for a in compared.artifacts}.get(BILL_OF_MATERIALS),
    )
    dependencies = _dependencies(verdict, ran)
    provenance = ProvenanceView(
        type=STATEMENT_TYPE,
        subject=_subjects(compared),
        predicate_type=PROVENANCE_TYPE,
        predicate=ProvenancePredicate(
            build_definition=BuildDefinition(
                build_type=BUILD_TYPE,
                external_parameters={
                    "repository": verdict.repository,
                    "ref": verdict.full_ref,
                    "event": verdict.event,
                },
                internal_parameters={},
                resolved_dependencies=dependencies,
            ),
            run_details=RunDetails(
                builder=Builder(builder_id(cluster, replica), {"pbft-ci": evidence.version}),
                metadata={"invocationId": f"{verdict.build}-{verdict.opened}"},
                byproducts=(Resource(name="log", digest={"sha256": evidence.log_sha256}),),
            ),
            finding=FindingFields(
                build=verdict.build,
                opened=verdict.opened,
                outcome=compared.outcome,
                exit_code=compared.exit_code,
            ),
        ),
    )
    if bill is None or hashlib.sha256(bill).hexdigest() != ran.bill_sha256:
        return msgspec.json.encode(provenance)
    try:
        full = msgspec.json.encode(_with_inputs(provenance, listed_inputs(bill)))
    except InvalidProvenance:  # in earlier versions, a build could make any file of that name
        return msgspec.json.encode(provenance)
    return full if len(full) <= PAYLOAD_BYTES_MAX else msgspec.json.encode(provenance)


def listed_inputs(bill: bytes) -> tuple[Resource, ...]:
    """The inputs of the list, in its order. Raises InvalidProvenance if it is none."""
    try:
        components = _bill_decoder.decode(bill).components
        return tuple(_input(component) for component in components)
    except (ValueError, KeyError, RecursionError) as error:
        raise InvalidProvenance(f"not a list of what went in: {error}") from error


def provenance_mismatch(
    found: ProvenanceView, statement: StatementView, bill: bytes | None
) -> str | None:
    """Why this line does not name exactly what the agreed build ran with; None: it does.

    found: verified, of one of the replicas that agree. bill: the agreed list of what went in (its
    digest is checked by the caller); None: there is none. Raises InvalidProvenance.
    """
    verdict = statement.verdict
    values = [each for each in verdict.found if set(verdict.agreeing) & set(each.replicas)]
    if not values or (value := values[0]).commit is None:
        return "the replicas agreed on no commit"
    ran = _Ran(
        commit=value.commit,
        image_digest=value.image_digest,
        images=tuple((image.name, image.digest) for image in value.images or ()),
        pipeline_sha256=value.pipeline_sha256,
        bill_sha256={a.path: a.sha256 for a in verdict.artifacts}.get(BILL_OF_MATERIALS),
    )
    wanted = _dependencies(verdict, ran)
    listed = found.predicate.build_definition.resolved_dependencies
    if bill is not None and listed == wanted:
        return "it names the list of what went in, and no input"
    if bill is not None:
        wanted += listed_inputs(bill)
    return None if listed == wanted else "its resolvedDependencies are not those of the verdict"


def signer_of(data: bytes, cluster: Cluster, verify: Verify) -> str:
    """Which replica signed this line (JSON). Raises InvalidProvenance if none did."""
    try:
        _, signers = open_envelope(data, cluster, verify, bytes_max=LINE_BYTES_MAX)
    except InvalidEnvelope as error:
        raise InvalidProvenance(str(error)) from error
    if not signers:
        raise InvalidProvenance("no replica of this cluster signed it")
    return next(iter(signers))


def verify_provenance(
    data: bytes, replica: str, statement: StatementView, *, cluster: Cluster, verify: Verify
) -> ProvenanceView:
    """What this envelope (JSON) says, if it is that replica's word about that verdict's build.

    Raises InvalidProvenance.
    """
    try:
        payload, signers = open_envelope(data, cluster, verify, bytes_max=LINE_BYTES_MAX)
    except InvalidEnvelope as error:
        raise InvalidProvenance(str(error)) from error
    if replica not in signers:
        raise InvalidProvenance(f"not signed by {replica}")
    try:
        provenance = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidProvenance(str(error)) from error
    if provenance.type != STATEMENT_TYPE or provenance.predicate_type != PROVENANCE_TYPE:
        raise InvalidProvenance("not an in-toto v1 statement with SLSA provenance")
    if provenance.predicate.run_details.builder.id != builder_id(cluster, replica):
        raise InvalidProvenance("it names another builder")
    found, verdict = provenance.predicate.finding, statement.verdict
    if (found.build, found.opened) != (verdict.build, verdict.opened):
        raise InvalidProvenance("it is about another build")
    return provenance


class _Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a build ran with, as a ballot has it, or a statement."""

    commit: str
    image_digest: str | None
    images: tuple[tuple[str, str | None], ...]
    pipeline_sha256: str | None
    bill_sha256: str | None


def _dependencies(verdict: VerdictFields, ran: _Ran) -> tuple[Resource, ...]:
    uri = f"git+{verdict.repository}@{verdict.full_ref}"
    dependencies = [Resource(uri=uri, digest={"gitCommit": ran.commit})]
    name, separator, digest = (ran.image_digest or "").rpartition("@sha256:")
    if separator:
        dependencies.append(Resource(uri=f"docker:{name}", digest={"sha256": digest}))
    dependencies += (
        Resource(uri=f"docker:{image}", digest={"sha256": digest[len("sha256:") :]})
        for image, digest in ran.images
        if digest is not None
    )
    if ran.pipeline_sha256 is not None:
        dependencies.append(Resource(name="pipeline", digest={"sha256": ran.pipeline_sha256}))
    if ran.bill_sha256 is not None:
        dependencies.append(Resource(name=BILL_OF_MATERIALS, digest={"sha256": ran.bill_sha256}))
    return tuple(dependencies)


def _with_inputs(provenance: ProvenanceView, inputs: tuple[Resource, ...]) -> ProvenanceView:
    definition = provenance.predicate.build_definition
    complete = msgspec.structs.replace(
        definition, resolved_dependencies=definition.resolved_dependencies + inputs
    )
    predicate = msgspec.structs.replace(provenance.predicate, build_definition=complete)
    return msgspec.structs.replace(provenance, predicate=predicate)


def _input(component: _Component) -> Resource:
    """A component as in-toto names it. Raises ValueError, KeyError."""
    properties = {each.name: each.value for each in component.properties}
    digest = {_ALGORITHMS[each.alg]: each.content for each in component.hashes}
    go_digest = properties.get("pbft-ci:go-h1")
    if go_digest is not None:
        # DigestSet v1.1: the hash of Go's modules, in hexadecimal
        raw = base64.b64decode(go_digest.removeprefix(_GO_PREFIX), validate=True)
        digest["dirHash"] = raw.hex()
    urls = (reference.url for reference in component.external_references)
    return Resource(
        digest=digest,
        name=properties.get("pbft-ci:file", ""),
        uri=component.purl or next(urls, ""),
    )


def _subjects(compared: ResultKey) -> tuple[Subject, ...]:
    assert compared.commit is not None
    return (
        Subject("commit", {"gitCommit": compared.commit}),
        *(Subject(made.path, {"sha256": made.sha256}) for made in compared.artifacts),
    )
