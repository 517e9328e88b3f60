"""A replica's own provenance: its own finding, its own signature, of that build alone."""

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.operations import Artifact, Ballot, ImageDigest, Outcome
from ci.provenance import (
    PROVENANCE_TYPE,
    InvalidProvenance,
    builder_id,
    listed_inputs,
    provenance_bytes,
    provenance_mismatch,
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
from common.dependencies.lock_file import Tool
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import Stored
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
INPUTS = (
    Stored(Tool.PIP, "six", "1.0", "", "six.whl", f"sha256:{'1' * 64}", 1),
    Stored(
        *(Tool.GO, "example.org/x", "v1.0.0", "zip", "example.org!x/@v/v1.0.0.zip"),
        *("h1:" + base64.b64encode(bytes(32)).decode(), 1),
    ),
    Stored(
        *(Tool.FILES, "tool", "", "", "tool", f"sha512:{'2' * 128}", 1),
        url="https://example.org/tool",
    ),
)
BILL = bill_of_materials("https://example.org/r", COMMIT, INPUTS)
OTHER_BILL = bill_of_materials("https://example.org/r", COMMIT, INPUTS[:2])


@pytest.fixture(name="statement")
def fixture_statement(world: World) -> StatementView:
    return statement_of(world, PASSED)


def line(world: World, payload: bytes, signer: str = REPLICA) -> bytes:
    keyid = keyid_for(bytes(signing_key(signer).verify_key))
    signed = envelope(payload, [(keyid, signing_key(signer).sign(pae(payload)).signature)])
    return json.dumps(signed).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bill_artifact(bill: bytes) -> Artifact:
    return Artifact(BILL_OF_MATERIALS, sha256(bill), len(bill))


def statement_of(world: World, ballot: Ballot) -> StatementView:
    build = world.open(len(world.ledger))
    for index in range(3):
        world.cast(build, index, ballot)
    return parse_statement(bytes(world.verdict_entries()[-1].statement))


def payload_of(
    world: World, statement: StatementView, ballot: Ballot = PASSED, bill: bytes | None = None
) -> bytes:
    payload = provenance_bytes(world.cluster, statement, REPLICA, ballot=ballot, bill=bill)
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


def test_each_input_of_the_agreed_list_is_a_dependency(world: World) -> None:
    built = finding(artifacts=(bill_artifact(BILL),))
    statement = statement_of(world, built)
    payload = payload_of(world, statement, built, BILL)
    assert statement.subject[-1].name == BILL_OF_MATERIALS
    definition = json.loads(payload)["predicate"]["buildDefinition"]
    _, _, listed, *inputs = definition["resolvedDependencies"]
    assert listed == {"name": BILL_OF_MATERIALS, "digest": {"sha256": sha256(BILL)}}
    assert inputs == [
        {
            "name": "tool",
            "uri": "https://example.org/tool",
            "digest": {"sha512": "2" * 128},
        },
        {
            "name": "example.org!x/@v/v1.0.0.zip",
            "uri": "pkg:golang/example.org/x@v1.0.0?checksum=h1:" + "00" * 32 + "&type=module",
            # DigestSet v1.1, dirHash
            "digest": {"dirHash": "00" * 32},
        },
        {
            "name": "six.whl",
            "uri": f"pkg:pypi/six@1.0?checksum=sha256:{'1' * 64}&file_name=six.whl",
            "digest": {"sha256": "1" * 64},
        },
    ]
    found = verify_provenance(
        line(world, payload), REPLICA, statement, cluster=world.cluster, verify=verify
    )
    assert provenance_mismatch(found, statement, BILL) is None
    assert provenance_mismatch(found, statement, OTHER_BILL) is not None


def test_a_replica_without_the_list_names_it_and_no_input(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had removed its copy, if its copy is another list, and if there are too many."""
    built = finding(artifacts=(bill_artifact(BILL),))
    statement = statement_of(world, built)
    short = payload_of(world, statement, built)
    assert payload_of(world, statement, built, OTHER_BILL) == short
    monkeypatch.setattr("ci.provenance.PAYLOAD_BYTES_MAX", len(short))
    assert payload_of(world, statement, built, BILL) == short
    found = verify_provenance(
        line(world, short), REPLICA, statement, cluster=world.cluster, verify=verify
    )
    assert "no input" in str(provenance_mismatch(found, statement, BILL))


def test_a_file_of_an_earlier_version_that_is_no_list_is_named_alone(world: World) -> None:
    built = finding(artifacts=(bill_artifact(b"{}"),))
    statement = statement_of(world, built)
    assert payload_of(world, statement, built, b"{}") == payload_of(world, statement, built)


def test_what_is_no_list_is_refused() -> None:
    for data in (b"", b"[]", b'{"components": [{"hashes": [{"alg": "MD5", "content": ""}]}]}'):
        with pytest.raises(InvalidProvenance):
            listed_inputs(data)


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
