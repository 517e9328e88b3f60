"""Statements and envelopes: what stands in them, and who can verify them."""

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from securesystemslib.dsse import Envelope as IndependentEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]
from securesystemslib.signer._utils import compute_default_keyid

from ci.artifact_rules import artifacts_sha256
from ci.ledger import RecordedImage, recorded_artifacts
from ci.limits import Limits
from ci.operations import (
    IMAGES_MAX,
    Abstain,
    Agreement,
    Ballot,
    BuildResult,
    Event,
    ImageDigest,
    Outcome,
    Step,
)
from ci.policy import Policy, mismatches
from ci.stated_cases import NAMES_BYTES_MAX
from ci.statement import (
    ENVELOPE_BYTES_MAX,
    FOUND_ARTIFACTS_MAX,
    OUTCOME_TYPE,
    PAYLOAD_TYPE,
    SIGNATURES_MAX,
    TEST_RESULT_TYPE,
    Abstention,
    InvalidEnvelope,
    InvalidStatement,
    build_id_for,
    envelope,
    keyid_for,
    pae,
    parse_statement,
    verify_envelope,
)
from pbft.genesis import Cluster
from pbft.messages import REQUEST_BYTES_MAX
from tests.ci.builders import (
    ABSTAIN,
    COMMIT,
    FAILED,
    GATEWAY,
    OPERATOR,
    PASSED,
    PIPELINE_SHA256,
    SKIPPED,
    TIMED_OUT,
    World,
    artifact,
    cluster_of,
    finding,
    reported,
    signing_key,
    verify,
)


def statement_after(world: World, *ballots: Ballot, **asked: object) -> bytes:
    """The statement on a build with these ballots, of which the last must decide."""
    build = world.open(**asked)  # type: ignore[arg-type]
    for index, ballot in enumerate(ballots):
        assert not world.verdict_entries(), "decided before the last ballot"
        world.cast(build, index, ballot)
    return bytes(world.verdict_entries()[0].statement)


def signed_by(cluster: Cluster, statement: bytes, names: list[str]) -> dict[str, Any]:
    return dict(
        envelope(
            statement,
            [
                (
                    keyid_for(cluster.public_key(name) or b""),
                    signing_key(name).sign(pae(statement)).signature,
                )
                for name in names
            ],
        )
    )


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(name="statement")
def fixture_statement(world: World) -> bytes:
    return statement_after(world, PASSED, PASSED, PASSED)


def test_a_green_statement_says_all_of_it(world: World) -> None:
    head = world.application.ledger_head
    steps = (Step("test", True), Step("release", False))
    green, red = finding(steps=steps), finding(Outcome.FAILED, 1)
    statement = json.loads(
        statement_after(world, green, red, green, green, public_url="https://ci.example.org/x")
    )
    entry = world.verdict_entries()[0]
    assert statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "request", "digest": {"sha256": entry.askers[0].request_sha256}},
            {"name": "commit", "digest": {"gitCommit": COMMIT}},
        ],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": "PASSED",
            "configuration": [{"name": "pipeline", "digest": {"sha256": PIPELINE_SHA256}}],
            "url": f"https://ci.example.org/x/builds/{entry.build}",
            "pbftci_verdict": {
                "clusterId": world.cluster.id.hex(),
                "epoch": 0,
                "build": entry.build,
                "opened": 1,
                "repository": "https://example.org/r.git",
                "branch": "master",
                "commit": COMMIT,
                "ref": "refs/heads/master",
                "event": "push",
                "outcome": "passed",
                "exitCode": 0,
                "agreement": "default",
                "threshold": 3,
                "replicas": 4,
                "agreeing": ["replica-0", "replica-2", "replica-3"],
                "artifacts": [],
                "found": [
                    {
                        "outcome": "passed",
                        "exitCode": 0,
                        "commit": COMMIT,
                        "pipelineSha256": PIPELINE_SHA256,
                        "imageDigest": None,
                        "agreement": "default",
                        "artifactsSha256": None,
                        "artifacts": [],
                        "replicas": ["replica-0", "replica-2", "replica-3"],
                        "stepsSha256": hashlib.sha256(msgspec.msgpack.encode(steps)).hexdigest(),
                    },
                    {
                        "outcome": "failed",
                        "exitCode": 1,
                        "commit": COMMIT,
                        "pipelineSha256": PIPELINE_SHA256,
                        "imageDigest": None,
                        "agreement": "default",
                        "artifactsSha256": None,
                        "artifacts": [],
                        "replicas": ["replica-1"],
                        "stepsSha256": None,
                    },
                ],
                "abstained": [],
                "withoutBallot": [],
                "ledgerIndex": 1,
                "previousHead": head.hex(),
                "pipelineSha256": PIPELINE_SHA256,
                "steps": [
                    {"name": "test", "state": "ran"},
                    {"name": "release", "state": "skipped by when"},
                ],
            },
        },
    }


def test_of_a_step_whose_failure_is_ignored_no_statement_says_that_it_passed(
    world: World,
) -> None:
    steps = (Step("test", True), Step("lint", None), Step("release", False))
    green = finding(steps=steps)
    view = parse_statement(statement_after(world, green, green, green))
    assert view.verdict.outcome is Outcome.PASSED
    assert [step.state for step in view.verdict.steps] == [
        "ran",
        "may have failed",
        "skipped by when",
    ]
    assert mismatches(view, Policy(steps=("test",))) == []
    (mismatch,) = mismatches(view, Policy(steps=("test", "lint")))
    assert "lint may have failed" in mismatch


@pytest.mark.parametrize(
    ("outcome", "exit_code"), [("failed", 1), ("timed_out", None), ("out_of_memory", None)]
)
def test_what_was_tested_and_did_not_pass_is_a_failed_test_result(
    world: World, outcome: str, exit_code: int | None
) -> None:
    """Of its steps nobody says that they ran: the build may have ended before."""
    steps = (Step("test", True), Step("release", False), Step("lint", None))
    red = finding(Outcome(outcome), exit_code, steps=steps)
    view = parse_statement(statement_after(world, red, red))
    assert (view.predicate_type, view.predicate.result) == (TEST_RESULT_TYPE, "FAILED")
    assert view.predicate.configuration[0].digest == {"sha256": PIPELINE_SHA256}
    states = [step.state for step in view.verdict.steps]
    assert states == ["selected", "skipped by when", "selected"]


@pytest.mark.parametrize(
    "found",
    [
        SKIPPED,
        finding(Outcome.CHECKOUT_FAILED, 128, pipeline_sha256=None),
        finding(Outcome.PIPELINE_INVALID, None),
        finding(Outcome.IMAGE_UNAVAILABLE, None),
    ],
)
def test_where_nothing_was_tested_there_is_no_test_result(world: World, found: BuildResult) -> None:
    statement = statement_after(world, found, found)
    view = parse_statement(statement)
    assert view.predicate_type == OUTCOME_TYPE
    assert json.loads(statement)["predicate"].keys() == {"pbftci_verdict"}
    assert view.verdict.outcome is found.compared.outcome
    assert view.verdict.pipeline_sha256 == found.compared.pipeline_sha256


def test_a_cancelled_build_is_no_failed_test(world: World) -> None:
    world.cancel(world.open(public_url="http://ci"), OPERATOR)
    predicate = json.loads(bytes(world.verdict_entries()[0].statement))["predicate"]
    assert predicate.keys() == {"pbftci_verdict", "url"}
    assert predicate["pbftci_verdict"]["outcome"] == "cancelled"


def test_a_pull_requests_statement_names_its_ref_and_its_target(world: World) -> None:
    asked = {"event": Event.PULL_REQUEST, "ref": "refs/pull/7/head"}
    verdict = parse_statement(statement_after(world, PASSED, PASSED, PASSED, **asked)).verdict
    assert (verdict.event, verdict.full_ref) == (Event.PULL_REQUEST, "refs/pull/7/head")
    assert verdict.target == "refs/heads/master"


def test_a_statement_of_the_version_before_is_read(world: World, statement: bytes) -> None:
    """Its ref is None for a branch, and every outcome was a test result."""
    new = json.loads(statement)
    verdict = new["predicate"]["pbftci_verdict"]
    assert verdict.pop("pipelineSha256") == PIPELINE_SHA256
    for value in verdict["found"]:
        del value["stepsSha256"]
    verdict["ref"] = None
    old = parse_statement(as_json(new)).verdict
    assert (old.full_ref, old.steps, old.target) == ("refs/heads/master", (), None)
    verdict["outcome"], new["predicate"]["result"] = "cancelled", "FAILED"
    new["predicate"]["configuration"] = []
    assert parse_statement(as_json(new)).verdict.outcome is Outcome.CANCELLED


def test_a_dispute_says_who_found_what(world: World) -> None:
    view = parse_statement(statement_after(world, PASSED, ABSTAIN, FAILED, TIMED_OUT))
    assert (view.predicate_type, view.predicate.result) == (OUTCOME_TYPE, None)
    assert view.verdict.outcome is Outcome.DISPUTED
    assert (view.verdict.exit_code, view.verdict.threshold) == (None, None)
    assert view.verdict.agreeing == ()
    assert [(value.outcome, value.replicas) for value in view.verdict.found] == [
        (Outcome.PASSED, ("replica-0",)),
        (Outcome.FAILED, ("replica-2",)),
        (Outcome.TIMED_OUT, ("replica-3",)),
    ]
    assert view.verdict.abstained == (Abstention("replica-1", "no engine"),)
    assert view.verdict.without_ballot == ()
    assert [subject.name for subject in view.subject] == ["request"]
    assert view.predicate.configuration == ()


def test_a_dispute_names_the_state_of_every_replica(world: World) -> None:
    build = world.open()
    world.cast(build, 3, PASSED)
    world.cast(build, 1, Abstain("disk full\n" + "\0" * 300))
    for index in (0, 1, 3):
        world.report(build, index)
    verdict = parse_statement(world.find_statement(build) or b"").verdict
    assert verdict.outcome is Outcome.DISPUTED
    assert (verdict.agreement, verdict.artifacts) == (None, ())
    assert [value.replicas for value in verdict.found] == [("replica-3",)]
    assert verdict.abstained == (Abstention("replica-1", "disk full" + " " * 191),)
    assert verdict.without_ballot == ("replica-0", "replica-2")


def test_agreed_artifacts_are_subjects_and_found_ones_are_listed(world: World) -> None:
    one, other = (artifact("dist/a b.tar", content) for content in (b"1", b"22"))
    made, differs = finding(artifacts=(artifact("a"), one)), finding(artifacts=(other,))
    view = parse_statement(statement_after(world, made, differs, made, made))
    assert [(subject.name, subject.digest) for subject in view.subject[2:]] == [
        ("a", {"sha256": artifact("a").sha256}),
        ("dist/a b.tar", {"sha256": one.sha256}),
    ]
    verdict = view.verdict
    assert verdict.outcome is Outcome.PASSED
    assert verdict.artifacts == recorded_artifacts(made.compared.artifacts)
    assert [(value.replicas, value.artifacts) for value in verdict.found] == [
        (("replica-0", "replica-2", "replica-3"), verdict.artifacts),
        (("replica-1",), recorded_artifacts([other])),
    ]
    assert verdict.found[1].artifacts_sha256 == artifacts_sha256((other,))


def test_a_dispute_about_artifacts_has_no_artifact_as_its_subject(world: World) -> None:
    ones = [finding(artifacts=(artifact("a", b"%d" % index),)) for index in range(3)]
    view = parse_statement(statement_after(world, *ones))
    assert view.verdict.outcome is Outcome.DISPUTED
    assert [subject.name for subject in view.subject] == ["request"]
    assert [value.artifacts[0].sha256 for value in view.verdict.found] == [
        artifact("a", b"%d" % index).sha256 for index in range(3)
    ]


@pytest.mark.parametrize(("is_allowed", "needed"), [(True, 2), (False, 3)])
def test_the_rule_that_the_pipeline_asked_for_is_in_the_statement(
    is_allowed: bool, needed: int
) -> None:
    limits = Limits(weak_agreement_allowed=is_allowed)
    world = World(cluster_of(4, limits), limits)
    weak = finding(agreement=Agreement.WEAK)
    verdict = parse_statement(statement_after(world, FAILED, *[weak] * needed)).verdict
    assert (verdict.agreement, verdict.threshold) == (Agreement.WEAK, needed)


def test_agreed_test_cases_are_in_a_test_result(world: World) -> None:
    cases = {"a::x": "passed", "a::y": "warned", "b": "skipped"}
    green = reported(PASSED, cases)
    flaky = reported(FAILED, {**cases, "a::x": "failed"})
    statement = statement_after(world, green, flaky, green, green)
    raw = json.loads(statement)["predicate"]
    assert list(raw) == [
        "result", "configuration", "passedTests", "warnedTests", "pbftci_verdict"
    ]  # fmt: skip
    assert (raw["result"], raw["passedTests"], raw["warnedTests"]) == ("WARNED", ["a::x"], ["a::y"])
    assert raw["pbftci_verdict"]["tests"] == {
        "reportSha256": green.tests.report_sha256,
        "setSha256": green.tests.set_sha256,
        "total": 3,
        "passed": 1,
        "failed": 0,
        "skipped": 1,
        "warned": 1,
        "unsettled": [],
        "listed": "all",
        "reports": 4,
        "setsDiffer": False,
        "quarantined": 0,
    }
    assert parse_statement(statement).predicate.passed_tests == ("a::x",)
    for old, new in (("WARNED", "PASSED"), ("WARNED", "FAILED")):
        with pytest.raises(InvalidStatement, match="contradict"):
            parse_statement(statement.replace(old.encode(), new.encode(), 1))


def test_a_red_statement_names_the_cases_that_failed_on_f_plus_1(world: World) -> None:
    one = reported(FAILED, {"x": "failed", "y": "passed", "z": "failed"})
    other = reported(FAILED, {"x": "failed", "y": "passed", "z": "passed"})
    view = parse_statement(statement_after(world, one, PASSED, other))
    assert (view.predicate.result, view.predicate.failed_tests) == ("FAILED", ("x",))
    tests = view.verdict.tests
    assert tests is not None
    assert (tests.report_sha256, tests.total, tests.passed, tests.failed) == (None, None, None, 1)
    assert (tests.unsettled, tests.listed, tests.reports) == (("z",), "some", 2)


def test_what_tested_nothing_has_no_test_cases(world: World) -> None:
    """Though a replica reported some: the others agree that nothing ran to an end."""
    nothing = finding(Outcome.IMAGE_UNAVAILABLE, None)
    statement = statement_after(world, reported(FAILED, {"a": "failed"}), nothing, nothing)
    assert json.loads(statement)["predicate"].keys() == {"pbftci_verdict"}
    assert parse_statement(statement).verdict.tests is None


def test_the_names_of_test_cases_have_a_bound(world: World) -> None:
    """In the bytes of their JSON: a stranger chose them."""
    quoted = reported(FAILED, {f"{number:03}{chr(34) * 250}": "failed" for number in range(40)})
    view = parse_statement(statement_after(world, quoted, quoted))
    assert view.verdict.tests is not None
    assert view.verdict.tests.listed == "some"
    assert 20 < len(view.predicate.failed_tests) < 30
    assert len(msgspec.json.encode(view.predicate.failed_tests)) <= NAMES_BYTES_MAX
    short = reported(FAILED, {f"{number:03}": "failed" for number in range(200)})
    fresh = World()
    few = parse_statement(statement_after(fresh, short, short)).predicate.failed_tests
    assert few == tuple(f"{number:03}" for number in range(128))


def test_passed_cases_are_named_all_or_not_at_all(world: World) -> None:
    quoted = reported(PASSED, {f"{number:03}{chr(92) * 250}": "passed" for number in range(40)})
    view = parse_statement(statement_after(world, quoted, quoted, quoted))
    assert view.verdict.tests is not None
    assert (view.predicate.passed_tests, view.verdict.tests.listed) == ((), "not_passed")
    assert (view.verdict.tests.passed, view.predicate.result) == (40, "PASSED")


def test_the_images_of_a_build_in_several_are_in_statement_and_ledger() -> None:
    """With one image there is no such field, so the bytes are those of before."""
    world = World()
    images = (ImageDigest("a:1", "sha256:" + "1" * 64), ImageDigest("b", None))
    found = finding(image_digest=images)
    statement = statement_after(world, found, found, found)
    (value,) = parse_statement(statement).verdict.found
    assert value.image_digest is None
    recorded = (RecordedImage("a:1", "sha256:" + "1" * 64), RecordedImage("b", None))
    assert value.images == recorded
    (entry,) = world.verdict_entries()
    assert {ballot.images for ballot in entry.ballots} == {recorded}
    assert all(ballot.image_digest is None for ballot in entry.ballots)
    assert b"images" not in statement_after(World(), PASSED, PASSED, PASSED)


def test_the_longest_statement_fits_into_a_reply() -> None:
    """Sixty-four long paths each, everywhere another value, or the longest reasons."""
    # of so many, a larger window would have NEW-VIEWs that nobody could send
    world = World(cluster_of(64, checkpoint_interval=16))
    paths = sorted(f"{number:03}" + "x" * 252 for number in range(64))

    def ballot_of(index: int) -> Ballot:
        if index % 2:
            return Abstain('"' * 1024)
        made = tuple(artifact(path, b"%d" % index) for path in paths)
        return finding(image_digest=images, artifacts=made, steps=steps)

    images = tuple(
        ImageDigest(f"{number}" + '"' * 199, "sha256:" + "0" * 64) for number in range(IMAGES_MAX)
    )
    steps = tuple(Step(f"{number:02}" + "s" * 62, number == 1) for number in range(64))
    long_ref = "refs/heads/" + "\U0001f99c" * 255
    build = world.open(
        repository='"' * 1024,
        branch="\U0001f99c" * 255,
        ref=long_ref,
        public_url="http://" + '"' * 249,
    )
    for index in range(64):
        world.cast(build, index, ballot_of(index))
        if world.verdict_entries():
            break
    (verdict,) = world.verdict_entries()
    statement = bytes(verdict.statement)
    assert len(statement) < REQUEST_BYTES_MAX
    view = parse_statement(statement).verdict
    assert len(view.found) + len(view.abstained) + len(view.without_ballot) == 64
    assert sum(len(value.artifacts) for value in view.found) == FOUND_ARTIFACTS_MAX
    assert all(value.artifacts_sha256 for value in view.found)


def test_a_branch_that_does_not_exist_has_no_commit(world: World) -> None:
    missing = finding(Outcome.CHECKOUT_FAILED, 128, commit=None, pipeline_sha256=None)
    view = parse_statement(statement_after(world, missing, missing, branch="none", commit=None))
    assert view.verdict.exit_code == 128
    assert (view.verdict.branch, view.verdict.commit) == ("none", None)
    assert [subject.name for subject in view.subject] == ["request"]


def test_pae_of_the_specification() -> None:
    assert pae(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def test_build_ids_differ_by_cluster_client_and_identity() -> None:
    ids = {
        build_id_for(cluster, client, identity)
        for cluster in (b"1" * 32, b"2" * 32)
        for client in ("a", "b")
        for identity in (b"3" * 32, b"4" * 32)
    }
    assert len(ids) == 8
    assert {len(build_id) for build_id in ids} == {32}


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 5000, b"\xff", b" " * 300_000],
)
def test_strange_bytes_are_no_statement(data: bytes) -> None:
    with pytest.raises(InvalidStatement):
        parse_statement(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Statement/v1", b"Statement/v2"),
        (b"test-result/v0.1", b"test-result/v0.2"),
        (b'"result":"PASSED"', b'"result":"FAILED"'),
        (b'"outcome":"passed","exitCode":0,"agree', b'"outcome":"failed","exitCode":0,"agree'),
        (b'"result":"PASSED"', b'"result":"WARNED"'),
        (b'"result":"PASSED",', b""),
        (TEST_RESULT_TYPE.encode(), OUTCOME_TYPE.encode()),
    ],
)
def test_a_statement_that_contradicts_itself_is_none(
    statement: bytes, old: bytes, new: bytes
) -> None:
    assert old in statement
    with pytest.raises(InvalidStatement):
        parse_statement(statement.replace(old, new))


def test_unknown_fields_are_skipped(statement: bytes) -> None:
    more = json.loads(statement)
    more["predicate"]["other_vendor"] = {"a": 1}
    assert parse_statement(as_json(more)) == parse_statement(statement)


# --- securesystemslib, an independent verifier ----------------------------------------------------


def independent_keys(cluster: Cluster) -> list[Key]:
    keys: list[Key] = []
    for member in cluster.genesis.replicas:
        keyval = {"public": member.public_key.hex()}
        keyid = compute_default_keyid("ed25519", "ed25519", keyval)
        keys.append(SSlibKey(keyid, "ed25519", "ed25519", keyval))
    return keys


def test_securesystemslib_verifies_our_envelope(world: World, statement: bytes) -> None:
    cluster = world.cluster
    made = signed_by(cluster, statement, ["replica-1", "replica-3"])
    independent = IndependentEnvelope.from_dict(json.loads(as_json(made)))
    accepted = independent.verify(independent_keys(cluster), cluster.quorums.weak)
    assert len(accepted) == cluster.quorums.weak
    assert independent.payload == statement


def test_securesystemslib_refuses_a_changed_byte(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-1", "replica-3"])
    changed = statement.replace(b'"exitCode":0', b'"exitCode":1', 1)
    assert changed != statement
    made["payload"] = base64.standard_b64encode(changed).decode()
    with pytest.raises(VerificationError):
        IndependentEnvelope.from_dict(made).verify(
            independent_keys(world.cluster), world.cluster.quorums.weak
        )


def test_securesystemslib_refuses_one_signature_too_few(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-1"])
    with pytest.raises(VerificationError):
        IndependentEnvelope.from_dict(made).verify(
            independent_keys(world.cluster), world.cluster.quorums.weak
        )


# --- our own verifier -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_url_safe", [False, True])
def test_an_envelope_of_f_plus_one_replicas_is_verified(
    world: World, statement: bytes, is_url_safe: bool
) -> None:
    made = signed_by(world.cluster, statement, ["replica-3", "replica-1"])
    if is_url_safe:
        for signature in made["signatures"]:
            signature["sig"] = signature["sig"].translate(str.maketrans("+/", "-_"))
        assert any({"-", "_"} & set(signature["sig"]) for signature in made["signatures"])
    verified = verify_envelope(as_json(made), world.cluster, verify)
    assert verified.payload == statement
    assert verified.replicas == ("replica-1", "replica-3")
    assert verified.statement.verdict.outcome is Outcome.PASSED


def test_the_keyid_is_only_a_hint(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    one, two = made["signatures"]
    one["keyid"], two["keyid"] = two["keyid"], one["keyid"]
    swapped = verify_envelope(as_json(made), world.cluster, verify)
    del one["keyid"]
    two["keyid"] = "unknown"
    assert verify_envelope(as_json(made), world.cluster, verify) == swapped
    assert swapped.replicas == ("replica-0", "replica-1")


def test_a_right_keyid_saves_trying_the_other_keys(world: World, statement: bytes) -> None:
    names = ["replica-3", "replica-2"]
    tried: list[bytes] = []

    def counting_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        tried.append(public_key)
        return verify(public_key, message, signature)

    made = signed_by(world.cluster, statement, names)
    verify_envelope(as_json(made), world.cluster, counting_verify)
    assert tried == [world.cluster.public_key(name) for name in names]


def test_one_replica_is_one_voice_however_often_it_signs(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0"])
    (signature,) = made["signatures"]
    keyid = keyid_for(world.cluster.public_key("replica-1") or b"")
    made["signatures"] = [signature, signature, {**signature, "keyid": keyid}]
    with pytest.raises(InvalidEnvelope, match="too few replicas signed it: 1, not 2"):
        verify_envelope(as_json(made), world.cluster, verify)


def test_clients_and_strangers_sign_no_statement(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", GATEWAY])
    stranger = signing_key("stranger").sign(pae(statement)).signature
    made["signatures"].append({"keyid": "", "sig": base64.b64encode(stranger).decode()})
    with pytest.raises(InvalidEnvelope, match="signed it: 1, not"):
        verify_envelope(as_json(made), world.cluster, verify)


def test_a_changed_byte_is_refused(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    for position in range(0, len(statement), 97):
        changed = bytearray(statement)
        changed[position] ^= 1
        made["payload"] = base64.b64encode(bytes(changed)).decode()
        with pytest.raises(InvalidEnvelope, match="signed it: 0, not"):
            verify_envelope(as_json(made), world.cluster, verify)


def test_one_spoilt_signature_does_not_spoil_the_others(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    made["signatures"][:0] = [{"keyid": "", "sig": "not base64!"}, {"keyid": "", "sig": "AAAA"}]
    assert verify_envelope(as_json(made), world.cluster, verify).payload == statement


def test_a_higher_threshold_can_be_asked_for_and_a_lower_one_not(
    world: World, statement: bytes
) -> None:
    made = as_json(signed_by(world.cluster, statement, ["replica-0", "replica-1", "replica-2"]))
    assert verify_envelope(made, world.cluster, verify, threshold=3).payload == statement
    with pytest.raises(InvalidEnvelope, match="signed it: 3, not 4"):
        verify_envelope(made, world.cluster, verify, threshold=4)
    with pytest.raises(ValueError, match="at least 2"):
        verify_envelope(made, world.cluster, verify, threshold=1)


def test_a_statement_of_another_cluster_is_refused_even_if_our_replicas_signed_it(
    world: World,
) -> None:
    other = World(cluster_of(4, prefix="other"))
    statement = statement_after(other, PASSED, PASSED, PASSED)
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    with pytest.raises(InvalidEnvelope, match="another cluster"):
        verify_envelope(as_json(made), world.cluster, verify)


def test_the_payload_is_parsed_only_when_verified(world: World) -> None:
    unsigned = signed_by(world.cluster, b"not a statement", [])
    with pytest.raises(InvalidEnvelope, match="signed it: 0, not"):
        verify_envelope(as_json(unsigned), world.cluster, verify)
    signed = signed_by(world.cluster, b"not a statement", ["replica-0", "replica-1"])
    with pytest.raises(InvalidEnvelope, match="the statement"):
        verify_envelope(as_json(signed), world.cluster, verify)


def test_envelopes_are_bounded(world: World, statement: bytes) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    padded = as_json({**made, "padding": "x" * ENVELOPE_BYTES_MAX})
    with pytest.raises(InvalidEnvelope, match="at most"):
        verify_envelope(padded, world.cluster, verify)
    made["signatures"] += [{"keyid": "", "sig": ""}] * SIGNATURES_MAX
    with pytest.raises(InvalidEnvelope, match="signatures; at most"):
        verify_envelope(as_json(made), world.cluster, verify)


@pytest.mark.parametrize(
    "changed",
    [
        {"payloadType": "text/plain"},
        {"payload": "é"},
        {"payload": "abc"},
        {"payload": 7},
        {"signatures": {}},
    ],
)
def test_other_shapes_are_no_envelope(
    world: World, statement: bytes, changed: dict[str, object]
) -> None:
    made = signed_by(world.cluster, statement, ["replica-0", "replica-1"])
    assert made["payloadType"] == PAYLOAD_TYPE
    with pytest.raises(InvalidEnvelope):
        verify_envelope(as_json({**made, **changed}), world.cluster, verify)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_strange_bytes_are_no_envelope(world: World, data: bytes) -> None:
    with pytest.raises(InvalidEnvelope):
        verify_envelope(data, world.cluster, verify)
