"""trust.json: whose keys scripts/verify_build.py trusts, and what is needed to renew the file.

The rule: it has the keys of the newest epoch, from which links lead on, and those of the epochs
before that it came by. `root` is the fingerprint that a person confirmed; no renewal changes it.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

import msgspec

from ci.statement import keyid_for
from common.configuration.config import AncestryEntry
from common.configuration.keys import public_key_pem
from pbft.genesis import Cluster, InvalidGenesis, check_protocol
from pbft.quorums import UnsupportedSize

TRUST_FORMAT = 1
TRUST_BYTES_MAX = 1024 * 1024
TRUST_DAYS = 30
KEY_TYPE = "ed25519"


class InvalidTrust(ValueError):
    """A trust file that cannot be renewed; one line why."""


class TrustFile(msgspec.Struct, frozen=True):
    """What a trust file holds. cluster: the newest epoch. root: a fingerprint in hexadecimal.

    confirmed: when members were last asked for links; None: never. earlier: of each epoch before,
    the oldest first, what `_epoch` gives.
    """

    cluster: Cluster
    root: str
    confirmed: date | None
    earlier: tuple[Mapping[str, Any], ...]

    def followed_by(self, clusters: tuple[Cluster, ...], today: date) -> "TrustFile":
        """The same once links have led to these clusters, one after the other."""
        before = (self.cluster, *clusters)[:-1]
        return TrustFile(
            (self.cluster, *clusters)[-1],
            self.root,
            today,
            (*self.earlier, *(_epoch(cluster) for cluster in before)),
        )

    def encode(self) -> dict[str, object]:
        """The JSON of the file."""
        fields = trust_of(self.cluster)
        fields["root"] = self.root
        if self.confirmed is not None:
            fields["confirmed"] = self.confirmed.isoformat()
        if self.earlier:
            fields["earlier"] = list(self.earlier)
        return fields


def trust_of(cluster: Cluster) -> dict[str, object]:
    """What scripts/verify_build.py has to trust: the replicas' keys, and how many may lie.

    `cluster` is the lineage, as statements name it. `epoch` and `instance` say whose keys they are.
    `keys` has the same once more, as other people's verifiers take it: by the key ids that are in
    the envelopes, as securesystemslib reads them, and in PEM. `configuration` and `ancestry` are
    what a link to the next epoch is checked against.
    """
    fields: dict[str, object] = {
        "format": TRUST_FORMAT,
        "cluster": cluster.lineage.hex(),
        **_epoch(cluster),
        "keys": {
            keyid_for(member.public_key): {
                "keytype": KEY_TYPE,
                "scheme": KEY_TYPE,
                "keyval": {"public": member.public_key.hex()},
                "name": member.name,
                "pem": public_key_pem(member.public_key),
            }
            for member in cluster.genesis.replicas
        },
        "configuration": base64.b64encode(cluster.encoded).decode(),
    }
    if cluster.ancestry is not None:
        fields["ancestry"] = msgspec.to_builtins(AncestryEntry.of(cluster.ancestry))
    return fields


def read_trust(data: bytes) -> TrustFile:
    """The content of a trust file. Raises InvalidTrust."""
    if len(data) > TRUST_BYTES_MAX:
        raise InvalidTrust(f"more than {TRUST_BYTES_MAX} bytes")
    try:
        fields = msgspec.json.decode(data, type=_Fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTrust(f"no trust file ({error})") from error
    if fields.format != TRUST_FORMAT:
        raise InvalidTrust(f"has format {fields.format}, this version reads {TRUST_FORMAT}")
    if fields.configuration is None:
        raise InvalidTrust(
            "has no configuration, as a release before wrote it: make it again from the cluster"
            " file of its epoch (trust --cluster FILE), and compare cluster, instance and keys"
        )
    try:
        encoded = base64.b64decode(fields.configuration, validate=True)
        genesis = Cluster.from_bytes(encoded).genesis
        check_protocol(genesis)
        ancestry = None if fields.ancestry is None else fields.ancestry.ancestry
        cluster = Cluster(genesis, ancestry)
    except (binascii.Error, ValueError, InvalidGenesis, UnsupportedSize) as error:
        raise InvalidTrust(f"has no valid configuration ({error})") from error
    # whoever reads the file trusts the keys: links must lead on from just these
    present = {**_epoch(cluster), "cluster": cluster.lineage.hex()}
    if present != {**fields.epoch_fields, "cluster": fields.cluster}:
        raise InvalidTrust("names other members than its configuration")
    return TrustFile(
        cluster, fields.root or cluster.id.hex(), fields.confirmed, tuple(fields.earlier)
    )


class _Fields(msgspec.Struct, frozen=True):
    format: int
    cluster: str
    faults_max: int
    replicas: dict[str, str]
    epoch: int = 0
    instance: str | None = None
    configuration: str | None = None
    ancestry: AncestryEntry | None = None
    root: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    confirmed: date | None = None
    earlier: list[dict[str, Any]] = []

    @property
    def epoch_fields(self) -> dict[str, object]:
        """As `_epoch` gives them."""
        named = {"epoch": self.epoch, "instance": self.instance} if self.epoch else {}
        return {**named, "faults_max": self.faults_max, "replicas": self.replicas}


def _epoch(cluster: Cluster) -> dict[str, object]:
    # left out in epoch 0, so that its file stays what it was
    named = {"epoch": cluster.epoch, "instance": cluster.id.hex()} if cluster.epoch else {}
    return {
        **named,
        "faults_max": cluster.quorums.faults_max,
        "replicas": {member.name: member.public_key.hex() for member in cluster.genesis.replicas},
    }
