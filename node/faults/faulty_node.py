"""The parts of a node that misbehaves, for whoever puts a node together."""

from ci.operations import Ballot
from common.configuration.config import FaultKind
from common.web.peers import Peers
from node.faults.fault_routes import FaultRoutes
from node.faults.misbehaviours import Faults, FaultyLinks, told_ballot
from node.replica.speaker import Speaker
from pbft.authentication import Identity


class FaultyNode:
    """Has one fault at a time, which its routes switch."""

    def __init__(
        self,
        kind: FaultKind,
        identity: Identity,
        peers: Peers,
    ) -> None:
        """kind: of the fault that it starts with; `allowed`: none. peers: all other replicas."""
        self.faults = Faults(None if kind == "allowed" else kind)
        self.routes = FaultRoutes(name=identity.name, faults=self.faults, peers=peers)
        self._identity = identity

    def links(self, links: Speaker) -> FaultyLinks:
        """What sends over `links` as the fault has it."""
        return FaultyLinks(links, self.faults, self._identity)

    def bend(self, ballot: Ballot) -> Ballot:
        """The ballot that it casts, of the one that it should cast."""
        return told_ballot(ballot, self.faults.kind)
