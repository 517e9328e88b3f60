"""Proof of misbehaviour as the nodes hand it out: checked here, by the genesis alone.

What a node says beside the two messages (whom they convict, of what) is not looked at.
"""

import hashlib

import msgspec

from client.network.nodes import ServedPair
from common.configuration.keys import verify
from pbft.codec import MalformedMessage, decode_message, decode_signed
from pbft.evidence import check_evidence
from pbft.genesis import Cluster
from pbft.messages import Signed
from pbft.ports import Refusal

DIGEST_CHARACTERS = 16


class ProofView(msgspec.Struct, frozen=True):
    """Two messages that no correct replica signs both.

    replica: who signed them. proves: in a sentence. first, second: what they are, a line each.
    held_by: the replicas that hand the proof out.
    """

    replica: str
    proves: str
    first: str
    second: str
    held_by: tuple[str, ...] = ()


def check_pair(pair: ServedPair, cluster: Cluster) -> Refusal | str:
    """What two messages prove, by the genesis alone; nothing else in the pair is believed."""
    try:
        first, second = decode_signed(pair.first), decode_signed(pair.second)
    except MalformedMessage as error:
        return Refusal(f"not two signed messages: {error}")
    return check_evidence(first, second, cluster, verify=verify)


def read_proof(pair: ServedPair, cluster: Cluster) -> ProofView | Refusal:
    """The proof in a pair of messages, or why it is none."""
    proved = check_pair(pair, cluster)
    if isinstance(proved, Refusal):
        return proved
    first, second = decode_signed(pair.first), decode_signed(pair.second)
    return ProofView(first.signer, proved, _told(first), _told(second))


def pair_key(pair: ServedPair) -> bytes:
    """Equal for the same two messages, in whatever order they are."""
    digests = sorted(hashlib.sha256(data).digest() for data in (pair.first, pair.second))
    return b"".join(digests)


def _told(signed: Signed) -> str:
    """A checked message in a line: its kind, its place, and what tells it from the other one."""
    message = decode_message(signed.payload)
    places = [
        f"{name} {getattr(message, name)}"
        for name in ("view", "sequence")
        if hasattr(message, name)
    ]
    digest = getattr(message, "digest", None)
    what = "digest" if isinstance(digest, bytes) else "SHA-256 of the message"
    told = digest if isinstance(digest, bytes) else hashlib.sha256(signed.payload).digest()
    place = ", ".join(places)
    return f"{type(message).__name__}, {place}: {what} {told.hex()[:DIGEST_CHARACTERS]}"
