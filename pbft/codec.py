"""Bytes to messages and back, with one encoding per message, and what a signature covers.

The rule: a decoder gives back either a message whose only encoding is the bytes it was given,
or MalformedMessage. What a stranger sends can do no more than that. A frame is no message: it is
taken apart and forgotten, so its own encoding does not matter.
"""

import hashlib

import msgspec

from pbft.messages import (
    BODY_BYTES_MAX,
    AnyMessage,
    Envelope,
    Message,
    Recover,
    Request,
    Signed,
    ViewChange,
)

FRAME_BYTES_MAX = 32 * 1024 * 1024
BATCH_REQUESTS_MAX = 4096
SIGNING_PREFIX = b"pbft-ci 1 "

_VIEW_CHANGE = ViewChange.__name__.lower()
_encoder = msgspec.msgpack.Encoder()
_message_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_signed_decoder = msgspec.msgpack.Decoder(Signed)
_frame_decoder = msgspec.msgpack.Decoder(tuple[Envelope, ...])
_batch_decoder = msgspec.msgpack.Decoder(tuple[Signed, ...])


# How the RECOVERs of versions began that named no checkpoint: with one item less.
_RECOVER_WITHOUT_CHECKPOINT = b"\x93\xa7recover"


class MalformedMessage(ValueError):
    """Bytes that are not a message of this protocol; the text says what was wrong."""


class OlderForm(MalformedMessage):
    """What an older version put into a batch, and this one does not execute."""


def digest_of(data: bytes) -> bytes:
    """SHA-256, the D(m) of the paper. 32 bytes."""
    return hashlib.sha256(data).digest()


def encode_message(message: AnyMessage) -> bytes:
    """The payload bytes of a message.

    `recovered`, the last field of a VIEW-CHANGE, is left out at 0: so it is as versions that did
    not know it wrote it, on disk as well.
    """
    if isinstance(message, ViewChange) and not message.recovered:
        return _encoder.encode((_VIEW_CHANGE, *msgspec.structs.astuple(message)[:-1]))
    return _encoder.encode(message)


def decode_message(payload: bytes) -> AnyMessage:
    """The message in these payload bytes. Raises MalformedMessage."""
    try:
        message = _message_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from error
    if encode_message(message) != payload:
        raise MalformedMessage("not the one encoding of this message")
    return message


def beginning_of(kind: type[Message]) -> bytes:
    """The bytes with which each payload of this type begins, and no payload of another one.

    Only for types whose fields are all required: an array's head counts its items.
    """
    tag = kind.__name__.lower()
    head_and_rest = _encoder.encode((tag, *(None for _ in kind.__struct_fields__)))
    # One byte counts the items, one the characters of the tag: there are few of both.
    return head_and_rest[: 2 + len(tag)]


def signing_bytes(message: AnyMessage, payload: bytes, cluster_id: bytes, *, epoch: int) -> bytes:
    """What is signed: a prefix that names the protocol, type, cluster and epoch, then the payload.

    The prefix keeps a signature from counting as another type's, another cluster's or another
    epoch's (docs/TRAPS.md 4, 19).
    """
    kind = type(message).__name__.encode()
    return SIGNING_PREFIX + kind + b"\0" + cluster_id + epoch.to_bytes(8, "big") + payload


def encode_signed(signed: Signed) -> bytes:
    """The bytes of one signed message, as POST /pbft/message takes and records hold them."""
    return _encoder.encode(signed)


def decode_signed(data: bytes) -> Signed:
    """The inverse of encode_signed. Raises MalformedMessage."""
    try:
        signed = _signed_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error
    if _encoder.encode(signed) != data:
        raise MalformedMessage("not the one encoding of this message")
    return signed


def encode_frame(envelopes: tuple[Envelope, ...] | list[Envelope]) -> bytes:
    """Many messages in one WebSocket frame."""
    return _encoder.encode(envelopes)


def decode_frame(data: bytes) -> tuple[Envelope, ...]:
    """The messages of one frame; their signatures are not checked yet. Raises MalformedMessage."""
    if len(data) > FRAME_BYTES_MAX:
        raise MalformedMessage(f"a frame of {len(data)} bytes; at most {FRAME_BYTES_MAX}")
    try:
        return _frame_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error


def encode_batch(requests: tuple[Signed, ...] | list[Signed]) -> bytes:
    """The body of a PRE-PREPARE: its signed requests, as they came."""
    body = _encoder.encode(requests)
    assert len(body) <= BODY_BYTES_MAX
    return body


def decode_batch(body: bytes) -> tuple[Signed, ...]:
    """The signed requests of a body, at least one. Raises MalformedMessage."""
    try:
        requests = _batch_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error
    if not 1 <= len(requests) <= BATCH_REQUESTS_MAX:
        raise MalformedMessage(f"a batch of {len(requests)}; 1 to {BATCH_REQUESTS_MAX}")
    if _encoder.encode(requests) != body:
        raise MalformedMessage("not the one encoding of this batch")
    return requests


def decode_ordered(signed: Signed) -> Request | Recover:
    """What may stand in a batch. Raises MalformedMessage where it is something else.

    Raises OlderForm, which is one, where it is a RECOVER of an older version.
    """
    if signed.payload.startswith(_RECOVER_WITHOUT_CHECKPOINT):
        raise OlderForm("a RECOVER of an older version")
    message = decode_message(signed.payload)
    if not isinstance(message, Request | Recover):
        raise MalformedMessage(f"{type(message).__name__} where a Request was expected")
    return message


def decode_request(signed: Signed) -> Request:
    """The request in a signed message. Raises MalformedMessage where it is something else."""
    message = decode_message(signed.payload)
    if not isinstance(message, Request):
        raise MalformedMessage(f"{type(message).__name__} where a Request was expected")
    return message
