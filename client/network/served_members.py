"""GET /pbft/members as commands read it. Pure.

Nothing of it is taken on a node's word: an operator has the next members in a file of its own, and
a proposal's digest is computed from that.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from ci.member_changes import MembersProposal
from ci.operations import CONFIGURATION_BYTES_MAX
from client.network.served_limits import PENDING_MAX, Count, Name
from pbft.genesis import Cluster

HexDigest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ServedMembersProposal(msgspec.Struct, frozen=True):
    """A proposal, as a node has it in its state; `digest` and `configuration` in hexadecimal."""

    digest: HexDigest
    proposer: Name
    until: Count
    configuration: Annotated[
        str, msgspec.Meta(pattern=r"^([0-9a-f]{2})+\Z", max_length=2 * CONFIGURATION_BYTES_MAX)
    ]
    approvals: Annotated[tuple[Name, ...], msgspec.Meta(max_length=PENDING_MAX)]

    @property
    def encoded(self) -> bytes:
        """The configuration."""
        return bytes.fromhex(self.configuration)

    def is_of(self, cluster: Cluster) -> bool:
        """Whether the digest is that of what is shown, in this cluster."""
        proposal = MembersProposal(self.proposer, self.until, self.encoded, ())
        return proposal.digest(cluster.id).hex() == self.digest


class ServedMembers(msgspec.Struct, frozen=True):
    """A node's answer."""

    cluster: Annotated[str, msgspec.Meta(max_length=64)]
    epoch: Count
    # up to which its state is executed
    sequence: Count
    # the last sequence number of this epoch; None: no end is decided
    last: Count | None
    # of the next epoch (digest), if that is decided
    configuration: HexDigest | None
    # whether the node may succeed
    is_sealed: bool
    pending: Annotated[tuple[ServedMembersProposal, ...], msgspec.Meta(max_length=PENDING_MAX)]


def pending_proposals(
    cluster: Cluster, answers: Mapping[str, ServedMembers]
) -> list[tuple[ServedMembersProposal, tuple[str, ...]]]:
    """The proposals that are what their digest says, and which replicas have each, by digest."""
    shown: dict[str, ServedMembersProposal] = {}
    known: dict[str, list[str]] = {}
    for name in cluster.replica_names:
        answer = answers.get(name)
        if answer is None or answer.cluster != cluster.id.hex():
            continue
        for proposal in answer.pending:
            if proposal.is_of(cluster):
                shown.setdefault(proposal.digest, proposal)
                known.setdefault(proposal.digest, []).append(name)
    return [(shown[digest], tuple(known[digest])) for digest in sorted(shown)]
