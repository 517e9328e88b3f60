"""Epochs one after the other, and links between them that real keys signed."""

from collections.abc import Mapping
from functools import partial

import msgspec

from pbft.authentication import Identity, sign_message
from pbft.certificates import StableCertificate, state_digest
from pbft.codec import encode_message
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster, Member
from pbft.messages import Checkpoint, Signed
from tests.ci.builders import signing_key

NEW_KEY = "the new key of replica-3"


def rekeyed(cluster: Cluster, secret: str = NEW_KEY) -> Cluster:
    """The configuration with another key for replica-3."""
    *others, last = cluster.genesis.replicas
    changed = Member(last.name, bytes(signing_key(secret).verify_key), last.roles)
    return Cluster(msgspec.structs.replace(cluster.genesis, replicas=(*others, changed)))


def state_at_end(
    cluster: Cluster, named: Cluster, more: Mapping[str, bytes] = {}
) -> dict[str, bytes]:
    """The state with which this cluster's epoch ends, where those are the next members."""
    return {
        "epoch": (cluster.epoch + 1).to_bytes(8, "big"),
        "configuration": named.configuration,
        **more,
    }


def lead(
    cluster: Cluster,
    named: Cluster,
    secrets: Mapping[str, str] = {},
    more: Mapping[str, bytes] = {},
) -> tuple[EpochLink, Cluster]:
    """The link from this cluster to those members, signed by its first `strong` replicas.

    secrets: of which key each signs, if not of its name's. more: what else the state there has.
    """
    end = cluster.checkpoint_from(cluster.begins_after + 1)
    parts = state_at_end(cluster, named, more)
    digest = state_digest(parts)
    votes: list[Signed] = []
    for index, name in enumerate(cluster.replica_names[: cluster.quorums.strong]):
        message = Checkpoint(end, digest, index)
        signer = Identity(cluster, name, partial(_sign, secrets.get(name, name)))
        votes.append(sign_message(message, encode_message(message), signer))
    following = cluster.succeeded_by(named.genesis, end, digest)
    return EpochLink.of(following, StableCertificate(end, digest, tuple(votes)), parts), following


def _sign(secret: str, data: bytes) -> bytes:
    return signing_key(secret).sign(data).signature
