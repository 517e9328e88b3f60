"""How operators decide who the members of the next epoch are (docs/decisions/0058).

The rule: an epoch has one change, made as operators decide together (`ci.proposals`). It is final,
and with it all proposals are void. A proposal counts only if its configuration can follow this one
(`successor_refusal`), and if the replicas that it names are ready: each new key that is not vacant,
and `strong` of them in all, have signed it. So a mistyped key cannot end the cluster.

Nothing of this is in the state before the first proposal.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from ci.admission import room_refusal
from ci.limits import Limits
from ci.operations import CONFIGURATION_BYTES_MAX, ProposeMembers, Ready
from ci.proposals import Proposals
from ci.state_partitions import MEMBERS_PART, CorruptState, decode_part
from pbft.genesis import Cluster, InvalidGenesis, is_vacant, vacant_key
from pbft.messages import Digest
from pbft.ports import Verify
from pbft.quorums import UnsupportedSize

READY_PREFIX = b"pbft-ci 1 Ready\0"


class MembersProposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Members of the next epoch that an operator proposed, and who approved them so far."""

    # of the operator
    proposer: str
    # the last sequence number at which it can be approved
    until: Annotated[int, msgspec.Meta(ge=0)]
    # an encoded Genesis
    configuration: Annotated[bytes, msgspec.Meta(max_length=CONFIGURATION_BYTES_MAX)]
    # the operators who approved, in their order; the proposer is the first
    approvals: tuple[str, ...]

    def digest(self, cluster_id: bytes) -> bytes:
        """What an approval names: all but the approvals, in this cluster."""
        fields = (cluster_id, self.proposer, self.until, self.configuration)
        return hashlib.sha256(b"pbft-ci members\0" + msgspec.msgpack.encode(fields)).digest()


class MembersPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The part of the state; there is none before the first proposal.

    made: the configuration (digest) that follows this epoch; None: no change was made.
    """

    made: Digest | None
    pending: tuple[MembersProposal, ...]


class MemberChanges(Proposals[MembersProposal]):
    """The change of members in one replica's state, and what operators proposed."""

    def __init__(self, cluster: Cluster, verify: Verify) -> None:
        super().__init__(cluster)
        self._verify = verify
        # the configuration (digest) that follows this epoch, once it is decided
        self.made: bytes | None = None

    def propose(
        self, operation: ProposeMembers, operator: str, sequence: int, *, limits: Limits
    ) -> MembersProposal | str:
        """The proposal that now is this operator's only one, or why there is none.

        Accepted if no change was made in this epoch, the operator can propose, `until` lies ahead,
        the configuration can follow this one, and its replicas are ready.
        limits: those that hold.
        """
        if self.made is not None:
            return "this epoch has its change of members"
        if reason := self.proposer_refusal(operator):
            return reason
        if sequence > operation.until:
            return "the sequence number is past until"
        following = read_successor(self._cluster, limits, operation.configuration)
        if isinstance(following, str):
            return following
        if reason := ready_refusal(
            self._cluster, following, operation.readies, verify=self._verify
        ):
            return reason
        proposal = MembersProposal(operator, operation.until, operation.configuration, (operator,))
        self.put(proposal)
        return proposal

    def make(self, proposal: MembersProposal) -> Cluster:
        """Make the change that was approved, and which members follow; all proposals are void."""
        following = configuration_of(proposal.configuration)
        self.made = following.configuration
        self.clear()
        return following

    def end_epoch(self) -> None:
        """The next epoch has none."""
        self.made = None
        self.clear()

    def parts(self) -> dict[str, bytes]:
        """The part of the state; none if there is nothing to say."""
        if self.made is None and not self._pending:
            return {}
        return {MEMBERS_PART: msgspec.msgpack.encode(MembersPart(self.made, self.pending))}

    def restore_part(self, part: MembersPart) -> None:
        """Replace everything by what `decode_members_part` gave."""
        self.made = part.made
        self.restore(part.pending)


def decode_members_part(parts: Mapping[str, bytes]) -> MembersPart:
    """What a state says about a change of members. Raises CorruptState."""
    if MEMBERS_PART not in parts:
        return MembersPart(None, ())
    part = decode_part(parts, MEMBERS_PART, MembersPart)
    if (part.made is None) is not bool(part.pending):
        raise CorruptState(f"{MEMBERS_PART}: a change and proposals, or neither")
    if len({proposal.proposer for proposal in part.pending}) != len(part.pending):
        raise CorruptState(f"{MEMBERS_PART}: two proposals of one operator")
    try:
        for proposal in part.pending:
            configuration_of(proposal.configuration)
    except (InvalidGenesis, UnsupportedSize) as error:
        raise CorruptState(f"{MEMBERS_PART}: {error}") from error
    return part


def configuration_of(encoded: bytes) -> Cluster:
    """The members and rules in these bytes, without ancestry. Raises InvalidGenesis and
    UnsupportedSize."""
    following = Cluster.from_bytes(encoded)
    if following.encoded != encoded:
        raise InvalidGenesis("not the one encoding of this configuration")
    return following


def read_successor(cluster: Cluster, limits: Limits, encoded: bytes) -> Cluster | str:
    """The configuration in these bytes, if it can follow this cluster's; or why not."""
    try:
        following = configuration_of(encoded)
    except (InvalidGenesis, UnsupportedSize):
        return "this is no valid configuration"
    return successor_refusal(cluster, limits, following) or following


def successor_refusal(cluster: Cluster, limits: Limits, following: Cluster) -> str | None:
    """Why this configuration cannot follow the cluster's; None: it can.

    limits: those that hold. They go over with the state, so the configuration repeats those that
    the cluster began with.
    """
    if following.configuration == cluster.configuration:
        return "this is the configuration of the present epoch"
    if following.genesis.application != cluster.genesis.application:
        return "the limits are others than those that the cluster began with"
    protocol = cluster.genesis.protocol
    # No release's own highest version: all replicas must refuse the same.
    if following.genesis.protocol not in (protocol, protocol + 1):
        asked = following.genesis.protocol
        return f"its protocol is {asked}, and {protocol} or {protocol + 1} can follow"
    vacant = sum(is_vacant(member) for member in following.genesis.replicas)
    if vacant > following.quorums.faults_max:
        return f"{vacant} seats are vacant, and f is {following.quorums.faults_max}"
    if any(is_vacant(member) for member in following.genesis.clients):
        return "a client has the key of a vacant seat"
    if room_refusal(following, limits):
        return "with these members the state could become too large"
    return None


def who_keeps_ledger(cluster: Cluster, following: Cluster) -> tuple[str, ...]:
    """The replicas of the next epoch that have the ledger of this one: those that stay.

    A replica that gets another key keeps its name and its data.
    """
    return tuple(
        member.name
        for member in following.genesis.replicas
        if cluster.replica_index(member.name) is not None
        and not is_vacant(member)
        and cluster.public_key(member.name) != vacant_key(member.name)
    )


def ready_bytes(cluster_id: bytes, configuration: bytes) -> bytes:
    """What a replica of the next epoch signs: in this epoch it is ready for that configuration."""
    return READY_PREFIX + cluster_id + configuration


def ready_refusal(
    cluster: Cluster, following: Cluster, readies: Sequence[Ready], *, verify: Verify
) -> str | None:
    """Why these replicas are not enough for the next epoch to begin; None: they are.

    Each with a key that no replica has now must be ready, unless it is vacant; and `strong` in all.
    At most one signature per replica is checked.
    """
    signed = {ready.replica: ready.signature for ready in readies}
    if len(signed) != len(readies):
        return "a replica is ready twice"
    present = {member.public_key for member in cluster.genesis.replicas}
    message = ready_bytes(cluster.id, following.configuration)
    ready = 0
    for member in following.genesis.replicas:
        signature = signed.pop(member.name, None)
        if signature is None:
            if member.public_key not in present and not is_vacant(member):
                return "a replica with a new key is not ready"
        elif not verify(member.public_key, message, signature):
            return "the signature of a replica that is said to be ready does not hold"
        else:
            ready += 1
    if signed:
        return "a replica is ready that is none of the next epoch"
    if ready < following.quorums.strong:
        return f"{ready} replicas are ready, and it takes {following.quorums.strong}"
    return None
