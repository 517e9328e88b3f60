"""GET /pbft/limits as commands read it, and what f + 1 replicas say alike. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import msgspec

from ci.limit_changes import Proposal
from ci.limits import Limits, encode_limits
from pbft.genesis import Cluster

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(max_length=64)]
PENDING_MAX = 1024
KNOWN_MAX = 256


class ServedProposal(msgspec.Struct, frozen=True):
    """A proposal, as a node has it in its state; `digest` in hexadecimal."""

    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    proposer: Name
    serial: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    until: Count
    limits: Limits
    approvals: Annotated[tuple[Name, ...], msgspec.Meta(max_length=PENDING_MAX)]

    def is_of(self, cluster: Cluster) -> bool:
        """Whether the digest is that of what is shown, in this cluster."""
        encoded = encode_limits(self.limits)
        proposal = Proposal(self.proposer, self.serial, self.until, encoded, self.approvals)
        return proposal.digest(cluster.id).hex() == self.digest


class ServedLimits(msgspec.Struct, frozen=True):
    """A node's answer."""

    cluster: Annotated[str, msgspec.Meta(max_length=64)]
    # up to which its state is executed
    sequence: Count
    serial: Count
    since: Count
    limits: Limits
    pending: Annotated[tuple[ServedProposal, ...], msgspec.Meta(max_length=PENDING_MAX)]
    # the names of all limits that the node knows; without these: as before there was `cells_max`
    known: Annotated[tuple[Name, ...], msgspec.Meta(max_length=KNOWN_MAX)] = ()


class AgreedLimits(msgspec.Struct, frozen=True):
    """What f + 1 replicas say alike, so that a correct one does."""

    serial: int
    since: int
    limits: Limits
    # who says so, in the cluster's order
    replicas: tuple[str, ...]
    # each with the approvals that f + 1 replicas report
    pending: tuple[ServedProposal, ...]
    # the lowest sequence number that at most f replicas exceed
    sequence: int


def agree(cluster: Cluster, answers: Mapping[str, ServedLimits]) -> AgreedLimits | None:
    """What f + 1 of these answers, by replica, say alike; None: no f + 1 do.

    If two groups do, while a change is being executed, the newer one.
    """
    weak = cluster.quorums.weak
    groups: dict[tuple[int, int, Limits], list[str]] = {}
    for name in cluster.replica_names:
        said = answers.get(name)
        if said is not None and said.cluster == cluster.id.hex():
            groups.setdefault((said.serial, said.since, said.limits), []).append(name)
    agreed = [(key, names) for key, names in groups.items() if len(names) >= weak]
    if not agreed:
        return None
    (serial, since, limits), names = max(agreed, key=lambda group: group[0][0])
    reached = sorted((answers[name].sequence for name in names), reverse=True)
    pending = _agreed_pending(cluster, [answers[name] for name in names])
    return AgreedLimits(serial, since, limits, tuple(names), pending, reached[weak - 1])


def _agreed_pending(cluster: Cluster, answers: list[ServedLimits]) -> tuple[ServedProposal, ...]:
    weak = cluster.quorums.weak
    shown: dict[str, ServedProposal] = {}
    seen: Counter[str] = Counter()
    approved: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        proposals = {p.digest: p for p in answer.pending if p.is_of(cluster)}
        shown.update(proposals)
        seen.update(proposals.keys())
        approved.update(
            (digest, name) for digest, p in proposals.items() for name in dict.fromkeys(p.approvals)
        )
    return tuple(
        msgspec.structs.replace(
            proposal,
            approvals=tuple(n for n in proposal.approvals if approved[digest, n] >= weak),
        )
        for digest, proposal in shown.items()
        if seen[digest] >= weak
    )
