"""The invariants of changed limits: who changes them, and which ones a build has.

Counts seats by itself, from the executed requests, and compares what each came to.
"""

import json

import msgspec

from ci.application import BuildApplication
from ci.limits import Limits, decode_limits
from ci.operations import ApproveLimits, Operation, ProposeLimits, WithdrawLimits
from pbft.ports import ExecutedRequest
from simulator.world.operators import LimitsSeen
from simulator.world.world import World

CHANGED_BY_SEATS = "38 strong seats change limits"
KEPT_BY_BUILDS = "39 builds keep their limits"


class _Pending(msgspec.Struct):
    """A proposal, and the seats whose operators approved it, by operator."""

    proposer: str
    until: int
    limits: Limits
    approvals: dict[str, frozenset[str]]


class LimitsChecker:
    """What the limits of one run are, by another count."""

    def __init__(self, world: World) -> None:
        self._goals = world.goals
        self._violate = world.violate
        self._strong = world.cluster.quorums.strong
        self._genesis = world.limits
        self._seats = {
            member.name: frozenset(
                role.removeprefix("operator of ")
                for role in member.roles
                if role.startswith("operator of ")
            )
            for member in world.cluster.genesis.clients
        }
        # (the sequence number of each change, the limits from then on)
        self._changes: list[tuple[int, Limits]] = []
        self._pending: dict[bytes, _Pending] = {}
        self._void: dict[bytes, None] = {}
        self._sequence = 0

    def go_on_from(self, earlier: "LimitsChecker") -> None:
        """The changes of the epoch before hold in this one; its proposals are void."""
        self._changes = list(earlier._changes)

    @property
    def standing(self) -> LimitsSeen:
        """What operators can know."""
        return LimitsSeen(len(self._changes), self._sequence)

    def at(self, opened: int) -> Limits:
        """The limits of a build that was opened at this sequence number."""
        return next(
            (limits for since, limits in reversed(self._changes) if since < opened), self._genesis
        )

    def on_execution(self, executed: ExecutedRequest, operation: Operation) -> None:
        """A request was executed, for the first time in this world."""
        self._sequence = executed.sequence
        client = executed.request.client
        match operation:
            case ProposeLimits():
                expected = self._on_propose(client, operation, executed)
            case ApproveLimits():
                expected = self._on_approve(client, operation, executed.sequence)
            case WithdrawLimits():
                expected = self._on_withdraw(client, operation, executed.sequence)
            case _:
                return
        result = executed.applied.result
        accepted = executed.applied.kind != "refused"
        has_changed = accepted and bool(result) and bool(json.loads(result)["changed"])
        if expected != (accepted, has_changed):
            self._violate(
                CHANGED_BY_SEATS, f"{client}: {(accepted, has_changed)} where {expected} is right"
            )

    def on_state(self, name: str, application: BuildApplication) -> None:
        """A correct replica executed something: each of its open builds has the limits of then."""
        for build in application.open_builds().values():
            limits = application.limits_of(build)
            if limits != self.at(build.opened):
                self._violate(KEPT_BY_BUILDS, f"{name}: {build.id.hex()}")
            if build.is_decided and self._changes and limits != self._changes[-1][1]:
                self._goals.hit("a build is decided under limits that hold no more")

    def _on_propose(
        self, client: str, operation: ProposeLimits, executed: ExecutedRequest
    ) -> tuple[bool, bool]:
        is_next = operation.serial == len(self._changes) + 1
        if not self._seats.get(client) or not is_next or executed.sequence > operation.until:
            return False, False
        self._goals.hit("limits are proposed")
        for digest, pending in list(self._pending.items()):
            if pending.proposer == client:
                self._drop(digest)
        digest = executed.applied.subject
        self._void.pop(digest, None)
        self._pending[digest] = _Pending(
            client, operation.until, decode_limits(operation.limits), {}
        )
        return self._count(client, digest, executed.sequence)

    def _on_approve(
        self, client: str, operation: ApproveLimits, sequence: int
    ) -> tuple[bool, bool]:
        digest = operation.proposal
        pending = self._pending.get(digest)
        if digest in self._void:
            self._goals.hit("an approval comes for a proposal that is void")
        if pending is None or not self._seats.get(client):
            return False, False
        if sequence > pending.until:
            self._goals.hit("an approval comes past until")
            return False, False
        if client in pending.approvals:
            return False, False
        return self._count(client, digest, sequence)

    def _on_withdraw(
        self, client: str, operation: WithdrawLimits, sequence: int
    ) -> tuple[bool, bool]:
        pending = self._pending.get(operation.proposal)
        if pending is None or sequence > pending.until or client not in pending.approvals:
            return False, False
        if client == pending.proposer:
            self._goals.hit("a proposal is withdrawn")
            self._drop(operation.proposal)
        else:
            self._goals.hit("an approval is withdrawn")
            del pending.approvals[client]
        return True, False

    def _count(self, client: str, digest: bytes, sequence: int) -> tuple[bool, bool]:
        pending = self._pending[digest]
        pending.approvals[client] = self._seats[client]
        if len(frozenset[str]().union(*pending.approvals.values())) < self._strong:
            return True, False
        self._goals.hit("limits change")
        self._changes.append((sequence, pending.limits))
        for other in list(self._pending):
            self._drop(other)
        return True, True

    def _drop(self, digest: bytes) -> None:
        del self._pending[digest]
        self._void[digest] = None
