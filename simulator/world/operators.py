"""Operators who stand for replicas: they propose limits, approve and withdraw, right or wrong."""

from collections.abc import Callable

import msgspec

from ci.limit_changes import Proposal
from ci.limits import Limits, encode_limits
from ci.operations import ApproveLimits, Operation, ProposeLimits, WithdrawLimits
from ci.seats import SEAT_ROLE_PREFIX
from pbft.genesis import Cluster
from simulator.world.gateways import Gateway
from simulator.world.scheduler import Scheduler
from simulator.world.seeded_random import SeededRandom

OPERATOR_PREFIX = "op"
LAST_KINDS = frozenset({"done", "refused"})


def operator_roles(replicas: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The roles of each operator: one stands for each replica, and one more for the first two."""
    seats: dict[str, tuple[str, ...]] = {
        f"{OPERATOR_PREFIX}{index}": (name,) for index, name in enumerate(replicas)
    }
    seats[f"{OPERATOR_PREFIX}{len(replicas)}"] = replicas[:2]
    return {
        name: ("operator", *(SEAT_ROLE_PREFIX + replica for replica in stands_for))
        for name, stands_for in seats.items()
    }


class LimitsSeen(msgspec.Struct, frozen=True):
    """What an operator sees before it signs: where limits stand, and the order."""

    serial: int
    sequence: int


class LimitOperators:
    """Draws what all operators of one run do.

    clients: of the operators. look: what they see now. variants: the limits that they propose.
    """

    def __init__(
        self,
        cluster: Cluster,
        scheduler: Scheduler,
        chance: SeededRandom,
        *,
        clients: dict[str, Gateway],
        look: Callable[[], LimitsSeen],
        variants: tuple[Limits, ...],
    ) -> None:
        self._cluster = cluster
        self._scheduler = scheduler
        self._chance = chance
        self._clients = clients
        self._look = look
        self._variants = variants
        # of all that was proposed; the first is nobody's
        self._digests = [bytes(32)]

    def plan(self, count: int, spread_seconds: float) -> None:
        """Do so many things in the time to come."""
        for _ in range(count):
            self._scheduler.after(self._chance.random() * spread_seconds, self._act)

    def _act(self) -> None:
        chance = self._chance
        name = chance.choice(sorted(self._clients))
        drawn = chance.random()
        if drawn < 0.5:
            self._propose(name)
        elif drawn < 0.8:
            self._ask(name, ApproveLimits(chance.choice(self._digests)))
        else:
            self._ask(name, WithdrawLimits(chance.choice(self._digests[-3:])))

    def _propose(self, name: str) -> None:
        """Sometimes under a wrong serial, or for too short a time; some others approve it."""
        chance, seen = self._chance, self._look()
        serial = max(1, seen.serial + chance.choice((1, 1, 1, 1, 1, 0, 2)))
        until = seen.sequence + chance.choice((1, 4, 30, 10_000, 10_000))
        limits = encode_limits(chance.choice(self._variants))
        digest = Proposal(name, serial, until, limits, ()).digest(self._cluster.id)
        self._digests.append(digest)
        self._ask(name, ProposeLimits(serial, until, limits))
        others = chance.some(sorted(self._clients), 0.6)
        for other in others:
            delay = chance.exponential(0.7)
            self._scheduler.after(delay, self._ask, other, ApproveLimits(digest))
        if chance.happens(0.4):
            doubter = chance.choice((name, name, *others))
            delay = chance.exponential(0.7)
            self._scheduler.after(delay, self._ask, doubter, WithdrawLimits(digest))

    def _ask(self, name: str, operation: Operation) -> None:
        self._clients[name].ask(operation, LAST_KINDS)
