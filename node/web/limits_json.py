"""GET /pbft/limits: the limits that hold in this replica's state, and what operators proposed."""

from ci.limit_changes import LimitChanges, Proposal
from ci.limits import Limits, read_limits, shown_limits
from pbft.genesis import Cluster


def limits(
    changes: LimitChanges, held: Limits, cluster: Cluster, *, executed: int
) -> dict[str, object]:
    """All of it as a plain value. executed: the sequence number of this state."""
    return {
        "cluster": cluster.id.hex(),
        "sequence": executed,
        "serial": changes.serial,
        "since": changes.since,
        "limits": shown_limits(held),
        # A client proposes a limit only if all replicas that answer know it.
        "known": Limits.__struct_fields__,
        "pending": [
            _proposal(proposal, cluster)
            for proposal in changes.pending
            if executed < proposal.until
        ],
    }


def _proposal(proposal: Proposal, cluster: Cluster) -> dict[str, object]:
    return {
        "digest": proposal.digest(cluster.id).hex(),
        "proposer": proposal.proposer,
        "serial": proposal.serial,
        "until": proposal.until,
        "limits": shown_limits(read_limits(proposal.limits)),
        "approvals": proposal.approvals,
    }
