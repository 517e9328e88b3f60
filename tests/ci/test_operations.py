"""Operations: strange bytes are refused by one error, and no field is skipped."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.artifact_rules import artifacts_refusal
from ci.limits import Limits
from ci.operations import (
    IMAGES_MAX,
    OPERATION_BYTES_MAX,
    Agreement,
    Append,
    ApproveBuild,
    BuildResult,
    CancelBuild,
    CastBallot,
    Delivery,
    Event,
    ImageDigest,
    MalformedOperation,
    Noop,
    Operation,
    ReportDeadline,
    Step,
    SubmitBuild,
    decode_operation,
    encode_operation,
)
from tests.ci.builders import ABSTAIN, COMMIT, PASSED, artifact, finding, submit_build

BUILD = b"b" * 32


@pytest.mark.parametrize(
    "operation",
    [
        SubmitBuild(b"i" * 32, "https://example.org/r.git", "master", COMMIT),
        SubmitBuild(b"i" * 32, "https://example.org/r.git", "no such branch", None),
        CastBallot(BUILD, 7, PASSED),
        CastBallot(BUILD, 7, ABSTAIN),
        ReportDeadline(BUILD, 7),
        CancelBuild(BUILD),
        ApproveBuild(BUILD),
        SubmitBuild(
            b"i" * 32,
            "https://example.org/r.git",
            "v1.0",
            COMMIT,
            Event.TAG,
            "refs/tags/v1.0",
            Delivery("github", b"d" * 32),
            needs_approval=True,
        ),
        CastBallot(BUILD, 7, finding(agreement=Agreement.WEAK, artifacts=(artifact("a"),))),
        Append("text"),
        Noop(b"padding"),
    ],
)
def test_an_operation_comes_back(operation: Operation) -> None:
    assert decode_operation(encode_operation(operation)) == operation


@given(st.binary(max_size=400))
def test_any_bytes_are_an_operation_or_malformed(data: bytes) -> None:
    try:
        operation = decode_operation(data)
    except MalformedOperation:
        return
    assert decode_operation(encode_operation(operation)) == operation


def test_a_step_has_the_bytes_that_it_had_before_a_failure_could_be_ignored() -> None:
    steps = (Step("test", True), Step("release", False), Step("lint", None))
    encoded = encode_operation(CastBallot(BUILD, 7, finding(steps=steps)))
    assert msgspec.msgpack.decode(encoded)[3][1][7] == [
        ["test", True],
        ["release", False],
        ["lint", None],
    ]
    assert decode_operation(encoded) == CastBallot(BUILD, 7, finding(steps=steps))


def test_a_commit_may_not_end_with_a_line_feed() -> None:
    with pytest.raises(MalformedOperation):
        decode_operation(
            msgspec.msgpack.encode(["submit_build", b"i" * 32, "r", "master", COMMIT + "\n"])
        )


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "main",
        "--upload-pack=x",
        "refs/",
        "refs/a b",
        "refs/a:b",
        "refs/a\n",
        "refs/a*",
        "/refs/a",
    ],
)
def test_a_ref_is_one_full_name(ref: str) -> None:
    asked = submit_build(ref=ref)
    with pytest.raises(MalformedOperation):
        decode_operation(encode_operation(asked))


def test_the_images_of_a_finding_are_a_digest_or_several_with_their_names() -> None:
    """The bytes of a finding with one image or none are those of before there could be several."""

    def encoded(image_digest: object) -> bytes:
        found: Any = finding(image_digest=image_digest)  # type: ignore[arg-type]
        return encode_operation(CastBallot(BUILD, 7, found))

    one = "sha256:" + "1" * 64
    place = msgspec.msgpack.decode(encoded(one))[3][1][4]
    assert place == one
    assert msgspec.msgpack.decode(encoded(None))[3][1][4] is None
    several = tuple(ImageDigest(f"image{n}", None if n else one) for n in range(IMAGES_MAX))
    read = decode_operation(encoded(several))
    assert isinstance(read, CastBallot)
    assert isinstance(read.ballot, BuildResult)
    assert read.ballot.compared.images == several
    assert read.ballot.compared.only_image_digest is None
    for wrong in (
        (),
        several[:1],
        (*several, ImageDigest("z", None)),
        (several[0], ImageDigest("b", "1" * 64)),
        (several[0], ImageDigest("b c", None)),
        (several[0], ImageDigest("b" * 201, None)),
    ):
        with pytest.raises(MalformedOperation):
            decode_operation(encoded(wrong))


def test_the_largest_ballot_there_can_be_is_an_operation() -> None:
    """So no honest replica's ballot is ever too long to be ordered."""
    limits = Limits()
    paths = sorted(f"{number:03}" + "\U0001f600" * 63 for number in range(64))
    artifacts = tuple(artifact(path) for path in paths)
    assert artifacts_refusal(artifacts, limits) is None
    found = finding(image_digest="d" * 512, artifacts=artifacts)
    encoded = encode_operation(CastBallot(BUILD, 2**53, found))
    assert len(encoded) < OPERATION_BYTES_MAX
    assert decode_operation(encoded) == CastBallot(BUILD, 2**53, found)


def test_an_unknown_field_is_refused_however_deep_it_is_nested() -> None:
    head = msgspec.msgpack.encode(["cast_ballot", BUILD, 7])[1:]
    abstain = msgspec.msgpack.encode(["abstain", "x"])[1:]
    # a ballot of three fields, the third an array in an array in an array ...
    nested = b"\x94" + head + b"\x93" + abstain + b"\x91" * 50_000 + b"\x01"
    with pytest.raises(MalformedOperation):
        decode_operation(nested)
    with pytest.raises(MalformedOperation):
        decode_operation(b"\x91" * 50_000)


def test_an_operation_has_a_size() -> None:
    with pytest.raises(MalformedOperation, match="at most"):
        decode_operation(encode_operation(Noop(bytes(OPERATION_BYTES_MAX))))
