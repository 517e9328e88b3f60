"""Bytes to messages: one encoding per message, and whatever a stranger sends is refused."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.authentication import Authenticator
from pbft.codec import (
    BATCH_REQUESTS_MAX,
    FRAME_BYTES_MAX,
    MalformedMessage,
    decode_batch,
    decode_frame,
    decode_message,
    decode_request,
    decode_signed,
    digest_of,
    encode_batch,
    encode_frame,
    encode_message,
    encode_signed,
    signing_bytes,
)
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    Hello,
    Prepare,
    PrePrepare,
    Replies,
    Reply,
    Request,
    Signed,
    Status,
)
from pbft.ports import Refusal
from tests.pbft.world import World, verify

# The same examples in every run, and no time limit that a busy machine could break.
usual = settings(derandomize=True, deadline=None, database=None)
thorough = settings(usual, max_examples=300)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
numbers = st.integers(0, 2**62)
timestamps = st.integers(1, 2**62)
indexes = st.integers(0, 1023)
digests = st.binary(min_size=32, max_size=32)
replies = st.builds(
    Reply,
    names,
    numbers,
    digests,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=32),
    st.binary(max_size=64),
    st.binary(max_size=300),
    st.binary(max_size=64),
)
any_message: st.SearchStrategy[AnyMessage] = st.one_of(
    st.builds(Request, names, timestamps, st.binary(max_size=300)),
    st.builds(PrePrepare, numbers, numbers, digests, indexes),
    st.builds(Prepare, numbers, numbers, digests, indexes),
    st.builds(Commit, numbers, numbers, digests, indexes),
    st.builds(Checkpoint, numbers, digests, indexes),
    st.builds(Status, numbers, st.booleans(), numbers, numbers, indexes),
    st.builds(Replies, st.lists(replies, max_size=4).map(tuple), indexes),
    st.builds(Hello, st.sampled_from(["dialler", "acceptor"]), names, names, digests, digests),
)
any_signed = st.builds(Signed, names, st.binary(max_size=300), st.binary(min_size=64, max_size=64))
# What a stranger may send: noise, and things that are well-formed MessagePack of another shape.
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)
tags = st.sampled_from(
    ["request", "preprepare", "prepare", "commit", "checkpoint", "status", "replies", "hello"]
)
almost = st.tuples(tags, st.lists(plain, max_size=6)).map(lambda pair: [pair[0], *pair[1]])
strange_bytes = st.binary(max_size=300) | (plain | almost).map(msgspec.msgpack.encode)


@usual
@given(any_message)
def test_a_message_comes_back_from_its_bytes(message: AnyMessage) -> None:
    payload = encode_message(message)
    again = decode_message(payload)
    assert type(again) is type(message)
    assert again == message
    assert encode_message(again) == payload


@usual
@given(any_signed, st.binary(max_size=100))
def test_signed_messages_and_frames_come_back(signed: Signed, body: bytes) -> None:
    assert decode_signed(encode_signed(signed)) == signed
    frame = (Envelope(signed, body), Envelope(signed))
    assert decode_frame(encode_frame(frame)) == frame
    assert decode_frame(encode_frame(())) == ()


@usual
@given(st.lists(any_signed, min_size=1, max_size=5).map(tuple))
def test_batches_come_back(requests: tuple[Signed, ...]) -> None:
    assert decode_batch(encode_batch(requests)) == requests


@thorough
@given(strange_bytes)
def test_strange_bytes_give_a_message_with_this_one_encoding_or_malformed(data: bytes) -> None:
    for decode, encode in (
        (decode_message, encode_message),
        (decode_signed, encode_signed),
        (decode_batch, encode_batch),
    ):
        try:
            value: Any = decode(data)
        except MalformedMessage:
            continue
        assert encode(value) == data
    with contextlib.suppress(MalformedMessage):
        decode_frame(data)


@thorough
@given(any_message, st.data())
def test_a_changed_byte_gives_another_message_or_malformed(
    message: AnyMessage, data: st.DataObject
) -> None:
    payload = encode_message(message)
    position = data.draw(st.integers(0, len(payload) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != payload[position]))
    mutated = payload[:position] + bytes([value]) + payload[position + 1 :]
    try:
        again = decode_message(mutated)
    except MalformedMessage:
        return
    assert (type(again), again) != (type(message), message)


def re_encodings(payload: bytes) -> list[bytes]:
    """Other MessagePack of the same values: longer headers where shorter ones do."""
    count = payload[0] & 0x0F
    return [
        b"\xdc" + count.to_bytes(2, "big") + payload[1:],
        b"\xdd" + count.to_bytes(4, "big") + payload[1:],
        payload + b"\0",
        b"\0" + payload,
        payload[:-1],
    ]


def test_another_encoding_of_the_same_message_is_malformed() -> None:
    message = Prepare(1, 2, bytes(32), 3)
    payload = encode_message(message)
    wide_view = payload.replace(b"\x01\x02\xc4", b"\xcc\x01\x02\xc4")
    real_view = payload.replace(b"\x01\x02\xc4", b"\xcb\x3f\xf0\0\0\0\0\0\0\x02\xc4")
    wide_digest = payload.replace(b"\xc4\x20", b"\xc5\x00\x20")
    for other in [*re_encodings(payload), wide_view, real_view, wide_digest]:
        assert other != payload
        with pytest.raises(MalformedMessage):
            decode_message(other)


def test_another_encoding_of_a_signed_message_or_batch_is_malformed() -> None:
    world = World()
    signed = world.request(1, b"x")
    for other in re_encodings(encode_signed(signed)):
        with pytest.raises(MalformedMessage):
            decode_signed(other)
    for other in re_encodings(encode_batch((signed,))):
        with pytest.raises(MalformedMessage):
            decode_batch(other)


@pytest.mark.parametrize(
    "values",
    [
        ["prepare", -1, 1, bytes(32), 1],
        ["prepare", 2**62 + 1, 1, bytes(32), 1],
        ["prepare", 0, 1, bytes(31), 1],
        ["prepare", 0, 1, bytes(33), 1],
        ["prepare", 0, 1, "x" * 32, 1],
        ["prepare", 0, 1, bytes(32), 1024],
        ["prepare", True, 1, bytes(32), 1],
        ["prepare", None, 1, bytes(32), 1],
        ["prepare", 0, 1, bytes(32)],
        ["prepare", 0, 1, bytes(32), 1, 1],
        ["Prepare", 0, 1, bytes(32), 1],
        ["vote", 0, 1, bytes(32), 1],
        [],
        {"type": "prepare"},
        ["request", "", 1, b""],
        ["request", "c" * 65, 1, b""],
        ["request", "c", 0, b""],
        ["request", "c", 1, bytes(256 * 1024 + 1)],
        ["hello", bytes(32), ""],
        ["checkpoint", 2, bytes(32), -1],
    ],
)
def test_values_out_of_range_are_malformed(values: object) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(msgspec.msgpack.encode(values))


@pytest.mark.parametrize(
    "data", [b"\x91" * 100_000, b"\x81\xa1a" * 100_000, b"\xc1", b"\xdd\xff\xff\xff\xff"]
)
def test_deep_or_endless_structures_are_malformed(data: bytes) -> None:
    for decode in (decode_message, decode_signed, decode_batch, decode_frame):
        with pytest.raises(MalformedMessage):
            decode(data)


def test_limits() -> None:
    signed = World().request(1, b"")
    with pytest.raises(MalformedMessage, match="a frame of"):
        decode_frame(bytes(FRAME_BYTES_MAX + 1))
    with pytest.raises(MalformedMessage, match="a batch of 0"):
        decode_batch(encode_batch(()))
    assert len(decode_batch(encode_batch([signed] * BATCH_REQUESTS_MAX))) == BATCH_REQUESTS_MAX
    with pytest.raises(MalformedMessage, match="a batch of"):
        decode_batch(encode_batch([signed] * (BATCH_REQUESTS_MAX + 1)))


def test_a_request_is_nothing_else() -> None:
    world = World()
    assert decode_request(world.request(1, b"x")) == Request("client", 1, b"x")
    with pytest.raises(MalformedMessage, match="Prepare where a Request"):
        decode_request(world.prepare(1, bytes(32), 2))


@usual
@given(any_message, any_message)
def test_what_is_signed_differs_for_different_messages(
    first: AnyMessage, second: AnyMessage
) -> None:
    covered = [
        signing_bytes(message, encode_message(message), bytes(32), epoch=0)
        for message in (first, second)
    ]
    is_same = type(first) is type(second) and first == second
    assert (covered[0] == covered[1]) == is_same


def test_what_is_signed_names_protocol_type_cluster_and_epoch() -> None:
    message = Prepare(0, 1, bytes(32), 1)
    payload = encode_message(message)
    covered = signing_bytes(message, payload, b"c" * 32, epoch=258)
    assert covered == b"pbft-ci 1 Prepare\0" + b"c" * 32 + bytes(6) + b"\x01\x02" + payload
    others = [
        signing_bytes(message, payload, b"d" * 32, epoch=258),
        signing_bytes(message, payload, b"c" * 32, epoch=259),
        signing_bytes(Commit(0, 1, bytes(32), 1), payload, b"c" * 32, epoch=258),
    ]
    assert covered not in others


WORLD = World()


@thorough
@given(any_message, st.data())
def test_a_changed_byte_of_a_signed_message_is_never_accepted(
    message: AnyMessage, data: st.DataObject
) -> None:
    """A member signs; one byte of what travels is changed; nobody believes it."""
    if isinstance(message, Request):
        message = Request("client", message.timestamp, message.operation)
        name = "client"
    elif isinstance(message, Hello):
        name = "r2"
    else:
        message = msgspec.structs.replace(message, replica=2)
        name = "r2"
    good = WORLD.sign(name, message)
    authenticator = Authenticator(WORLD.cluster, verify)
    travelling = encode_signed(good)
    position = data.draw(st.integers(0, len(travelling) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != travelling[position]))
    mutated = travelling[:position] + bytes([value]) + travelling[position + 1 :]
    for remembered in (False, True):
        if remembered:
            assert authenticator.check(good, message) is None
        try:
            signed = decode_signed(mutated)
        except MalformedMessage:
            return
        read = authenticator.read(signed)
        assert isinstance(read, Refusal) or authenticator.check(signed, read) is not None


def test_a_digest_is_sha_256() -> None:
    assert digest_of(b"").hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
