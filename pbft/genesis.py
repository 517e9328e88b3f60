"""Who takes part and by which rules: the genesis, whose digest is the cluster's identity.

Nothing that may differ between machines is in it: no address, no path, no local setting. A later
change of members begins an epoch: a genesis of its own, with its ancestry (docs/decisions/0058).
"""

import hashlib
from typing import Annotated, Self

import msgspec

from pbft.messages import (
    BODY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Digest,
    Name,
    Number,
)
from pbft.quorums import Quorums, quorums_for

# Versions of the protocol: the rules that replicas must share to agree. A cluster is raised to the
# next one by a change of members (docs/decisions/0060).
PROTOCOL_MIN = 1
# Since this one, nothing is expected of a vacant seat.
PROTOCOL_WITHOUT_VACANT = 2
# The highest that this release speaks.
PROTOCOL_MAX = 2
REPLICA_ROLE = "replica"
# What the bodies of all slots that are kept may come to, where the window allows it.
WINDOW_BYTES_MAX = 256 * 1024 * 1024
# The largest request has room in a batch, and twice that, however large the window is.
BODY_BYTES_LEAST = 2 * REQUEST_BYTES_MAX

# Each client that ever asked for something is a part of the replicated state.
CLIENTS_MAX = 1024

# What a signed PRE-PREPARE, PREPARE or CHECKPOINT takes beside its signer's name, and what goes
# around certificates and messages beside it, at most (tests/pbft/test_genesis.py measures it).
VOTE_BYTES = 140
AROUND_BYTES = 300

PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class InvalidGenesis(ValueError):
    """A genesis that contradicts itself; the text names the field and what is allowed."""


class Member(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Somebody whose signature counts: a name, an Ed25519 public key (32 bytes), roles."""

    name: Name
    public_key: PublicKey
    roles: tuple[str, ...]


class Genesis(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all replicas start from.

    protocol: the version of the rules. All versions have these fields, so that a release can order
        a change to a version that it does not speak itself.
    """

    protocol: Annotated[int, msgspec.Meta(ge=PROTOCOL_MIN, le=2**16)]
    replicas: tuple[Member, ...]
    clients: tuple[Member, ...]
    # K: a checkpoint every so many sequence numbers
    checkpoint_interval: int
    # L: how far above the last stable checkpoint sequence numbers may go; at least 2 K
    window: int
    # W: how far a client's timestamps may run ahead of its lowest unexecuted one
    client_window: int
    # the encoded rules of the replicated application (ci.limits), opaque here
    application: bytes


def vacant_key(name: str) -> bytes:
    """The public key of the replica of that name, if it has no owner: nobody has its private key.

    It follows from the name, so everybody sees that it is nobody's.
    """
    return hashlib.sha256(b"pbft-ci vacant seat\0" + name.encode()).digest()


def is_vacant(member: Member) -> bool:
    """Whether nobody has the key of that member."""
    return member.public_key == vacant_key(member.name)


class Ancestry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a later epoch begins with.

    lineage: the id of the cluster of epoch 0. epoch: the number of this one. previous: the id of
    the cluster before. sequence: T, the last sequence number of that one; state: the digest of the
    replicated state there.
    """

    lineage: Digest
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**32)]
    previous: Digest
    sequence: Number
    state: Digest


class Cluster:
    """The genesis and what follows from it: thresholds, keys, roles, the cluster id.

    ancestry: of an epoch that continues another one; None for epoch 0.
    """

    def __init__(self, genesis: Genesis, ancestry: Ancestry | None = None) -> None:
        _check(genesis)
        self.genesis = genesis
        self.ancestry = ancestry
        self.encoded: bytes = msgspec.msgpack.encode(genesis)
        # Without the ancestry: what operators agree on before T and the state there are known.
        self.configuration: bytes = hashlib.sha256(b"pbft-ci genesis\0" + self.encoded).digest()
        # It stands in each signature, so nothing of one epoch counts in another.
        self.id: bytes = self.configuration
        if ancestry is not None:
            encoded = msgspec.msgpack.encode((self.configuration, ancestry))
            self.id = hashlib.sha256(b"pbft-ci epoch\0" + encoded).digest()
        self.epoch: int = 0 if ancestry is None else ancestry.epoch
        # The id of the cluster of epoch 0, for ever: build ids, ledger and statements have it.
        self.lineage: bytes = self.id if ancestry is None else ancestry.lineage
        # The sequence number after which this epoch's numbers begin.
        self.begins_after: int = 0 if ancestry is None else ancestry.sequence
        self.quorums: Quorums = quorums_for(len(genesis.replicas))
        # The payload of a right NEW-VIEW has no more; a larger one is refused.
        self.new_view_bytes_max: int = new_view_bytes(genesis, genesis.window)
        self.replica_names: tuple[str, ...] = tuple(member.name for member in genesis.replicas)
        self._members = {member.name: member for member in (*genesis.replicas, *genesis.clients)}
        self._replica_index = {name: index for index, name in enumerate(self.replica_names)}
        # From whom a message may come at all: primaries and executors are taken from them, and
        # nobody waits for the others.
        self.expected_names: tuple[str, ...] = tuple(
            member.name
            for member in genesis.replicas
            if genesis.protocol < PROTOCOL_WITHOUT_VACANT or not is_vacant(member)
        )
        self._primaries = tuple(self._replica_index[name] for name in self.expected_names)

    @property
    def body_bytes_max(self) -> int:
        """The largest body of a batch, the same everywhere.

        A faulty primary can make every replica keep a body for each slot, L + K of them: so the
        larger the window, the smaller a body.
        """
        slots = self.genesis.window + self.genesis.checkpoint_interval
        return min(BODY_BYTES_MAX, max(BODY_BYTES_LEAST, WINDOW_BYTES_MAX // slots))

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """The cluster of an encoded genesis. Raises InvalidGenesis."""
        try:
            genesis = msgspec.msgpack.decode(encoded, type=Genesis)
        except msgspec.MsgspecError as error:
            raise InvalidGenesis(f"not a genesis: {error}") from error
        return cls(genesis)

    def public_key(self, name: str) -> bytes | None:
        """The pinned public key of a member, or None for a stranger."""
        member = self._members.get(name)
        return member.public_key if member else None

    def roles(self, name: str) -> tuple[str, ...]:
        """The roles of a member; none for a stranger."""
        member = self._members.get(name)
        return member.roles if member else ()

    def replica_index(self, name: str) -> int | None:
        """The number of the replica of that name, or None."""
        return self._replica_index.get(name)

    def primary(self, view: int) -> int:
        """p = v mod n (OSDI'99, 4), where n counts the replicas of which something is expected."""
        return self._primaries[view % len(self._primaries)]

    @property
    def ancestors(self) -> tuple[bytes, ...]:
        """The ids of earlier epochs that are known here: the one before, and the lineage."""
        ancestry = self.ancestry
        return () if ancestry is None else (ancestry.previous, ancestry.lineage)

    def is_checkpoint(self, sequence: int) -> bool:
        """Whether a checkpoint is taken at this number: each K-th of this epoch (4.3)."""
        return (sequence - self.begins_after) % self.genesis.checkpoint_interval == 0

    def checkpoint_from(self, sequence: int) -> int:
        """The first checkpoint at or above this number."""
        interval = self.genesis.checkpoint_interval
        return sequence + -(sequence - self.begins_after) % interval

    def succeeded_by(self, genesis: Genesis, sequence: int, state: bytes) -> "Cluster":
        """The cluster that follows this one, which ended at that number with that state (digest).

        Raises InvalidGenesis.
        """
        ancestry = Ancestry(self.lineage, self.epoch + 1, self.id, sequence, state)
        return Cluster(genesis, ancestry)


def new_view_bytes(genesis: Genesis, window: int) -> int:
    """The most a NEW-VIEW can have: `strong` VIEW-CHANGEs with a certificate per slot, and O.

    So it is whatever liars say: `certificates.check_view_change` refuses what is larger. A
    checkpoint's certificate may have a vote of each replica, a prepared one has just `prepares`.
    """
    quorums = quorums_for(len(genesis.replicas))
    name = max(len(member.name.encode()) for member in genesis.replicas)
    vote = VOTE_BYTES + name
    certificate = (1 + quorums.prepares) * vote + 8
    view_change = AROUND_BYTES + name + quorums.replicas * vote + window * certificate
    return AROUND_BYTES + name + quorums.strong * view_change + window * vote


def window_max(genesis: Genesis) -> int:
    """The largest window with which a view can change whatever is prepared in it."""
    fixed = new_view_bytes(genesis, 0)
    return (PAYLOAD_BYTES_MAX - fixed) // (new_view_bytes(genesis, 1) - fixed)


def check_protocol(genesis: Genesis) -> None:
    """Raise InvalidGenesis if this release does not speak the protocol of that genesis."""
    if not PROTOCOL_MIN <= genesis.protocol <= PROTOCOL_MAX:
        raise InvalidGenesis(
            f"protocol {genesis.protocol}: this release speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}; "
            "install a newer one"
        )


def _check(genesis: Genesis) -> None:
    quorums_for(len(genesis.replicas))
    names = [member.name for member in (*genesis.replicas, *genesis.clients)]
    if len(set(names)) != len(names):
        raise InvalidGenesis("two members of the genesis have one name")
    if len(genesis.clients) > CLIENTS_MAX:
        raise InvalidGenesis(
            f"{len(genesis.clients)} clients: at most {CLIENTS_MAX} are allowed, or the state could"
            " become too large to be fetched"
        )
    keys = [member.public_key for member in (*genesis.replicas, *genesis.clients)]
    if len(set(keys)) != len(keys):
        raise InvalidGenesis("two members of the genesis have one public key")
    for member in genesis.replicas:
        if member.roles != (REPLICA_ROLE,):
            raise InvalidGenesis(f"replica {member.name}: its roles must be just 'replica'")
    for member in genesis.clients:
        if REPLICA_ROLE in member.roles:
            raise InvalidGenesis(f"client {member.name}: only replicas have the role 'replica'")
    if genesis.checkpoint_interval < 1:
        raise InvalidGenesis("checkpoint_interval must be at least 1")
    if genesis.window < 2 * genesis.checkpoint_interval:
        raise InvalidGenesis("window must be at least twice checkpoint_interval")
    if genesis.window > window_max(genesis):
        raise InvalidGenesis(
            f"window is {genesis.window}: with {len(genesis.replicas)} replicas at most"
            f" {window_max(genesis)} is allowed, or a NEW-VIEW would be too large to send"
        )
    if genesis.client_window < 1:
        raise InvalidGenesis("client_window must be at least 1")
