"""Operations: strange bytes are refused by one error, and no field is skipped."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.artifact_rules import artifacts_refusal
from ci.limits import Limits
from ci.operations import (
    OPERATION_BYTES_MAX,
    Agreement,
    Append,
    ApproveBuild,
    CancelBuild,
    CastBallot,
    Delivery,
    Event,
    MalformedOperation,
    Noop,
    Operation,
    ReportDeadline,
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
