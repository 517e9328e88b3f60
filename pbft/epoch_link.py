"""How whoever trusts one epoch accepts the next (docs/decisions/0058).

The rule: an epoch is followed only by what its own `strong` replicas signed. Their CHECKPOINTs of T
bear the digest of the state there, and that state names the configuration of the next epoch. Of the
state a link has the digests of its parts, which is enough to see that: the parts may be large.
"""

from collections.abc import Mapping
from typing import Self

import msgspec

from pbft.authentication import Authenticator
from pbft.certificates import StableCertificate, check_stable, leaves_digest, state_leaves
from pbft.checkpoint import CONFIGURATION_PART, EPOCH_PART
from pbft.codec import digest_of
from pbft.genesis import Cluster, InvalidGenesis, check_protocol
from pbft.messages import Digest, Number, Signed
from pbft.ports import Refusal, Verify
from pbft.quorums import UnsupportedSize

# Of an encoded link. A state has fewer than 10,000 parts (`ci.admission.room_refusal`), and each
# takes about 110 bytes here.
LINK_BYTES_MAX = 8 * 1024 * 1024


class EpochLink(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What leads from an epoch to the next one."""

    # an encoded Genesis: the configuration of the next epoch
    configuration: bytes
    # T, the last sequence number of the epoch
    sequence: Number
    # `strong` CHECKPOINTs of T by distinct replicas of the epoch
    checkpoints: tuple[Signed, ...]
    # (name, SHA-256) of each part of the state at T, sorted by name
    leaves: tuple[tuple[str, Digest], ...]

    @classmethod
    def of(
        cls, following: Cluster, certificate: StableCertificate, parts: Mapping[str, bytes]
    ) -> Self:
        """The link to that cluster.

        certificate: of the last checkpoint of the epoch before. parts: the state there.
        """
        leaves = state_leaves(parts)
        return cls(following.encoded, certificate.sequence, certificate.checkpoints, leaves)


def decode_link(data: bytes) -> EpochLink | Refusal:
    """The link in these bytes, which a stranger may have written; or why there is none."""
    if len(data) > LINK_BYTES_MAX:
        return Refusal("larger than a link can be")
    try:
        return msgspec.msgpack.decode(data, type=EpochLink)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Refusal("no link between epochs")


def follow(cluster: Cluster, link: EpochLink, *, verify: Verify) -> Cluster | Refusal:
    """The cluster of the next epoch, if `cluster` ended with what the link says; or why not."""
    if link.sequence <= cluster.begins_after or not cluster.is_checkpoint(link.sequence):
        return Refusal("no checkpoint of this epoch")
    state = check_stable(
        link.checkpoints, link.sequence, cluster, authenticator=Authenticator(cluster, verify)
    )
    if isinstance(state, Refusal):
        return state
    if leaves_digest(link.leaves) != state:
        return Refusal("the parts of the state are others than those that were signed")
    try:
        named = Cluster.from_bytes(link.configuration)
        # the names and keys of a later protocol are known, but not what they count for
        check_protocol(named.genesis)
    except (InvalidGenesis, UnsupportedSize) as error:
        return Refusal(f"no valid configuration: {error}")
    leaves = dict(link.leaves)
    # A state within an epoch names that epoch, and its own configuration.
    if leaves.get(EPOCH_PART) != digest_of((cluster.epoch + 1).to_bytes(8, "big")):
        return Refusal("the state is not the one that the epoch ended with")
    if leaves.get(CONFIGURATION_PART) != digest_of(named.configuration):
        return Refusal("the replicas agreed on another configuration")
    return cluster.succeeded_by(named.genesis, link.sequence, state)
