"""Operators who change the members: they propose who is in the next epoch, and approve it."""

from ci.member_changes import MembersProposal, ready_bytes
from ci.operations import ApproveMembers, Operation, ProposeMembers, Ready, WithdrawMembers
from pbft.genesis import Cluster, is_vacant
from simulator.world.gateways import Gateway
from simulator.world.operators import LAST_KINDS
from simulator.world.scheduler import Scheduler
from simulator.world.seeded_random import SeededRandom
from simulator.world.signatures import Signatures

UNTIL = 1_000_000


class MemberOperators:
    """Draws how the operators of one run come to approve one configuration.

    following: it, without ancestry. clients: of the operators.
    """

    def __init__(
        self,
        cluster: Cluster,
        following: Cluster,
        *,
        scheduler: Scheduler,
        chance: SeededRandom,
        clients: dict[str, Gateway],
        signatures: Signatures,
    ) -> None:
        self._cluster = cluster
        self._following = following
        self._scheduler = scheduler
        self._chance = chance
        self._clients = clients
        message = ready_bytes(cluster.id, following.configuration)
        self._readies = tuple(
            Ready(member.name, signatures.signer(member.name)(message))
            for member in following.genesis.replicas
            if not is_vacant(member)
        )

    def plan(self, spread_seconds: float) -> None:
        """Somebody proposes; all approve, one after the other, and a few think again first."""
        chance = self._chance
        begin = chance.random() * spread_seconds
        proposer = chance.choice(sorted(self._clients))
        encoded = self._following.encoded
        ready = ProposeMembers(UNTIL, encoded, self._readies)
        digest = MembersProposal(proposer, UNTIL, encoded, ()).digest(self._cluster.id)
        if chance.happens(0.3):
            # with too few that are ready: refused
            other = chance.choice(sorted(self._clients))
            self._ask(begin / 2, other, ProposeMembers(UNTIL, encoded, self._readies[:1]))
        self._ask(begin, proposer, ready)
        for name in sorted(self._clients):
            if name == proposer:
                continue
            delay = begin + chance.exponential(1.0)
            if chance.happens(0.2):
                self._ask(delay, name, ApproveMembers(digest))
                self._ask(delay + 0.2, name, WithdrawMembers(digest))
                delay += 0.4
            # again later: what comes before the proposal is refused
            for later in (0.0, 3.0, 12.0):
                self._ask(delay + later, name, ApproveMembers(digest))

    def _ask(self, seconds: float, name: str, operation: Operation) -> None:
        self._scheduler.after(seconds, self._clients[name].ask, operation, LAST_KINDS)
