"""Operations: strange bytes are refused by one error, and no field is skipped."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.operations import (
    OPERATION_BYTES_MAX,
    Append,
    CancelBuild,
    CastBallot,
    MalformedOperation,
    Noop,
    Operation,
    ReportDeadline,
    SubmitBuild,
    decode_operation,
    encode_operation,
)
from tests.ci.builders import ABSTAIN, COMMIT, PASSED

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
