"""The invariant of the timer: who waits for its primary, or for a view, wakes up in time.

What a replica waits for, and since when, is worked out here from what is pending; of its own timers
only how long it waits at present, and what it has handed on, are taken as they are.
"""

from pbft.core import Core
from pbft.log import RECOVER_NUMBER
from pbft.ports import Output
from pbft.timers import NULLS, NULLS_TIMEOUTS, RECOVERY
from simulator.machine.process import Process
from simulator.world.world import World

# A new primary has its full time, and nobody is judged by what it may have executed.
BEGINNINGS = ("new_view", "state_transferred")
ROUNDING_SECONDS = 1e-6


class Waits:
    """What one replica waits for in this life of its, in seconds of its own clock."""

    __slots__ = ("kept_for", "kept_since", "numbers", "since", "view", "view_due")

    def __init__(self) -> None:
        # By client, or who recovers: the number that is waited for, and since when it is that.
        self.numbers: dict[str, int] = {}
        self.since: dict[str, float] = {}
        # As primary: since when there is something to propose, and room for it; and the number
        # that it would get.
        self.kept_since: float | None = None
        self.kept_for = 0
        # The view that `strong` replicas were last seen to have left for, and when it has failed.
        self.view = 0
        self.view_due = 0.0


class TimerChecker:
    """Looks at each deadline."""

    def __init__(self, world: World) -> None:
        self._strong = world.cluster.quorums.strong
        self._violate = world.violate
        self._goals = world.goals
        self._waits: dict[str, Waits] = {}

    def on_start(self, name: str) -> None:
        """A replica starts anew: it waits for nothing yet, and its clock shows something else."""
        self._waits[name] = Waits()

    def on_turn(self, process: Process, outputs: list[Output], now: float) -> None:
        """A correct replica took something in. now: what its clock shows."""
        assert process.replica is not None
        core = process.replica.core
        waits = self._waits[process.name]
        self._note_numbers(waits, core, outputs, now=now)
        due = now + core.settings.status_seconds
        if not core.has_entered:
            due = min(due, self._view_due(waits, process.name, core, now=now))
        elif waits.since and _monitors_primary(core):
            due = min(due, _primary_due(waits, core))
        if core.is_primary and _may_propose(core):
            self._goals.hit("the primary keeps what nobody waits for")
            # A turn after a pause may propose what was kept, and then keep what came meanwhile.
            if waits.kept_since is None or waits.kept_for != core.proposer.next_sequence:
                waits.kept_since = now
                waits.kept_for = core.proposer.next_sequence
            due = min(due, waits.kept_since + core.settings.batch_delay_seconds)
        else:
            waits.kept_since = None
        deadline = outputs[-1].deadline
        if deadline is None or deadline > due + ROUNDING_SECONDS:
            self._fail(process.name, f"{deadline} at {now}, {due} is due")

    def check_numbers(self, name: str, core: Core) -> None:
        """What is timed of each client is the lowest of all that is pending."""
        pending = core.pending
        lowest = {client: pending.numbers(client)[0] for client in pending.clients()}
        if lowest != pending.lowest:
            self._fail(name, f"times {pending.lowest}, not {lowest}")

    def _note_numbers(self, waits: Waits, core: Core, outputs: list[Output], *, now: float) -> None:
        numbers = core.pending.lowest
        if core.recovery.requests or core.execution.recoveries or core.execution.ending:
            numbers = _with_recoveries(core)
        if _is_beginning(outputs):
            waits.since = dict.fromkeys(numbers, now)
        elif numbers == waits.numbers:
            return
        else:
            before, since = waits.numbers, waits.since
            waits.since = {
                client: since[client] if before.get(client) == number else now
                for client, number in numbers.items()
            }
        waits.numbers = dict(numbers)

    def _view_due(self, waits: Waits, name: str, core: Core, *, now: float) -> float:
        """When the view that is changed to has failed: fixed as soon as `strong` left for it."""
        due = core.timers.view_change_due
        if waits.view != core.view:
            changes = core.views.changes.values()
            if sum(change.message.view >= core.view for change in changes) < self._strong:
                return float("inf")
            waits.view = core.view
            waits.view_due = now + core.settings.view_change_seconds_max if due is None else due
            if due is None or due > now + core.settings.view_change_seconds_max:
                self._fail(name, f"view {core.view} has failed at {due}, it is {now}")
        elif due != waits.view_due:
            self._fail(name, f"view {core.view} has failed at {due}, no more at {waits.view_due}")
        return waits.view_due

    def _fail(self, name: str, details: str) -> None:
        self._violate("30 a timer is armed", f"{name}: {details}")


def _is_beginning(outputs: list[Output]) -> bool:
    for output in outputs:
        for event in output.events:
            if event.name in BEGINNINGS:
                return True
    return False


def _with_recoveries(core: Core) -> dict[str, int]:
    numbers = dict(core.pending.lowest)
    for signed in core.recovery.requests.values():
        numbers[RECOVERY + signed.signer] = RECOVER_NUMBER
    ends = [done.voting_from for done in core.execution.recoveries.values()]
    if core.execution.ending is not None:
        ends.append(core.execution.ending.sequence)
    owed = [end for end in ends if end > core.executed]
    if owed:
        numbers[RECOVERY] = core.executed + 1
        numbers[NULLS] = min(owed)
    return numbers


def _monitors_primary(core: Core) -> bool:
    """Who does not vote, is behind, or has nothing to wait for any more, leaves nobody."""
    if core.has_ended:
        return False
    is_behind = (
        core.transfers.current is not None or core.checkpoints.certified.sequence > core.executed
    )
    return not (core.is_diverged or core.is_recovering or is_behind)


def _may_propose(core: Core) -> bool:
    """Whether there is a request in no batch, and both pipeline and window have room for one."""
    in_flight = core.proposer.next_sequence - 1 - core.executed
    return (
        core.has_entered
        and not (core.is_diverged or core.is_recovering)
        and in_flight < core.settings.pipeline_depth
        and core.low < core.proposer.next_sequence <= core.high
        and any(
            (client, number) not in core.proposer.proposed
            for client in core.pending.clients()
            for number in core.pending.numbers(client)
        )
    )


def _primary_due(waits: Waits, core: Core) -> float:
    """When the replica is to hand something on, or to leave its view."""
    timeout = core.timers.timeout
    pace = 2 * (core.window + core.interval) * core.settings.null_seconds
    handed_on = core.timers.forwarded
    dues = []
    for client, since in waits.since.items():
        if client == NULLS:
            dues.append(since + (NULLS_TIMEOUTS * timeout + pace) * (2 if core.is_primary else 1))
        elif core.is_primary:
            dues.append(since + 2 * timeout)
        else:
            is_handed_on = (client, waits.numbers[client]) in handed_on
            dues.append(since + timeout * (1 if is_handed_on else 0.5))
    return min(dues)
