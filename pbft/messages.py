"""The messages of the protocol, as they are signed and as they travel.

A message is signed as the bytes that travel (`Signed.payload`); nothing is encoded again to be
checked. Fields carry the names of the paper (OSDI'99, section 4). Sizes that a stranger chooses
have a limit here, so that decoding alone refuses them.
"""

from typing import Annotated

import msgspec

NAME_CHARACTERS_MAX = 64
REQUEST_BYTES_MAX = 256 * 1024
BODY_BYTES_MAX = 8 * 1024 * 1024
REPLIES_MAX = 4096

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
ReplicaIndex = Annotated[int, msgspec.Meta(ge=0, le=1023)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Payload = Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)]


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A payload, who says that it signed it, and the Ed25519 signature.

    Until the signature is checked, `signer` is a claim and the payload is a stranger's bytes.
    """

    signer: Name
    payload: Payload
    signature: Signature


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels: a signed message and, beside a PRE-PREPARE, the body its digest covers."""

    signed: Signed
    body: Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)] = b""


class Message(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=str.lower
):
    """The base of all payloads: an array whose first item names the type."""


class Request(Message, frozen=True):
    """<REQUEST, o, t, c>: `client` asks for `operation`; `timestamp` counts 1, 2, 3 ..."""

    client: Name
    timestamp: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    operation: Annotated[bytes, msgspec.Meta(max_length=REQUEST_BYTES_MAX)]


class PrePrepare(Message, frozen=True):
    """<PRE-PREPARE, v, n, d>: the primary gives the batch with this digest a sequence number."""

    view: Number
    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class Prepare(Message, frozen=True):
    """<PREPARE, v, n, d, i>: a backup accepted that pre-prepare."""

    view: Number
    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class Commit(Message, frozen=True):
    """<COMMIT, v, n, d, i>: a replica is prepared."""

    view: Number
    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class Checkpoint(Message, frozen=True):
    """<CHECKPOINT, n, d, i>: the state of a replica after executing `sequence` has this digest."""

    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class Status(Message, frozen=True):
    """Where a replica stands, so that its peers re-send what it lacks (DESIGN: catch-up)."""

    view: Number
    stable: Number
    executed: Number
    replica: ReplicaIndex


class Reply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One answer to one request.

    `kind` says which answer (a request may have a second one later), `subject` what it is about
    (a build's id; empty where there is none). `attestation` is the replica's signature over what
    the application wants signed apart (the verdict's statement); it is not compared.
    """

    client: Name
    timestamp: Number
    request_digest: Digest
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    subject: Annotated[bytes, msgspec.Meta(max_length=64)]
    result: Annotated[bytes, msgspec.Meta(max_length=REQUEST_BYTES_MAX)]
    attestation: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Replies(Message, frozen=True):
    """The replies of one turn to one client, under one signature (measured: DESIGN section 5)."""

    replies: Annotated[tuple[Reply, ...], msgspec.Meta(max_length=REPLIES_MAX)]
    replica: ReplicaIndex


class Hello(Message, frozen=True):
    """Proves to the other end of a link who is at this one: signs the challenge it was sent."""

    challenge: Digest
    to: Name


AnyMessage = Request | PrePrepare | Prepare | Commit | Checkpoint | Status | Replies | Hello
Vote = Prepare | Commit
