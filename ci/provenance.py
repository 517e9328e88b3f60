"""One replica's own SLSA v1 provenance of a build: what it, by itself, says that it ran.

The verdict's envelope says what the replicas agreed on; these lines say what each found, for
consumers who know SLSA and not us. A replica signs one for its own ordered finding alone, so
each line is worth as much as that replica. Times and ids of the machine are left out: they are
nobody's to check.
SLSA provenance v1 (buildDefinition, runDetails), in-toto Statement v1, DSSE v1.0.2.
"""

from typing import Annotated

import msgspec

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


_decoder = msgspec.json.Decoder(ProvenanceView)


def builder_id(cluster: Cluster, replica: str) -> str:
    """The name under which a replica builds; the verifier's trust is in (key, builder id)."""
    return f"urn:pbft-ci:{cluster.lineage.hex()}:{replica}"


def provenance_bytes(
    cluster: Cluster, statement: StatementView, replica: str, *, ballot: Ballot
) -> bytes | None:
    """What this replica signs about its own ballot in the build of that verdict.

    None where there is nothing to say: an abstention, or a finding without a commit.
    """
    if isinstance(ballot, Abstain) or ballot.compared.commit is None:
        return None
    compared, evidence, verdict = ballot.compared, ballot.evidence, statement.verdict
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
                resolved_dependencies=_dependencies(verdict, compared),
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
    return msgspec.json.encode(provenance)


def verify_provenance(
    data: bytes, replica: str, statement: StatementView, *, cluster: Cluster, verify: Verify
) -> ProvenanceView:
    """What this envelope (JSON) says, if it is that replica's word about that verdict's build.

    Raises InvalidProvenance.
    """
    try:
        payload, signers = open_envelope(data, cluster, verify)
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


def _dependencies(verdict: VerdictFields, compared: ResultKey) -> tuple[Resource, ...]:
    assert compared.commit is not None
    uri = f"git+{verdict.repository}@{verdict.full_ref}"
    dependencies = [Resource(uri=uri, digest={"gitCommit": compared.commit})]
    name, separator, digest = (compared.only_image_digest or "").rpartition("@sha256:")
    if separator:
        dependencies.append(Resource(uri=f"docker:{name}", digest={"sha256": digest}))
    dependencies += (
        Resource(uri=f"docker:{image.name}", digest={"sha256": image.digest[len("sha256:") :]})
        for image in compared.images
        if image.digest is not None
    )
    if compared.pipeline_sha256 is not None:
        dependencies.append(Resource(name="pipeline", digest={"sha256": compared.pipeline_sha256}))
    return tuple(dependencies)


def _subjects(compared: ResultKey) -> tuple[Subject, ...]:
    assert compared.commit is not None
    return (
        Subject("commit", {"gitCommit": compared.commit}),
        *(Subject(made.path, {"sha256": made.sha256}) for made in compared.artifacts),
    )
