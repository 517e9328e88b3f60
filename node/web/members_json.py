"""GET /pbft/members: the end of this epoch, and which members operators proposed for the next."""

from ci.member_changes import MemberChanges, MembersProposal
from pbft.core import Core


def members(changes: MemberChanges, core: Core) -> dict[str, object]:
    """All of it as a plain value. last: the last sequence number of this epoch, once decided."""
    executed, ending = core.executed, core.execution.ending
    return {
        "cluster": core.cluster.id.hex(),
        "epoch": core.cluster.epoch,
        "sequence": executed,
        "last": None if ending is None else ending.sequence,
        "configuration": None if ending is None else ending.configuration.hex(),
        "is_sealed": core.is_sealed,
        "pending": [
            _proposal(proposal, core) for proposal in changes.pending if executed < proposal.until
        ],
    }


def _proposal(proposal: MembersProposal, core: Core) -> dict[str, object]:
    return {
        "digest": proposal.digest(core.cluster.id).hex(),
        "proposer": proposal.proposer,
        "until": proposal.until,
        "configuration": proposal.configuration.hex(),
        "approvals": proposal.approvals,
    }
