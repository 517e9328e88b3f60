"""The state of one build: which ballots can count, and its one encoding."""

import msgspec
import pytest

from ci.builds import MalformedBuild, OpenBuild, Requester, decode_build, encode_build
from ci.limits import Limits
from ci.operations import Agreement, BuildResult, ImageDigest, Outcome, Step
from ci.verdict import DISPUTED
from tests.ci.builders import (
    ABSTAIN,
    COMMIT,
    FAILED,
    PASSED,
    SKIPPED,
    TIMED_OUT,
    artifact,
    finding,
    reported,
)

OTHER_COMMIT = "d" * 40
TWO_IMAGES = (ImageDigest("a:1", "sha256:" + "1" * 64), ImageDigest("b", None))
BOTH = (Step("test", True), Step("release", False))
IGNORED = (Step("lint", None), Step("release", False))
TESTED = reported(PASSED, {"b": "failed"})
FORGED = msgspec.structs.replace(
    TESTED, tests=msgspec.structs.replace(TESTED.tests, lines="a\tfailed\n")
)


def build_of(commit: str | None = COMMIT) -> OpenBuild:
    return OpenBuild(
        id=b"b" * 32,
        opened=7,
        request_digest=b"r" * 32,
        repository="https://example.org/r.git",
        branch="master",
        commit=commit,
        askers=(Requester("gateway", 1, b"r" * 32),),
    )


@pytest.mark.parametrize(
    "found",
    [
        PASSED,
        FAILED,
        finding(Outcome.FAILED, 255),
        TIMED_OUT,
        finding(Outcome.OUT_OF_MEMORY, None),
        SKIPPED,
        finding(steps=BOTH),
        finding(steps=IGNORED),
        finding(Outcome.CHECKOUT_FAILED, 128),
        finding(Outcome.PIPELINE_INVALID, None),
        finding(Outcome.IMAGE_UNAVAILABLE, None, pipeline_sha256=None),
        finding(Outcome.DEPENDENCIES_UNAVAILABLE, None),
        finding(image_digest="registry.example.org/image@sha256:" + "1" * 64),
        finding(image_digest=TWO_IMAGES),
        finding(Outcome.OUT_OF_MEMORY, None, image_digest=TWO_IMAGES),
        finding(agreement=Agreement.WEAK),
        finding(artifacts=(artifact("a"), artifact("b/c"))),
        reported(PASSED, {"a": "failed"}),
        reported(FAILED, {"a": "passed"}),
        reported(TIMED_OUT, {"a": "skipped"}),
    ],
)
def test_findings_that_can_count(found: BuildResult) -> None:
    assert build_of().ballot_refusal(found, Limits()) is None


def test_an_abstention_can_always_count() -> None:
    assert build_of().ballot_refusal(ABSTAIN, Limits()) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (finding(Outcome.PASSED, 1), "exit code 1 does not go with passed"),
        (finding(Outcome.PASSED, None), "exit code None does not go with passed"),
        (finding(Outcome.FAILED, 0), "exit code 0 does not go with failed"),
        (finding(Outcome.FAILED, None), "exit code None does not go with failed"),
        (finding(Outcome.TIMED_OUT, 137), "exit code 137 does not go with timed_out"),
        (finding(Outcome.OUT_OF_MEMORY, 137), "exit code 137 does not go with out_of_memory"),
        (finding(Outcome.SKIPPED, 0), "exit code 0 does not go with skipped"),
        (finding(Outcome.SKIPPED, None), "skipped with a step that is wanted"),
        (finding(Outcome.SKIPPED, None, steps=BOTH), "skipped with a step that is wanted"),
        (finding(steps=BOTH[1:]), "passed with no step that is wanted"),
        (finding(Outcome.FAILED, 1, steps=BOTH[1:]), "failed with no step that is wanted"),
        (finding(pipeline_sha256=None), "passed without a pipeline file"),
        (finding(Outcome.CHECKOUT_FAILED, None), "exit code None does not go with"),
        (finding(Outcome.CHECKOUT_FAILED, 1), "exit code 1 does not go with"),
        (finding(Outcome.PIPELINE_INVALID, 1), "exit code 1 does not go with"),
        (finding(Outcome.IMAGE_UNAVAILABLE, 1), "exit code 1 does not go with"),
        (finding(Outcome.DISPUTED, None), "disputed is no finding"),
        (finding(Outcome.CANCELLED, None), "cancelled is no finding"),
        (finding(commit=OTHER_COMMIT), "another commit"),
        (finding(commit=None), "another commit"),
        (finding(Outcome.CHECKOUT_FAILED, 128, commit=None), "another commit"),
        (finding(image_digest=""), "image digest"),
        (finding(image_digest="sha256:\n"), "image digest"),
        (finding(image_digest="s" * 513), "image digest"),
        (finding(image_digest=TWO_IMAGES[::-1]), "not sorted by name"),
        (finding(image_digest=TWO_IMAGES[:1] * 2), "each name once"),
        (
            finding(Outcome.IMAGE_UNAVAILABLE, None, image_digest=TWO_IMAGES),
            "image_unavailable with images",
        ),
        (finding(Outcome.FAILED, 1, artifacts=(artifact("a"),)), "failed with artifacts"),
        (finding(artifacts=(artifact("b"), artifact("a"))), "not sorted"),
        (finding(artifacts=(artifact("../a"),)), "plain relative path"),
        (reported(SKIPPED, {"a": "passed"}), "skipped with test cases"),
        (
            reported(finding(Outcome.CHECKOUT_FAILED, 128), {"a": "failed"}),
            "failed with test cases",
        ),
        (FORGED, "does not follow from its lines"),
    ],
)
def test_findings_that_cannot_count(found: BuildResult, reason: str) -> None:
    refusal = build_of().ballot_refusal(found, Limits())
    assert refusal is not None
    assert reason in refusal


def test_without_a_commit_in_the_request_only_a_failed_checkout_may_have_none() -> None:
    build = build_of(commit=None)
    assert (
        build.ballot_refusal(finding(Outcome.CHECKOUT_FAILED, 128, commit=None), Limits()) is None
    )
    assert build.ballot_refusal(PASSED, Limits()) is None
    assert build.ballot_refusal(finding(commit=None), Limits()) == "passed without a commit"


def test_a_build_comes_back_with_its_ballots_in_order() -> None:
    build = build_of().with_ballot("z", PASSED).with_ballot("a", ABSTAIN).with_report("a")
    again = decode_build(encode_build(build))
    assert again == build
    assert list(again.ballots) == ["z", "a"]


def test_ballots_in_another_order_are_another_state() -> None:
    one = build_of().with_ballot("z", PASSED).with_ballot("a", ABSTAIN)
    other = build_of().with_ballot("a", ABSTAIN).with_ballot("z", PASSED)
    assert encode_build(one) != encode_build(other)


def test_the_verdict_starts_the_reports_anew_and_changes_no_other_build() -> None:
    build = build_of().with_report("a")
    decided = build.with_verdict(DISPUTED, 3, b"{}")
    assert (decided.is_decided, decided.reports, decided.verdict_index) == (True, (), 3)
    assert (build.is_decided, build.reports) == (False, ("a",))
    assert decode_build(encode_build(decided)) == decided


def test_askers_come_and_go() -> None:
    build = build_of().with_asker(Requester("other", 5, b"o" * 32))
    assert [asker.client for asker in build.without_asker("gateway").askers] == ["other"]
    assert build.without_asker("stranger") == build


def test_strange_bytes_are_malformed() -> None:
    data = encode_build(build_of())
    for strange in (b"", data[:-1], data + b"\0", b"\x91" * 10_000):
        with pytest.raises(MalformedBuild):
            decode_build(strange)


def test_a_second_encoding_is_malformed() -> None:
    # the same fields, the opening in eight bytes instead of one
    seven = msgspec.msgpack.encode(7)
    data = encode_build(build_of()).replace(seven, b"\xcf" + (7).to_bytes(8, "big"), 1)
    with pytest.raises(MalformedBuild, match="one encoding"):
        decode_build(data)
