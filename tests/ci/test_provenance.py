"""A replica's own provenance: its own finding, its own signature, of that build alone."""

import json
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from ci.operations import Ballot, ImageDigest, Outcome
from ci.provenance import (
    PROVENANCE_TYPE,
    InvalidProvenance,
    builder_id,
    provenance_bytes,
    verify_provenance,
)
from ci.statement import (
    InvalidEnvelope,
    StatementView,
    envelope,
    keyid_for,
    pae,
    parse_statement,
    verify_envelope,
)
from tests.ci.builders import (
    ABSTAIN,
    COMMIT,
    FAILED,
    PASSED,
    PIPELINE_SHA256,
    World,
    finding,
    signing_key,
    verify,
)

REPLICA = "replica-1"
IMAGE = "registry.example/tools/python"


@pytest.fixture(name="statement")
def fixture_statement(world: World) -> StatementView:
    build = world.open()
    for index in range(3):
        world.cast(build, index, PASSED)
    return parse_statement(bytes(world.verdict_entries()[0].statement))


def line(world: World, payload: bytes, signer: str = REPLICA) -> bytes:
    keyid = keyid_for(bytes(signing_key(signer).verify_key))
    signed = envelope(payload, [(keyid, signing_key(signer).sign(pae(payload)).signature)])
    return json.dumps(signed).encode()


def payload_of(world: World, statement: StatementView, ballot: Ballot = PASSED) -> bytes:
    payload = provenance_bytes(world.cluster, statement, REPLICA, ballot=ballot)
    assert payload is not None
    return payload


def test_the_library_of_in_toto_reads_the_verdict_and_the_provenance(
    world: World, statement: StatementView
) -> None:
    """Every key is one that the messages of in-toto and SLSA have; unknown ones are refused."""
    verdict = bytes(world.verdict_entries()[0].statement)
    images = (ImageDigest(IMAGE, f"sha256:{'d' * 64}"),)
    for payload in (verdict, payload_of(world, statement, finding(image_digest=images))):
        read = Statement.copy_from_pb(json_format.Parse(payload, StatementMessage()))
        read.validate()
    # SLSA has consumers ignore an extension's key, and ours is the only one
    said = json.loads(payload)["predicate"]
    assert set(said) == {"buildDefinition", "runDetails", "pbftci_finding"}
    del said["pbftci_finding"]
    predicate = json_format.ParseDict(said, Provenance())
    listed = predicate.build_definition.resolved_dependencies
    digests = [dict(each.digest) for each in listed]
    assert {"gitCommit": COMMIT} in digests
    assert {"sha256": "d" * 64} in digests
    assert predicate.run_details.builder.id == builder_id(world.cluster, REPLICA)


def test_it_has_the_fields_that_slsa_demands(world: World, statement: StatementView) -> None:
    """SLSA provenance v1, L1: buildType, externalParameters, builder.id; subjects with digests."""
    found = finding(image_digest=f"{IMAGE}@sha256:{'1' * 64}")
    provenance: dict[str, Any] = json.loads(payload_of(world, statement, found))
    assert provenance["predicateType"] == PROVENANCE_TYPE
    assert provenance["subject"] == [{"name": "commit", "digest": {"gitCommit": COMMIT}}]
    definition = provenance["predicate"]["buildDefinition"]
    assert definition["buildType"]
    verdict = statement.verdict
    assert definition["externalParameters"]["repository"] == verdict.repository
    source, image, pipeline = definition["resolvedDependencies"]
    assert source["uri"] == f"git+{verdict.repository}@refs/heads/{verdict.branch}"
    assert source["digest"] == {"gitCommit": COMMIT}
    assert image == {"uri": f"docker:{IMAGE}", "digest": {"sha256": "1" * 64}}
    assert pipeline["digest"] == {"sha256": PIPELINE_SHA256}
    details = provenance["predicate"]["runDetails"]
    assert details["builder"]["id"] == builder_id(world.cluster, REPLICA)
    assert details["byproducts"][0]["digest"]["sha256"] == PASSED.evidence.log_sha256


def test_each_image_of_a_build_in_several_is_a_dependency(
    world: World, statement: StatementView
) -> None:
    """One that was made locally has no digest, so there is nothing to name."""
    images = (ImageDigest("a:1", "sha256:" + "1" * 64), ImageDigest("b", None))
    provenance = json.loads(payload_of(world, statement, finding(image_digest=images)))
    listed = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [entry["uri"] for entry in listed if entry.get("uri", "").startswith("docker:")] == [
        "docker:a:1"
    ]
    assert {"uri": "docker:a:1", "digest": {"sha256": "1" * 64}} in listed


def test_a_dissenter_says_what_it_found_itself(world: World, statement: StatementView) -> None:
    data = line(world, payload_of(world, statement, FAILED))
    found = verify_provenance(
        data, REPLICA, statement, cluster=world.cluster, verify=verify
    ).predicate.finding
    assert (found.outcome, found.exit_code) == (Outcome.FAILED, 1)


def test_nothing_is_said_without_a_finding_about_a_commit(
    world: World, statement: StatementView
) -> None:
    no_commit = finding(Outcome.CHECKOUT_FAILED, 128, commit=None, pipeline_sha256=None)
    for ballot in (ABSTAIN, no_commit):
        assert provenance_bytes(world.cluster, statement, REPLICA, ballot=ballot) is None


def test_only_the_replica_itself_can_say_it(world: World, statement: StatementView) -> None:
    payload = payload_of(world, statement)
    with pytest.raises(InvalidProvenance, match="not signed by replica-1"):
        verify_provenance(
            line(world, payload, "replica-2"),
            REPLICA,
            statement,
            cluster=world.cluster,
            verify=verify,
        )
    with pytest.raises(InvalidProvenance, match="another builder"):
        verify_provenance(
            line(world, payload, "replica-2"),
            "replica-2",
            statement,
            cluster=world.cluster,
            verify=verify,
        )


def test_it_is_about_that_build_alone(world: World, statement: StatementView) -> None:
    data = line(world, payload_of(world, statement))
    other = msgspec.structs.replace(statement.verdict, opened=99)
    predicate = msgspec.structs.replace(statement.predicate, verdict=other)
    with pytest.raises(InvalidProvenance, match="another build"):
        verify_provenance(
            data,
            REPLICA,
            msgspec.structs.replace(statement, predicate=predicate),
            cluster=world.cluster,
            verify=verify,
        )


def test_a_changed_byte_of_the_payload_is_noticed(world: World, statement: StatementView) -> None:
    payload = payload_of(world, statement)
    signed = json.loads(line(world, payload))
    for place in range(0, len(signed["payload"]), 7):
        text = signed["payload"]
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(InvalidProvenance):
            verify_provenance(
                json.dumps({**signed, "payload": changed}).encode(),
                REPLICA,
                statement,
                cluster=world.cluster,
                verify=verify,
            )


def test_it_never_passes_for_a_verdict(world: World, statement: StatementView) -> None:
    """The same keys sign both; f+1 equal provenance lines would still be no verdict."""
    payload = payload_of(world, statement)
    names = ["replica-0", "replica-1", "replica-2"]
    signatures = [
        (keyid_for(bytes(signing_key(n).verify_key)), signing_key(n).sign(pae(payload)).signature)
        for n in names
    ]
    with pytest.raises(InvalidEnvelope):
        verify_envelope(json.dumps(envelope(payload, signatures)).encode(), world.cluster, verify)
