"""Whether a signed message really comes from the member that it names.

The rule: a message is read by its signed payload only; the signer's name outside is nothing but
a hint for the key, and must be the sender that the payload names (docs/TRAPS.md 7c, 19).
"""

from collections.abc import Sequence

import msgspec

from pbft.codec import (
    MalformedMessage,
    beginning_of,
    decode_message,
    digest_of,
    signing_bytes,
)
from pbft.genesis import Cluster
from pbft.messages import (
    AnyMessage,
    Envelope,
    FetchBody,
    FetchState,
    Hello,
    Message,
    Replies,
    Request,
    Signed,
    Status,
)
from pbft.ports import Refusal, Sign, Verify

# How the reason begins why a message is refused that is none of this version.
MALFORMED = "malformed"
# Enough for the requests and votes of a full window of slots at n = 13.
REMEMBERED_MAX = 65_536
# They are about the moment and one receiver: where I stand, send me that, this is your answer.
_FROM_THEIR_SIGNERS_ONLY: tuple[type[Message], ...] = (Status, FetchBody, FetchState, Replies)
_BEGINNINGS = tuple(beginning_of(kind) for kind in _FROM_THEIR_SIGNERS_ONLY)


class Identity(msgspec.Struct, frozen=True):
    """Which member of which cluster this is."""

    cluster: Cluster
    name: str
    # with this member's own key
    sign: Sign


class Authenticator:
    """Checks signatures once: verification is remembered by the exact bytes."""

    def __init__(self, cluster: Cluster, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._good: dict[bytes, None] = {}

    def read(self, signed: Signed) -> AnyMessage | Refusal:
        """The message, where its payload is one and names the signer; no signature check yet."""
        try:
            message = decode_message(signed.payload)
        except MalformedMessage as error:
            return Refusal(f"{MALFORMED}: {error}")
        if isinstance(message, Request):
            if message.client != signed.signer:
                return Refusal("the signer is not the client that the request names")
        elif not isinstance(message, Hello):
            if self._cluster.replica_index(signed.signer) != message.replica:
                return Refusal("the signer is not the replica that the message names")
            return message
        if self._cluster.public_key(signed.signer) is None:
            return Refusal("unknown signer")
        return message

    def check(self, signed: Signed, message: AnyMessage) -> Refusal | None:
        """Whether the signature holds for what `read` gave; None if it does."""
        mark = digest_of(signed.signature + signed.signer.encode() + b"\0" + signed.payload)
        if mark in self._good:
            return None
        public_key = self._cluster.public_key(signed.signer)
        if public_key is None:
            return Refusal("unknown signer")
        covered = signing_bytes(
            message, signed.payload, self._cluster.id, epoch=self._cluster.epoch
        )
        if not self._verify(public_key, covered, signed.signature):
            return Refusal("bad signature")
        if len(self._good) >= REMEMBERED_MAX:
            del self._good[next(iter(self._good))]
        self._good[mark] = None
        return None


def sign_message(message: AnyMessage, payload: bytes, signer: Identity) -> Signed:
    """The signed form of a message whose payload bytes are given."""
    cluster = signer.cluster
    signature = signer.sign(signing_bytes(message, payload, cluster.id, epoch=cluster.epoch))
    return Signed(signer.name, payload, signature)


def is_relayed(peer: str, signed: Signed) -> bool:
    """Whether this is a word that counts only from its signer, and came from another peer.

    peer: who is at the other end of the link. No correct replica passes such words on. If they
    counted, a faulty one could send an old STATUS or FETCH-BODY of another replica at the right
    moments: the answers to it, which are bounded per replica and time, would be used up by what
    that replica has, and it would never get what it lacks.
    Reads only how the payload begins: a large one that is relayed rightly is decoded once, by the
    core. What begins so and is malformed is lost here instead of refused there.
    """
    return signed.signer != peer and signed.payload.startswith(_BEGINNINGS)


def without_relayed(peer: str, envelopes: Sequence[Envelope]) -> list[Envelope]:
    """What a link brought, in its order, but for what `is_relayed` says."""
    return [envelope for envelope in envelopes if not is_relayed(peer, envelope.signed)]
