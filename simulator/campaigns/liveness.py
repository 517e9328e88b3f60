"""What must be reached once the faults are over: every request answered, every replica in step."""

import math
from typing import TYPE_CHECKING

from ci.limits import ALL
from pbft.recovery import are_nulls_owed
from simulator.faults.nemesis import SPLIT_SECONDS_MAX
from simulator.faults.parameters import Parameters

if TYPE_CHECKING:
    from simulator.campaigns.simulation import Simulation

EVENTS_PER_SECOND_MAX = 20_000
# Request, PRE-PREPARE, PREPARE, COMMIT, reply.
HOPS_PER_ORDER = 5
# The first timeout doubles up to this (simulation._settings).
TIMEOUT_DOUBLINGS_CAP = 8
FAILED_VIEWS_FACTOR = 2
# STATUSes to find each other, a state and a ledger to fetch, restarts.
SETTLING_SECONDS = 15.0


def bound_seconds(parameters: Parameters) -> float:
    """B: how long after the faults are over everything must be reached (invariant 31).

    The views of up to f faulty primaries fail one after the other, each after twice the time of
    the one before (up to the cap), and one more may have been failing already: the sum of T 2^k.
    Then all that is left is ordered, two requests to a batch, one batch after the other: every
    request, a ballot and a report of each replica on each build, null requests up to the T of
    those that recover. Where an order takes about as long as the first timeout, a batch costs
    failed views of its own, and the more the longer it takes beside it: the wait comes down with
    progress, so that nobody leads slowly for ever (docs/TRAPS.md 14d), and each view orders few
    batches. Over seeds 1 to 180 at most a third of this was needed.
    """
    first, faults_max = parameters.view_change_seconds, (parameters.replicas - 1) // 3
    timeouts = sum(min(1 << k, TIMEOUT_DOUBLINGS_CAP) * first for k in range(faults_max + 2))
    processes = parameters.processes
    disk_seconds = 2 * processes.slow_syncs * processes.slow_sync_seconds
    hop_seconds = parameters.healed_delay_seconds + processes.turn_seconds + disk_seconds
    order_seconds = HOPS_PER_ORDER * hop_seconds
    asked = (parameters.gateways + 2 * parameters.cheats) * parameters.workload.requests
    # Each operator may approve what one of them proposes.
    operated = parameters.limit_operations * (3 + parameters.replicas)
    if parameters.next_sizes:
        # what operators ask, and null requests up to the end
        operated += 6 * (parameters.replicas + 1)
        operated += parameters.window + 2 * parameters.checkpoint_interval
    built = 2 * parameters.replicas if parameters.workload.builds else 0
    recovering = parameters.rotten or any(
        "recover flood" in ways or parameters.adaptive for ways in parameters.byzantine.values()
    )
    recoveries = 2 + parameters.plan.further_losses
    nulls = recoveries * (parameters.window + parameters.checkpoint_interval) if recovering else 0
    numbers = parameters.window + asked * (1 + built * parameters.workload.builds) + nulls
    numbers += operated
    # A client waits while the others that are asking are served before it.
    clients = parameters.gateways + parameters.cheats + (parameters.replicas if built else 0)
    clients += parameters.replicas + 1 if operated else 0
    is_slow = order_seconds * (1 + clients / 2) > first / 2
    failed_views = FAILED_VIEWS_FACTOR * max(1.0, order_seconds / first) if is_slow else 1
    work = numbers / 2 * order_seconds * failed_views
    # The primary keeps ballots before and after the one that settles a build.
    work += 2 * asked * parameters.workload.builds * parameters.batch_delay_seconds
    if parameters.next_sizes:
        work += _end_seconds(parameters)
    ends = parameters.builds.seconds_max + 2 * parameters.deadline_seconds
    if parameters.executors != ALL or operated:
        # Those that stand by begin when nothing came for so long, and then take a build's time;
        # who reports the deadline waits for them as long as the longest build may take.
        longest = math.ceil(parameters.builds.seconds_max)
        ends += longest + parameters.stand_by_seconds + longest
    return SETTLING_SECONDS + timeouts + ends + work


def _end_seconds(parameters: Parameters) -> float:
    """What goes wrong at the end of an epoch, though the faults are over: the partition, kills with
    their restarts, and the views that fail meanwhile."""
    plan, most = parameters.plan, TIMEOUT_DOUBLINGS_CAP * parameters.view_change_seconds
    kills = plan.end_crashes * parameters.replicas
    split_seconds = SPLIT_SECONDS_MAX + most if plan.end_partition else 0.0
    return split_seconds + kills * plan.down_seconds + (most if kills else 0.0)


class Liveness:
    """Bounds and goals of one healed run."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._violate = simulation.world.violate
        parameters = simulation.parameters
        out = [simulation.names[index] for index in parameters.left_out]
        out += simulation.nemesis.away
        self._core = [n for n in (*simulation.correct, *simulation.forgetful) if n not in out]
        self.bound_seconds = bound_seconds(parameters)
        self._views_before = self._highest_view()
        self._events_before = simulation.scheduler.events
        self._time_before = simulation.scheduler.seconds

    def _highest_view(self) -> int:
        replicas = (self._simulation.processes[name].replica for name in self._core)
        return max((replica.core.view for replica in replicas if replica is not None), default=0)

    def is_done(self) -> bool:
        """Whether all that is asked for is reached."""
        return self._missing() is None

    def check(self) -> None:
        """Raises a violation unless it is."""
        missing = self._missing()
        if missing is not None:
            self._violate(*missing)
        simulation = self._simulation
        parameters = simulation.parameters
        views = self._highest_view() - self._views_before
        faults_max = simulation.cluster.quorums.faults_max
        # One view may have been failing already, one more may have a primary that is behind.
        # A proposal that came before its receiver's window moved is sent again a STATUS later: in
        # a window of few numbers that happens often, and where the first timer is no longer than
        # that it costs a view each time.
        is_calm = (
            not parameters.byzantine
            and 2 * parameters.status_seconds <= parameters.view_change_seconds
            and parameters.healed_delay_seconds < 0.05
            and parameters.processes.slow_syncs == 0
            and parameters.processes.turn_seconds < 0.01
            and not parameters.plan.end_crashes
            and not parameters.plan.end_partition
            and not parameters.away
        )
        if is_calm and views > faults_max + 2:
            self._violate("34 no storm", f"{views} views after the faults were over")
        events = simulation.scheduler.events - self._events_before
        seconds = simulation.scheduler.seconds - self._time_before
        events_max = EVENTS_PER_SECOND_MAX * max(1.0, seconds)
        if parameters.next_sizes:
            # null requests up to the end of the epoch, in a hurry
            owed = parameters.window + parameters.checkpoint_interval
            events_max += 2 * owed * parameters.replicas**2
        if events > events_max:
            self._violate("34 no storm", f"{events} events in {seconds:.1f} healed seconds")

    def _missing(self) -> tuple[str, str] | None:
        simulation = self._simulation
        if simulation.checkers.end.end is not None:
            return self._unsealed()
        for gateway in simulation.gateways.values():
            for asked in gateway.unfinished.values():
                is_build = asked.answered_at is not None
                name = "33 every build ends" if is_build else "31 every request is answered"
                return name, f"{asked.client} {asked.timestamp} after {self.bound_seconds} s"
        return self._out_of_step()

    def _unsealed(self) -> tuple[str, str] | None:
        """An epoch that was decided to end has ended, with one state; what was not decided by then
        is asked for in the next one."""
        simulation = self._simulation
        found = []
        for name in self._core:
            replica = simulation.processes[name].replica
            if replica is None or not replica.core.is_sealed:
                where = "down" if replica is None else str(replica.core.executed)
                return "46 an epoch that is to end ends", f"{name} is {where}"
            ledger = simulation.processes[name].disk.ledger
            if ledger.gaps:
                return "32 replicas converge", f"{name} lacks entries: {ledger.gaps[0].first}"
            found.append((replica.core.checkpoints.stable.digest, ledger.end()))
        if any(standing != found[0] for standing in found):
            return "46 an epoch that is to end ends", "with several states"
        return None

    def _out_of_step(self) -> tuple[str, str] | None:
        """Equal state everywhere, and one view: but for at most f who left for a later one alone.

        They do not vote, and cannot come back; they follow by COMMITs, and as soon as the others'
        timers expire too, the next view has all.
        """
        simulation = self._simulation
        standings: list[tuple[int | None, dict[str, bytes], tuple[int, bytes]]] = []
        numbers = []
        entered: dict[str, int] = {}
        leavers = []
        for name in self._core:
            replica = simulation.processes[name].replica
            if replica is None:
                return "32 replicas converge", f"{name} is not up"
            core = replica.core
            if core.status.value not in ("normal", "view_change"):
                return "32 replicas converge", f"{name} is {core.status.value}"
            ledger = simulation.processes[name].disk.ledger
            if ledger.gaps:
                return (
                    "32 replicas converge",
                    f"{name} lacks ledger entries: {ledger.gaps[0].first}",
                )
            if sorted(ledger.entries) != list(range(1, ledger.end()[0] + 1)):
                return "32 replicas converge", f"{name} has holes in its ledger"
            # Owed null requests change no state, and may go on as long as somebody recovers.
            executed = core.executed if not are_nulls_owed(core) else None
            standings.append((executed, core.application.parts(), ledger.end()))
            numbers.append(core.executed)
            if core.has_entered:
                entered[name] = core.view
            else:
                leavers.append(core.view)
            if core.low < core.executed - core.interval:
                return "32 replicas converge", f"{name} has no stable checkpoint: {core.low}"
        is_busy = any(executed is None for executed, _, _ in standings)
        if is_busy and max(numbers) - min(numbers) <= simulation.parameters.window:
            standings = [(None, parts, end) for _, parts, end in standings]
        if any(standing != standings[0] for standing in standings):
            return "32 replicas converge", f"{numbers}"
        views = sorted({*entered.values()})
        faults_max = simulation.cluster.quorums.faults_max
        if len(views) != 1 or len(leavers) > faults_max or any(v < views[0] for v in leavers):
            return "32 replicas converge", f"views {views}, leaving for {leavers}"
        return None
