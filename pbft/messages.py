"""The messages of the protocol, as they are signed and as they travel.

A message is signed as the bytes that travel (`Signed.payload`); nothing is encoded again to be
checked. Fields carry the names of the paper (OSDI'99, section 4). Sizes that a stranger chooses
have a limit here, so that decoding alone refuses them.
"""

from typing import Annotated, Literal

import msgspec

NAME_CHARACTERS_MAX = 64
REQUEST_BYTES_MAX = 256 * 1024
# A body of requests on the wire; a cluster with a large window takes smaller ones (pbft.genesis).
BODY_BYTES_MAX = 4 * 1024 * 1024
# A payload: the largest is a NEW-VIEW, `strong` VIEW-CHANGEs with up to a window of certificates.
PAYLOAD_BYTES_MAX = 24 * 1024 * 1024
REPLIES_MAX = 4096
# Parts of the replicated state; an application must hold fewer.
STATE_LEAVES_MAX = 65_536

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
ReplicaIndex = Annotated[int, msgspec.Meta(ge=0, le=1023)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
PartName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Payload = Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]


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


class PreparedCertificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The PRE-PREPARE and the 2f matching PREPAREs of distinct backups (an element of P, 4.4)."""

    pre_prepare: Signed
    prepares: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=1024)]


class ViewChange(Message, frozen=True):
    """<VIEW-CHANGE, v+1, n, C, P, i>: a replica leaves for `view` (4.4).

    `stable` is its last stable checkpoint, `certificate` its proof (C; empty at 0), `prepared`
    what it prepared above (P), in order of sequence numbers. `recovered` is T of the replica's last
    RECOVER that it executed (4.3), 0 where there is none: so it is not from before that.
    """

    view: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    stable: Number
    certificate: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=1024)]
    prepared: Annotated[tuple[PreparedCertificate, ...], msgspec.Meta(max_length=131072)]
    replica: ReplicaIndex
    recovered: Number = 0


class NewView(Message, frozen=True):
    """<NEW-VIEW, v+1, V, O>: the new primary's proof that its view may begin (4.4)."""

    view: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    view_changes: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=1024)]
    pre_prepares: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=131072)]
    replica: ReplicaIndex


class Status(Message, frozen=True):
    """Where a replica stands, so that peers re-send what it lacks (docs/PROTOCOL.md, "Catch-up").

    `has_entered` is false between the replica's VIEW-CHANGE for `view` and its NEW-VIEW.
    """

    view: Number
    has_entered: bool
    stable: Number
    executed: Number
    replica: ReplicaIndex


class FetchBody(Message, frozen=True):
    """A replica lacks the body with this digest for that sequence number."""

    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class Body(Message, frozen=True):
    """A body travels beside this; whoever sends it, the digest says that it is the one."""

    sequence: Number
    digest: Digest
    replica: ReplicaIndex


class FetchState(Message, frozen=True):
    """A replica lacks the state at this stable checkpoint: all its leaves, or these parts."""

    sequence: Number
    names: Annotated[tuple[PartName, ...], msgspec.Meta(max_length=4096)]
    replica: ReplicaIndex


class StateLeaves(Message, frozen=True):
    """The leaves of the state at a stable checkpoint: (name, SHA-256) of every part, sorted."""

    sequence: Number
    leaves: Annotated[
        tuple[tuple[PartName, Digest], ...], msgspec.Meta(max_length=STATE_LEAVES_MAX)
    ]
    replica: ReplicaIndex


class StateParts(Message, frozen=True):
    """Some parts of the state at a stable checkpoint."""

    sequence: Number
    parts: Annotated[tuple[tuple[PartName, bytes], ...], msgspec.Meta(max_length=4096)]
    replica: ReplicaIndex


class Recover(Message, frozen=True):
    """A replica lost what it had said, and asks to take part again (docs/PROTOCOL.md, "Recovery").

    Ordered like a request. `nonce` is drawn anew for each loss: by it the replica knows its own.
    `stable` is its last stable checkpoint, which says how old the RECOVER is
    (`core.Core.recover_refusal`).
    """

    nonce: Digest
    replica: ReplicaIndex
    stable: Number


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
    """The replies of one turn to one client, under one signature (measured: docs/FACTS.md)."""

    replies: Annotated[tuple[Reply, ...], msgspec.Meta(max_length=REPLIES_MAX)]
    replica: ReplicaIndex


class Hello(Message, frozen=True):
    """Proves to the other end of a link who is at this one, which is the dialler or the acceptor.

    Both ends sign the same names and challenges; `role` is the signer's, so that neither end's
    proof can be passed for the other's.
    """

    role: Literal["dialler", "acceptor"]
    dialler: Name
    acceptor: Name
    dialler_challenge: Digest
    acceptor_challenge: Digest


AnyMessage = (
    Request
    | PrePrepare
    | Prepare
    | Commit
    | Checkpoint
    | ViewChange
    | NewView
    | Status
    | FetchBody
    | Body
    | FetchState
    | StateLeaves
    | StateParts
    | Recover
    | Replies
    | Hello
)
Vote = Prepare | Commit
