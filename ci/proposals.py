"""What operators decide together: proposals, approvals, and when enough seats have approved.

The rule: it takes operators of `strong` distinct seats (`ci.seats`) who approved one proposal. So
the operators of f seats can neither decide anything nor block what all others want. What they can
do is bounded:

- A proposal belongs to its proposer. Each operator has one, which a newer one replaces, so nobody
  takes up the place of another.
- An approval names the digest of all of the proposal, the proposer included, so it counts for
  nothing that its operator has not seen.
- Above the sequence number `until` neither a proposal nor an approval is accepted. What is past it
  waits for its operator's next proposal, or until another one is made.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import msgspec

from ci.seats import seats_of, seats_with_operators
from pbft.genesis import Cluster


class Proposed(Protocol):
    """A proposal; a frozen struct of msgspec.

    proposer: of the operator. until: the last sequence number at which it can be approved.
    approvals: the operators who approved, in their order; the proposer is the first.
    """

    @property
    def proposer(self) -> str: ...  # noqa: D102 - the class says it

    @property
    def until(self) -> int: ...  # noqa: D102

    @property
    def approvals(self) -> tuple[str, ...]: ...  # noqa: D102

    def digest(self, cluster_id: bytes) -> bytes:
        """What an approval names: all but the approvals, in this cluster."""


_Proposal = TypeVar("_Proposal", bound=Proposed)


class Proposals(Generic[_Proposal]):
    """The proposals of one kind that are pending, each operator's one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pending: dict[str, _Proposal] = {}

    @property
    def pending(self) -> tuple[_Proposal, ...]:
        """The proposals that nothing has voided, the oldest first; also those past `until`."""
        return tuple(self._pending.values())

    def proposer_refusal(self, operator: str) -> str | None:
        """Why this operator can propose nothing; None: it can.

        It can if it has a seat and `strong` seats have operators.
        """
        if not seats_of(self._cluster, [operator]):
            return "this operator stands for no replica"
        strong = self._cluster.quorums.strong
        if len(seats_with_operators(self._cluster)) < strong:
            return f"fewer than {strong} replicas have an operator who stands for them"
        return None

    def put(self, proposal: _Proposal) -> None:
        """Keep it as its proposer's only one, behind all others."""
        self._pending.pop(proposal.proposer, None)
        self._pending[proposal.proposer] = proposal

    def approve(self, digest: bytes, operator: str, sequence: int) -> _Proposal | str:
        """The proposal with one more approval, or why there is none.

        Accepted if the operator has a seat, that very proposal is pending and not past `until`,
        and the operator has not approved it.
        """
        if not seats_of(self._cluster, [operator]):
            return "this operator stands for no replica"
        proposal = self._find(digest, sequence)
        if proposal is None:
            return "no such proposal is pending"
        if operator in proposal.approvals:
            return "this operator has approved it already"
        approved = _with_approvals(proposal, (*proposal.approvals, operator))
        self._pending[proposal.proposer] = approved
        return approved

    def withdraw(self, digest: bytes, operator: str, sequence: int) -> str | None:
        """Drop this operator's proposal, or its approval of another's; or why not.

        Accepted if that very proposal is pending and not past `until`, and the operator proposed or
        approved it.
        """
        proposal = self._find(digest, sequence)
        if proposal is None:
            return "no such proposal is pending"
        if operator not in proposal.approvals:
            return "this operator neither proposed nor approved it"
        if operator == proposal.proposer:
            del self._pending[operator]
            return None
        approvals = tuple(name for name in proposal.approvals if name != operator)
        self._pending[proposal.proposer] = _with_approvals(proposal, approvals)
        return None

    def approved_seats(self, proposal: _Proposal) -> tuple[str, ...]:
        """The replicas whose operators approved it, each once."""
        return seats_of(self._cluster, proposal.approvals)

    def is_approved(self, proposal: _Proposal) -> bool:
        """Whether operators of `strong` seats approved it, so that it is to be made."""
        return len(self.approved_seats(proposal)) >= self._cluster.quorums.strong

    def clear(self) -> None:
        """All of them are void."""
        self._pending.clear()

    def restore(self, pending: Iterable[_Proposal]) -> None:
        """Replace everything by these, as `pending` gave them."""
        self._pending = {proposal.proposer: proposal for proposal in pending}

    def _find(self, digest: bytes, sequence: int) -> _Proposal | None:
        """The pending proposal with this digest, if it can still be approved."""
        for proposal in self._pending.values():
            if proposal.digest(self._cluster.id) == digest and sequence <= proposal.until:
                return proposal
        return None


def _with_approvals(proposal: _Proposal, approvals: tuple[str, ...]) -> _Proposal:
    assert isinstance(proposal, msgspec.Struct)
    return msgspec.structs.replace(proposal, approvals=approvals)
