"""A world of the application whose operators stand for replicas, and change limits."""

from collections.abc import Mapping

import msgspec

from ci.ledger import LimitsEntry, decode_entry
from ci.limits import Limits, encode_limits
from ci.operations import ApproveLimits, Operation, ProposeLimits, WithdrawLimits, encode_operation
from ci.seats import SEAT_ROLE_PREFIX
from pbft.genesis import Cluster
from pbft.ports import Applied
from tests.ci.builders import World, cluster_of, member

ONE_EACH = {"anna": (0,), "boris": (1,), "carla": (2,), "dora": (3,)}
OLD = Limits()
NEW = Limits(deadline_seconds=60, open_builds_max=3, artifacts_max=1)
UNTIL = 10**6


def operated_cluster(operates: Mapping[str, tuple[int, ...]], limits: Limits = OLD) -> Cluster:
    """Four replicas; each of these operators stands for the replicas with these numbers."""
    genesis = cluster_of(4, limits).genesis
    operators = tuple(
        member(name, "operator", *(f"{SEAT_ROLE_PREFIX}replica-{seat}" for seat in seats))
        for name, seats in operates.items()
    )
    return Cluster(msgspec.structs.replace(genesis, clients=(*genesis.clients, *operators)))


class OperatedWorld(World):
    """A world whose operators propose and approve limits."""

    def __init__(
        self, operates: Mapping[str, tuple[int, ...]] = ONE_EACH, limits: Limits = OLD
    ) -> None:
        super().__init__(operated_cluster(operates, limits), limits)

    def propose(
        self, operator: str, limits: Limits = NEW, serial: int = 1, until: int = UNTIL
    ) -> Applied:
        return self.apply(operator, ProposeLimits(serial, until, encode_limits(limits)))

    def proposed(
        self, operator: str, limits: Limits = NEW, serial: int = 1, until: int = UNTIL
    ) -> bytes:
        """Propose what is accepted; its digest."""
        applied = self.propose(operator, limits, serial, until)
        assert applied.kind == "done", applied.result
        return applied.subject

    def approve_limits(self, operator: str, digest: bytes) -> Applied:
        return self.apply(operator, ApproveLimits(digest))

    def withdraw(self, operator: str, digest: bytes) -> Applied:
        return self.apply(operator, WithdrawLimits(digest))

    def change(self, limits: Limits) -> LimitsEntry:
        """Change the limits by the operators of three replicas; the entry."""
        serial = self.application.limit_changes.serial + 1
        digest = self.proposed("anna", limits, serial, self.sequence + 10)
        self.approve_limits("boris", digest)
        (entry,) = self.approve_limits("carla", digest).entries
        decoded = decode_entry(entry.body)
        assert isinstance(decoded, LimitsEntry)
        return decoded

    def apply_together(self, *asked: tuple[str, Operation]) -> list[Applied]:
        """Apply these operations at one sequence number, as a batch does."""
        self.sequence += 1
        given = []
        for client, operation in asked:
            request, digest = self.request(client, encode_operation(operation))
            given.append(self.application.apply(request, digest, self.sequence))
            self.ledger.extend(given[-1].entries)
        return given
