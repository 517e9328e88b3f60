"""scripts/verify_build.py says what `python -m client verify` says, with one package alone."""

import base64
import contextlib
import hashlib
import importlib.util
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from securesystemslib.exceptions import VerificationError

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.case_results import CaseOutcome, encode_report
from ci.operations import Artifact, Ballot, Event, Outcome, Step
from ci.statement import InvalidEnvelope, envelope, keyid_for, pae, verify_envelope
from ci.supplement import supplement_bytes
from client.commands.trust_file import trust_of
from client.main import main
from common.address import Address
from common.configuration.config import AncestryEntry
from common.configuration.keys import load_public_key, verify
from pbft.genesis import Cluster
from scripts import verify_build
from tests.ci.builders import (
    COMMIT,
    FAILED,
    OPERATOR,
    PASSED,
    PIPELINE_SHA256,
    SKIPPED,
    World,
    cluster_of,
    finding,
    reported,
    signing_key,
)
from tests.client.cluster_file import write_cluster
from tests.client.running_network import key_of
from tests.processes.releases import read_before

SCRIPT = Path(verify_build.__file__)


class Consumer:
    """Somebody with the cluster's keys, and both programs."""

    def __init__(self, folder: Path, replicas: int = 4) -> None:
        self.folder = folder
        self.world = World(cluster_of(replicas))
        cluster = self.world.cluster
        addresses = {name: Address("127.0.0.1", 1 + i) for i, name in enumerate(names_of(cluster))}
        self.cluster_file = write_cluster(folder, cluster, addresses)
        self.trust_file = folder / "trust.json"
        self.trust_file.write_text(json.dumps(trust_of(cluster)))

    def of_epoch(self, cluster: Cluster) -> "Consumer":
        """The same consumer with the cluster file of that epoch."""
        ancestry = cluster.ancestry
        assert ancestry is not None
        settings = yaml.safe_load(self.cluster_file.read_text())
        settings["ancestry"] = msgspec.to_builtins(AncestryEntry.of(ancestry))
        self.cluster_file.write_text(yaml.safe_dump(settings))
        self.trust_file.write_text(json.dumps(trust_of(cluster)))
        return self

    def both(self, data: bytes, *flags: str) -> int:
        """The exit code of both programs, which must be the same, for whatever build it is."""
        return self.asked(data, "--any", *flags)

    def asked(self, data: bytes, *flags: str) -> int:
        """The same with these flags alone."""
        file = self.folder / "build.intoto.json"
        file.write_bytes(data)
        whole = main(["verify", str(file), "--cluster", str(self.cluster_file), *flags])
        alone = verify_build.main([str(file), "--trust", str(self.trust_file), *flags])
        assert alone == whole
        return whole

    def statement(self, *ballots: Ballot, **asked: object) -> bytes:
        build = self.world.open(len(self.world.ledger), **asked)  # type: ignore[arg-type]
        for index, ballot in enumerate(ballots):
            self.world.cast(build, index, ballot)
        return bytes(self.world.verdict_entries()[-1].statement)

    def repository(self, statement: bytes) -> str:
        return str(json.loads(statement)["predicate"]["pbftci_verdict"]["repository"])


def names_of(cluster: Cluster) -> tuple[str, ...]:
    return cluster.replica_names


def signed(statement: bytes, *indexes: int) -> dict[str, Any]:
    names = [f"replica-{index}" for index in indexes]
    keys = [signing_key(name) for name in names]
    return dict(
        envelope(
            statement,
            [(keyid_for(bytes(k.verify_key)), k.sign(pae(statement)).signature) for k in keys],
        )
    )


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(name="consumer")
def fixture_consumer(tmp_path: Path) -> Consumer:
    assert bytes(signing_key("replica-0").verify_key) == key_of("replica-0").public_key
    return Consumer(tmp_path)


def test_passed_failed_and_too_few(consumer: Consumer) -> None:
    green, red = consumer.statement(PASSED, PASSED, PASSED), consumer.statement(FAILED, FAILED)
    assert consumer.both(as_bytes(signed(green, 0, 1))) == 0
    assert consumer.both(as_bytes(signed(red, 0, 1))) == 1
    assert consumer.both(as_bytes(signed(green, 0))) == 2
    assert consumer.both(as_bytes(signed(green))) == 2
    assert consumer.both(as_bytes(signed(green, 2, 2))) == 2, "one replica twice is one"
    assert consumer.both(as_bytes(signed(green, 0, 1, 1))) == 0


def test_the_threshold_is_the_consumers(consumer: Consumer) -> None:
    green = as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 3))
    assert consumer.both(green, "--threshold", "3") == 0
    assert consumer.both(green, "--threshold", "4") == 2
    for nothing in ("1", "0", "-1"):
        assert consumer.both(green, f"--threshold={nothing}") == 2


def test_repository_commit_and_artifact_must_match(consumer: Consumer, tmp_path: Path) -> None:
    statement = consumer.statement(PASSED, PASSED, PASSED)
    green = as_bytes(signed(statement, 0, 1))
    assert consumer.both(green, "--commit", COMMIT) == 0
    assert consumer.both(green, "--commit", COMMIT.upper()) == 0
    assert consumer.both(green, "--commit", "d" * 40) == 2
    assert consumer.both(green, "--commit", COMMIT[:7]) == 2
    assert consumer.both(green, "--repository", consumer.repository(statement)) == 0
    assert consumer.both(green, "--repository", "https://example.org/other") == 2
    file = tmp_path / "file"
    file.write_bytes(b"built")
    assert consumer.both(green, "--artifact", str(file)) == 2
    assert consumer.both(green, "--artifact", str(tmp_path / "none")) == 2


def test_the_list_of_what_went_in_must_match(consumer: Consumer, tmp_path: Path) -> None:
    """By its name too: a build may make an artifact with any bytes."""
    file = tmp_path / "sbom.json"
    file.write_bytes(b"{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    for path, code in ((BILL_OF_MATERIALS, 0), ("sbom.cdx.json", 2)):
        built = finding(artifacts=(Artifact(path, digest, 2),))
        green = as_bytes(signed(consumer.statement(built, built, built), 0, 1))
        assert consumer.both(green, "--sbom", str(file)) == code
        assert consumer.both(green, "--sbom", __file__) == 2


@pytest.mark.parametrize(
    ("text", "steps", "code"),
    [
        ("commands: [x]\n", [("build", True)], 0),
        ("commands: [x]\nnetwork: [a.org]\n", [("build", True)], 2),
        ("steps: [{name: a}, {name: b, network: true}]\n", [("a", True), ("b", True)], 2),
        # it did not run
        ("steps: [{name: a}, {name: b, network: true}]\n", [("a", True), ("b", False)], 0),
        ("steps: [{name: a}, {name: b, network: true}]\n", [("a", True), ("b", None)], 2),
        # of an older version, whose statements do not say which steps ran
        ("steps: [{name: a}, {name: b, network: true}]\n", [], 2),
        ("FROM a\nRUN x\n", [], 0),
        ("# pbft-ci network: a.org\nFROM a\n", [], 2),
    ],
)
def test_no_step_that_ran_may_have_a_network(
    consumer: Consumer, tmp_path: Path, text: str, steps: list[tuple[str, bool | None]], code: int
) -> None:
    file = tmp_path / "pipeline"
    file.write_text(text)
    ballot = finding(
        pipeline_sha256=hashlib.sha256(text.encode()).hexdigest(),
        steps=tuple(Step(name, choice) for name, choice in steps),
    )
    green = as_bytes(signed(consumer.statement(ballot, ballot, ballot), 0, 1))
    assert consumer.both(green, "--no-network", str(file)) == code
    # another file says nothing, and neither does a statement that names none
    file.write_text(text + "#\n")
    assert consumer.both(green, "--no-network", str(file)) == 2
    silent = finding(Outcome.CHECKOUT_FAILED, 128, pipeline_sha256=None)
    red = as_bytes(signed(consumer.statement(silent, silent), 0, 1))
    assert consumer.both(red, "--no-network", str(file)) == 2


def test_what_is_not_asked_for_is_not_proved(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a repository and a commit any green of the cluster would do."""
    statement = consumer.statement(PASSED, PASSED, PASSED)
    green = as_bytes(signed(statement, 0, 1))
    repository = ("--repository", consumer.repository(statement))
    for flags in ((), repository, ("--commit", COMMIT), ("--ref", "refs/heads/master")):
        assert consumer.asked(green, *flags) == 2
        assert capsys.readouterr().err.count("--any") == 2
    assert consumer.asked(green, *repository, "--commit", COMMIT) == 0


def test_event_ref_pipeline_and_steps_must_match(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (Step("test", True), Step("release", False), Step("lint", None))
    green = finding(steps=steps)
    pushed = as_bytes(signed(consumer.statement(green, green, green), 0, 1))
    asked = {"event": Event.PULL_REQUEST, "ref": "refs/pull/7/head"}
    request = as_bytes(signed(consumer.statement(green, green, green, **asked), 0, 1))
    right: tuple[str, ...] = ("--ref", "refs/heads/master", "--event", "push")
    right += ("--pipeline-sha256", PIPELINE_SHA256.upper(), "--step", "test")
    assert consumer.both(pushed, *right) == 0
    assert consumer.both(request, *right) == 2
    assert consumer.both(request, "--ref", "refs/pull/7/head", "--event", "pull_request") == 0
    for out in capsys.readouterr().out.split("valid")[-2:]:
        assert "refs/heads/master" in out, "the target is shown"
        assert "skipped by when" in out
        assert "lint: may have failed" in out
    for wrong in (
        ("--ref", "refs/heads/main"),
        ("--event", "tag"),
        ("--pipeline-sha256", "d" * 64),
        ("--step", "release"),
        ("--step", "lint"),
        ("--step", "other"),
    ):
        assert consumer.both(pushed, *right, *wrong) == 2


def test_the_target_of_a_pull_request_must_match(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One head, asked for once for each of two branches: nothing but the target differs."""
    asked = {"event": Event.PULL_REQUEST, "ref": "refs/pull/7/head"}
    strict, lax, pushed = (
        as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED, **more), 0, 1))
        for more in ({"branch": "main", **asked}, {"branch": "lax", **asked}, {"branch": "main"})
    )
    right = ("--commit", COMMIT, "--ref", "refs/pull/7/head", "--event", "pull_request")
    for target in ("main", "refs/heads/main"):
        assert consumer.both(strict, *right, "--target", target) == 0
        capsys.readouterr()
        assert consumer.both(lax, *right, "--target", target) == 2
        errors = capsys.readouterr().err
        assert errors.count("refs/heads/lax") == errors.count("refs/heads/main") == 2
        assert consumer.both(pushed, "--target", target) == 2, "a push has no target"
    assert consumer.both(lax, *right) == 0
    for other in ("", "refs/heads/", "heads/main", "refs/tags/main", "Main"):
        assert consumer.both(strict, *right, "--target", other) == 2


def test_nothing_that_is_no_test_result_is_passed(consumer: Consumer) -> None:
    """Nor is it a test that failed, for whoever reads test results."""
    assert consumer.both(as_bytes(signed(consumer.statement(SKIPPED, SKIPPED), 0, 1))) == 1
    consumer.world.cancel(consumer.world.open(9), OPERATOR)
    cancelled = bytes(consumer.world.verdict_entries()[-1].statement)
    assert consumer.both(as_bytes(signed(cancelled, 0, 1))) == 1
    green = consumer.statement(PASSED, PASSED, PASSED)
    for old, new in (
        (b'"result":"PASSED"', b'"result":"FAILED"'),
        (b"attestation/test-result/v0.1", b"attestation/test-result/v9"),
        (b"https://in-toto.io/attestation/test-result/v0.1", b"urn:pbft-ci:outcome:v1"),
    ):
        assert old in green
        assert consumer.both(as_bytes(signed(green.replace(old, new), 0, 1))) == 2


def test_a_supplement_shows_who_contradicted_later(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a final one, of that very verdict and signed by f+1, says that nobody did."""

    def asked(green: bytes, supplement: bytes, *signers: int) -> tuple[int, int]:
        file = consumer.folder / "supplement.json"
        file.write_bytes(as_bytes(signed(supplement, *signers)))
        flags = ("--supplement", str(file))
        proof = as_bytes(signed(green, 0, 1))
        return consumer.both(proof, *flags), consumer.both(proof, *flags, "--no-contradiction")

    greens, supplements = [], []
    for ballots in (
        (PASSED, FAILED, PASSED, PASSED),
        (PASSED,) * 4,
        (PASSED, PASSED, PASSED, FAILED),
    ):
        greens.append(consumer.statement(*ballots))
        verdict, end = consumer.world.verdict_entries()[-1], consumer.world.ledger[-1]
        late = [
            (end.index, entry)
            for entry in consumer.world.late_ballots()
            if entry.build == verdict.build
        ]
        supplements += [
            supplement_bytes(
                consumer.world.cluster,
                verdict,
                late,
                ledger_index=end.index,
                ledger_head=end.head,
                is_final=is_final,
            )
            for is_final in (True, False)
        ]
    before, equal, after = greens
    assert asked(equal, supplements[2], 1, 2) == (0, 0)
    assert asked(equal, supplements[3], 1, 2) == (0, 1), "more may come"
    assert capsys.readouterr().out.count("may contradict it") == 4
    for green, supplement, name in ((before, 0, "replica-1"), (after, 4, "replica-3")):
        assert asked(green, supplements[supplement], 1, 2) == (0, 1)
        shown = capsys.readouterr().out
        assert shown.count(f"contradict  {name}\n") == 2
        assert shown.count(f"contradicted by: {name}\n") == 2
    assert asked(equal, supplements[2], 1) == (2, 2)
    assert asked(after, supplements[2], 1, 2) == (2, 2), "of another build"
    assert asked(equal, equal, 1, 2) == (2, 2), "a verdict is no supplement"
    assert consumer.both(supplements[2]) == 2
    assert consumer.both(as_bytes(signed(supplements[2], 1, 2))) == 2, "nor that a verdict"
    assert consumer.both(as_bytes(signed(equal, 0, 1)), "--no-contradiction") == 2


CASES = {"a::x": "passed", "a::y": "warned", "b": "skipped", "c": "passed"}
WARNED, RED = reported(PASSED, CASES), reported(FAILED, {**CASES, "c": "failed"})


def report_file(consumer: Consumer, cases: Mapping[str, str]) -> str:
    file = consumer.folder / "tests.txt"
    file.write_bytes(encode_report({case: CaseOutcome(how) for case, how in cases.items()}))
    return str(file)


def test_required_test_cases_are_looked_up_in_the_agreed_report(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = as_bytes(signed(consumer.statement(WARNED, RED, WARNED, WARNED), 0, 1))
    agreed = ("--tests", report_file(consumer, CASES))
    assert consumer.both(proof, *agreed) == 0
    assert consumer.both(proof, *agreed, "--require-test", "a::x", "--require-test", "a::y") == 0
    capsys.readouterr()
    for case in ("b", "d", "", "a::x\tpassed", "a"):
        assert consumer.both(proof, *agreed, "--require-test", case) == 2
        assert consumer.both(proof, *agreed, "--require-test", "c", "--require-test", case) == 2
    assert capsys.readouterr().err.count("the test ") == 20
    assert consumer.both(proof, "--require-test", "a::x") == 2
    assert capsys.readouterr().err.count("--tests FILE") == 2
    for other in ({**CASES, "d": "passed"}, {**CASES, "b": "passed"}, {}):
        assert consumer.both(proof, "--tests", report_file(consumer, other)) == 2
    assert consumer.both(proof, "--tests", str(consumer.folder / "none.txt")) == 2


def test_nothing_is_required_of_a_report_that_is_not_agreed_on(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed = ("--tests", report_file(consumer, CASES))
    flaky = consumer.statement(WARNED, reported(PASSED, {**CASES, "c": "skipped"}), WARNED)
    for statement in (flaky, consumer.statement(PASSED, PASSED, PASSED)):
        assert consumer.both(as_bytes(signed(statement, 0, 1)), *agreed) == 2
    assert capsys.readouterr().err.count("test cases") == 4


def test_a_warning_is_green_unless_it_is_refused(consumer: Consumer) -> None:
    warned = as_bytes(signed(consumer.statement(WARNED, WARNED, WARNED), 0, 1))
    clean = reported(PASSED, {"a": "passed"})
    green = as_bytes(signed(consumer.statement(clean, clean, clean), 0, 1))
    plain = as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1))
    red = as_bytes(signed(consumer.statement(RED, RED), 0, 1))
    codes = [(consumer.both(p), consumer.both(p, "--no-warnings")) for p in (warned, green, plain)]
    assert codes == [(0, 1), (0, 0), (0, 0)]
    assert consumer.both(red, "--no-warnings") == 1


def test_a_step_that_was_left_out_is_no_matter_unless_it_is_refused(consumer: Consumer) -> None:
    def with_steps(*choices: bool | None) -> bytes:
        ballot = finding(steps=tuple(Step(f"s{at}", choice) for at, choice in enumerate(choices)))
        return as_bytes(signed(consumer.statement(ballot, ballot, ballot), 0, 1))

    for statement, code in (
        (with_steps(True, False), 1),
        (with_steps(True, None), 0),
        (with_steps(), 0),
    ):
        assert (consumer.both(statement), consumer.both(statement, "--no-skipped")) == (0, code)


def test_what_became_of_test_cases_is_shown(
    consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    ugly = "e\u202e\u200b"
    one = reported(FAILED, {"c": "failed", ugly: "failed", "d": "failed", "e": "warned"})
    other = reported(FAILED, {"c": "failed", ugly: "failed", "d": "passed", "e": "warned"})
    assert consumer.both(as_bytes(signed(consumer.statement(one, other), 0, 1))) == 1
    shown = capsys.readouterr().out
    assert "tests       number not agreed: 2 failed, 1 warned\n" in shown
    assert "tests: number not agreed: 2 failed, 1 warned\n" in shown
    assert shown.count("no report is agreed on") == 2
    for line in ("failed      c\n", "failed: c\n", "warned      e\n", "unsettled: d\n"):
        assert line in shown
    assert "\u202e" not in shown
    assert consumer.both(as_bytes(signed(consumer.statement(WARNED, WARNED, WARNED), 0, 1))) == 0
    shown = capsys.readouterr().out
    assert shown.count("4 cases: 2 passed, 0 failed, 1 warned, 1 skipped\n") == 2
    assert shown.count(WARNED.tests.report_sha256) == 2


@pytest.mark.parametrize(
    "changed",
    [{"tests": "all"}, {"tests": {}}, {"total": "4"}, {"warned": 0}, {"unsettled": "a"}, {}],
)
def test_what_is_malformed_about_test_cases_proves_nothing(
    consumer: Consumer, changed: dict[str, object]
) -> None:
    statement = json.loads(consumer.statement(WARNED, WARNED, WARNED))
    verdict = statement["predicate"]["pbftci_verdict"]
    (verdict if "tests" in changed else verdict["tests"]).update(changed)
    assert consumer.both(as_bytes(signed(as_bytes(statement), 0, 1))) == (2 if changed else 0)


def test_the_verifier_of_the_release_before_reads_what_uses_nothing_new(consumer: Consumer) -> None:
    """It reads the rest of a statement with test cases too. Of a warning it proves nothing."""
    script = consumer.folder / "verify_before.py"
    script.write_bytes(read_before("scripts/verify_build.py"))
    spec = importlib.util.spec_from_file_location("verify_before", script)
    assert spec is not None
    assert spec.loader is not None
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    clean = reported(PASSED, {"a": "passed", "b": "skipped"})
    file = consumer.folder / "build.intoto.json"
    for ballots, code in (
        ((PASSED, PASSED, PASSED), 0),
        ((clean, clean, clean), 0),
        ((RED, RED), 1),
        ((WARNED, WARNED, WARNED), 2),
    ):
        file.write_bytes(as_bytes(signed(consumer.statement(*ballots), 0, 1)))
        flags = ("--trust", str(consumer.trust_file), "--any")
        assert before.main([str(file), *flags]) == code


def test_a_statement_of_the_version_before_is_verified(consumer: Consumer) -> None:
    """Its ref is None for a branch, it names no steps, and all outcomes were test results."""
    new = json.loads(consumer.statement(PASSED, PASSED, PASSED))
    verdict = new["predicate"]["pbftci_verdict"]
    del verdict["pipelineSha256"]
    verdict["ref"] = None
    old = as_bytes(signed(as_bytes(new), 0, 1))
    right = ("--ref", "refs/heads/master", "--pipeline-sha256", PIPELINE_SHA256)
    assert consumer.both(old, *right) == 0
    assert consumer.both(old, *right, "--step", "test") == 2
    verdict["outcome"], new["predicate"]["result"] = "cancelled", "FAILED"
    new["predicate"]["configuration"] = []
    assert consumer.both(as_bytes(signed(as_bytes(new), 0, 1))) == 1


def test_another_clusters_verdict_is_refused(consumer: Consumer) -> None:
    other = World(cluster_of(4, prefix="replica-"))
    build = other.open()
    for index in range(3):
        other.cast(build, index, PASSED)
    statement = bytes(other.verdict_entries()[0].statement)
    assert consumer.both(as_bytes(signed(statement, 0, 1, 2))) == 2


def test_an_epoch_believes_its_own_verdicts_and_earlier_ones(tmp_path: Path) -> None:
    first = Consumer(tmp_path)
    genesis = first.world.cluster.genesis
    before = as_bytes(signed(first.statement(PASSED, PASSED, PASSED), 0, 1))
    later = first.world.cluster.succeeded_by(genesis, 8, bytes(32))
    world = World(later)
    build = world.open()
    for index in range(3):
        world.cast(build, index, PASSED)
    after = as_bytes(signed(bytes(world.verdict_entries()[0].statement), 0, 1))

    assert first.both(before) == 0
    assert first.both(after) == 2
    assert first.of_epoch(later).both(before) == 0
    assert first.of_epoch(later).both(after) == 0
    # it has the same lineage and number, and began with another state
    other = first.world.cluster.succeeded_by(genesis, 8, b"x" * 32)
    assert first.of_epoch(other).both(before) == 0
    assert first.of_epoch(other).both(after) == 2


def each_byte_changed(data: bytes) -> Iterator[bytes]:
    """The data with one byte changed, each in its turn."""
    chance = random.Random(1)
    for place, byte in enumerate(data):
        yield data[:place] + bytes([byte ^ chance.randrange(1, 256)]) + data[place + 1 :]


def believers(consumer: Consumer, envelopes: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """How many there are, and how many of them one of the two programs believes."""
    trust = verify_build.read_trust(consumer.trust_file)
    file = consumer.folder / "build.intoto.json"
    count = believed = 0
    for value in envelopes:
        count += 1
        data = as_bytes(value)
        file.write_bytes(data)
        with contextlib.suppress(verify_build.Invalid):
            verify_build.verify_signatures(file, trust, trust["faults_max"] + 1)
            believed += 1
        with contextlib.suppress(InvalidEnvelope):
            verify_envelope(data, consumer.world.cluster, verify)
            believed += 1
    return count, believed


@pytest.mark.parametrize("changed", ["payload", "signature"])
def test_any_changed_byte_of_the_payload_is_refused(tmp_path: Path, changed: str) -> None:
    """All bytes, and all of the signature. Of one replica: one signature to check, and one key."""
    alone = Consumer(tmp_path, replicas=1)
    good = signed(alone.statement(PASSED), 0)
    assert believers(alone, [good]) == (1, 2)
    (signature,) = good["signatures"]
    data = base64.b64decode(good["payload"] if changed == "payload" else signature["sig"])
    texts = (base64.b64encode(other).decode() for other in each_byte_changed(data))
    if changed == "payload":
        count, believed = believers(alone, ({**good, "payload": text} for text in texts))
    else:
        spoilt = ({**good, "signatures": [{**signature, "sig": text}]} for text in texts)
        count, believed = believers(alone, spoilt)
    assert (count, believed) == (len(data), 0)
    assert len(data) >= 64


def test_the_payload_may_be_url_safe(consumer: Consumer) -> None:
    good = signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 2)
    url_safe = good["payload"].replace("+", "-").replace("/", "_")
    assert consumer.both(as_bytes({**good, "payload": url_safe})) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json"}',
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":7}',
        b'{"payload":7,"payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b" " * (verify_build.ENVELOPE_BYTES_MAX + 1),
    ],
    ids=range(10),
)
def test_nonsense_is_refused_without_an_error_of_ours(consumer: Consumer, data: bytes) -> None:
    assert consumer.both(data) == 2


def test_spoilt_signatures_beside_good_ones(consumer: Consumer) -> None:
    good = signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1)
    for spoilt in (
        {"keyid": "", "sig": "?"},
        {"sig": ""},
        {"keyid": good["signatures"][0]["keyid"], "sig": good["signatures"][1]["sig"]},
    ):
        assert consumer.both(as_bytes({**good, "signatures": [spoilt, *good["signatures"]]})) == 0
    for wrong in ({"keyid": 7, "sig": ""}, {"sig": 7}, 7):
        assert consumer.both(as_bytes({**good, "signatures": [wrong, *good["signatures"]]})) == 2
    many = good["signatures"] * 200
    assert consumer.both(as_bytes({**good, "signatures": many})) == 2
    assert consumer.both(as_bytes({**good, "payloadType": "text/plain"})) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": "1"},
        {"replicas": {}},
        {"replicas": {"a": "zz"}},
        {"faults_max": 2},
        {"faults_max": -1},
        {"faults_max": True},
        {"cluster": None},
        {"epoch": 1},
        {"epoch": True, "instance": "aa"},
        {"instance": "aa"},
    ],
)
def test_a_trust_file_that_makes_no_sense_is_refused(
    consumer: Consumer, change: dict[str, Any]
) -> None:
    trust = json.loads(consumer.trust_file.read_text())
    consumer.trust_file.write_text(json.dumps({**trust, **change}))
    file = consumer.folder / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 2)))
    assert verify_build.main([str(file), "--trust", str(consumer.trust_file), "--any"]) == 2


def test_a_trust_file_of_a_newer_format_is_refused_by_name(consumer: Consumer) -> None:
    trust = json.loads(consumer.trust_file.read_text())
    consumer.trust_file.write_text(json.dumps({**trust, "format": 2}))
    with pytest.raises(verify_build.Invalid) as refused:
        verify_build.read_trust(consumer.trust_file)
    line = str(refused.value)
    assert line.startswith(f"{consumer.trust_file}: it has format 2, this version reads 1; make")
    assert "verify_build.py of the version that wrote it" in line


def test_two_names_for_one_key_would_count_twice(consumer: Consumer) -> None:
    trust = json.loads(consumer.trust_file.read_text())
    trust["replicas"]["replica-3"] = trust["replicas"]["replica-0"]
    consumer.trust_file.write_text(json.dumps(trust))
    file = consumer.folder / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0)))
    assert verify_build.main([str(file), "--trust", str(consumer.trust_file), "--any"]) == 2


def test_it_runs_alone(consumer: Consumer, tmp_path: Path) -> None:
    """Copied elsewhere and started apart from this project, as a deploy pipeline does."""
    script = tmp_path / "elsewhere" / "verify_build.py"
    script.parent.mkdir()
    script.write_bytes(SCRIPT.read_bytes())
    file = tmp_path / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 3)))
    done = subprocess.run(
        [
            *(sys.executable, "-I", str(script), str(file), "--any"),
            *("--trust", str(consumer.trust_file)),
        ],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "valid: passed, signed by replica-0, replica-3",
            "repository: https://example.org/r.git",
            f"commit: {COMMIT}",
            "event: push",
            "ref: refs/heads/master",
            f"pipeline: {PIPELINE_SHA256}",
        ],
    )


def test_other_peoples_verifiers_take_the_trust_file_as_it_is(
    consumer: Consumer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines are those of the page, run as they stand there."""
    page = (SCRIPT.parent.parent / "docs" / "OPERATING.md").read_text()
    (lines,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    green = signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1)
    Path("build.intoto.json").write_bytes(as_bytes(green))
    read: dict[str, Any] = {}
    exec(lines, read)
    assert read["statement"]["predicate"]["result"] == "PASSED"
    Path("build.intoto.json").write_bytes(
        as_bytes({**green, "signatures": green["signatures"][:1]})
    )
    with pytest.raises(VerificationError):
        exec(lines, {})
    for key in json.loads(consumer.trust_file.read_text())["keys"].values():
        file = tmp_path / "key.pem"
        file.write_text(key["pem"])
        assert load_public_key(file).hex() == key["keyval"]["public"]
