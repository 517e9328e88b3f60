"""The invariants of the end of an epoch: who decides it, where it is, and that nothing is above."""

from ci.operations import (
    ApproveMembers,
    MalformedOperation,
    ProposeMembers,
    WithdrawMembers,
    decode_operation,
)
from pbft.core import Core
from pbft.messages import Checkpoint, Commit, Prepare, PrePrepare
from pbft.ports import ExecutedRequest
from simulator.world.world import World

DECIDED_BY_SEATS = "43 strong seats decide the next members"
ONE_END = "44 an epoch has one end"
NOTHING_ABOVE = "45 nothing is voted on above the end"


class EndChecker:
    """Where the epoch of one run ends, by another count."""

    def __init__(self, world: World) -> None:
        self._cluster = cluster = world.cluster
        self._goals = world.goals
        self._violate = world.violate
        self._seats = {
            member.name: frozenset(
                role.removeprefix("operator of ")
                for role in member.roles
                if role.startswith("operator of ")
            )
            for member in cluster.genesis.clients
        }
        self._strong = cluster.quorums.strong
        # digest of a proposal -> who approved it
        self._approvals: dict[bytes, dict[str, None]] = {}
        # the last number, and the configuration that follows
        self.end: tuple[int, bytes] | None = None
        # the highest number that a correct replica voted on
        self._voted = 0

    def on_execution(self, executed: ExecutedRequest) -> None:
        """A request was executed, for the first time in this world."""
        try:
            operation = decode_operation(executed.request.operation)
        except MalformedOperation:
            return
        client, applied = executed.request.client, executed.applied
        if applied.kind != "refused" and isinstance(operation, WithdrawMembers):
            self._approvals.get(operation.proposal, {}).pop(client, None)
        if not isinstance(operation, ProposeMembers | ApproveMembers) or applied.kind == "refused":
            if applied.successor:
                self._violate(DECIDED_BY_SEATS, f"{client} decides by {type(operation).__name__}")
            return
        approvals = self._approvals.setdefault(applied.subject, {})
        if isinstance(operation, ProposeMembers):
            approvals.clear()
        approvals[client] = None
        seats = {seat for name in approvals for seat in self._seats[name]}
        is_decided = len(seats) >= self._strong
        if is_decided != bool(applied.successor):
            self._violate(DECIDED_BY_SEATS, f"{sorted(seats)}: {applied.successor.hex()}")
        if not is_decided:
            return
        if self.end is not None:
            self._violate(ONE_END, f"{client} decides a second one")
        interval = self._cluster.genesis.checkpoint_interval
        begin = self._cluster.begins_after
        last = executed.sequence + self._cluster.genesis.window
        last += -(last - begin) % interval
        self.end = (last, applied.successor)
        self._goals.hit("an epoch's end is decided")
        self._check_votes()

    def on_vote(self, message: PrePrepare | Prepare | Commit | Checkpoint) -> None:
        """A correct replica says something about a number."""
        self._voted = max(self._voted, message.sequence)
        self._check_votes()

    def on_state(self, name: str, core: Core) -> None:
        """A correct replica executed something."""
        ending = core.execution.ending
        if ending is None:
            if core.has_ended:
                self._violate(ONE_END, f"{name} has ended, and knows no end")
            return
        if (ending.sequence, ending.configuration) != self.end:
            self._violate(ONE_END, f"{name}: {ending.sequence} where {self.end} is right")
        if core.executed > ending.sequence:
            self._violate(NOTHING_ABOVE, f"{name} executes {core.executed}")
        if core.has_ended is not (core.executed == ending.sequence):
            self._violate(ONE_END, f"{name}: {core.has_ended} at {core.executed}")
        if core.has_ended:
            self._goals.hit("an epoch ends")
            if core.view:
                self._goals.hit("an epoch ends in a later view")
            if core.is_recovering:
                self._goals.hit("an epoch ends for a replica that recovers")

    def _check_votes(self) -> None:
        if self.end is not None and self._voted > self.end[0]:
            self._violate(NOTHING_ABOVE, f"a vote on {self._voted}, the end is {self.end[0]}")
