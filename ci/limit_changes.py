"""How operators change the limits of builds, and which limits hold when.

The rule: limits change as operators decide together (`ci.proposals`). Beyond that:

- A proposal's serial is one above that of the limits that hold. A change that was made voids all
  other proposals, for their operators compared them with limits that hold no more.

Changed limits hold for builds opened at later sequence numbers than the change. Nothing of this is
in the state before the first proposal.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from ci.admission import room_refusal
from ci.limits import LIMITS_BYTES_MAX, InvalidLimits, Limits, encode_limits, read_limits
from ci.operations import ProposeLimits
from ci.proposals import Proposals
from ci.state_partitions import LIMITS_PART, CorruptState, decode_part
from pbft.genesis import Cluster


class Proposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Limits that an operator proposed, and who approved them so far."""

    # of the operator
    proposer: str
    serial: Annotated[int, msgspec.Meta(ge=1)]
    # the last sequence number at which it can be approved
    until: Annotated[int, msgspec.Meta(ge=0)]
    # encoded
    limits: Annotated[bytes, msgspec.Meta(max_length=LIMITS_BYTES_MAX)]
    # the operators who approved, in their order; the proposer is the first
    approvals: tuple[str, ...]

    def digest(self, cluster_id: bytes) -> bytes:
        """What an approval names: all but the approvals, in this cluster."""
        fields = (cluster_id, self.proposer, self.serial, self.until, self.limits)
        return hashlib.sha256(b"pbft-ci limits\0" + msgspec.msgpack.encode(fields)).digest()


class LimitsPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The part of the state; there is none before the first proposal."""

    # how many changes were made
    serial: Annotated[int, msgspec.Meta(ge=0)]
    # the sequence number of the last one; 0: none was made
    since: Annotated[int, msgspec.Meta(ge=0)]
    # encoded; empty: those of the genesis
    limits: bytes
    pending: tuple[Proposal, ...]


class LimitChanges(Proposals[Proposal]):
    """The limits that hold in one replica's state, and what operators proposed."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.serial = 0
        self.since = 0
        self._encoded = b""
        # What held before the last change, for the rest of its batch. No checkpoint lies in one.
        self._before = b""

    @property
    def encoded(self) -> bytes:
        """The limits of the last change; empty: those of the genesis."""
        return self._encoded

    def encoded_at(self, sequence: int) -> bytes:
        """The limits of a build that opens at this sequence number, which is the last executed."""
        return self._encoded if sequence > self.since else self._before

    def propose(self, operation: ProposeLimits, operator: str, sequence: int) -> Proposal | str:
        """The proposal that now is this operator's only one, or why there is none.

        Accepted if the operator can propose, the serial is the next one, `until` lies ahead, and
        the limits are valid and make no too large state.
        """
        if reason := self.proposer_refusal(operator):
            return reason
        if operation.serial != self.serial + 1:
            return f"the next change has the serial {self.serial + 1}"
        if sequence > operation.until:
            return "the sequence number is past until"
        try:
            limits = read_limits(operation.limits)
        except InvalidLimits:
            return "these are no valid limits"
        if room_refusal(self._cluster, limits):
            return "under these limits the state could become too large"
        proposal = Proposal(
            operator, operation.serial, operation.until, operation.limits, (operator,)
        )
        self.put(proposal)
        return proposal

    def make(self, proposal: Proposal, sequence: int) -> None:
        """Make the change that was approved at this sequence number; all proposals are void."""
        if sequence > self.since:
            self._before = self._encoded
        self.serial, self.since = proposal.serial, sequence
        self._encoded = proposal.limits
        self.clear()

    def parts(self) -> dict[str, bytes]:
        """The part of the state; none if there is nothing to say."""
        if not self.serial and not self._pending:
            return {}
        part = LimitsPart(self.serial, self.since, self._encoded, self.pending)
        return {LIMITS_PART: msgspec.msgpack.encode(part)}

    def restore_part(self, part: LimitsPart) -> None:
        """Replace everything by what `decode_limits_part` gave."""
        self.serial, self.since, self._encoded = part.serial, part.since, part.limits
        self._before = b""
        self.restore(part.pending)


def decode_limits_part(parts: Mapping[str, bytes]) -> LimitsPart:
    """What a state says about limits. Raises CorruptState."""
    if LIMITS_PART not in parts:
        return LimitsPart(0, 0, b"", ())
    part = decode_part(parts, LIMITS_PART, LimitsPart)
    if not part.serial and not part.pending:
        raise CorruptState(f"{LIMITS_PART}: there is nothing to say")
    if bool(part.serial) is not bool(part.limits):
        raise CorruptState(f"{LIMITS_PART}: changed limits without a change, or the reverse")
    if len({proposal.proposer for proposal in part.pending}) != len(part.pending):
        raise CorruptState(f"{LIMITS_PART}: two proposals of one operator")
    try:
        for encoded in (part.limits or encode_limits(Limits()), *(p.limits for p in part.pending)):
            read_limits(encoded)
    except InvalidLimits as error:
        raise CorruptState(f"{LIMITS_PART}: {error}") from error
    return part
