"""What must be reached once the faults are over: every request answered, every replica in step."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.simulation import Simulation

EVENTS_PER_SECOND_MAX = 20_000


class Liveness:
    """Bounds and goals of one healed run.

    violate: (invariant, details) ends the run.
    """

    def __init__(self, simulation: "Simulation", violate: Callable[[str, str], None]) -> None:
        self._simulation = simulation
        self._violate = violate
        parameters = simulation.parameters
        out = [simulation.names[index] for index in parameters.left_out]
        damaged = [simulation.names[index] for index in parameters.rotten]
        self._core = [n for n in (*simulation.correct, *damaged) if n not in out]
        faults_max = simulation.cluster.quorums.faults_max
        timeouts = sum(parameters.view_change_seconds * 2**k for k in range(faults_max + 3))
        # Slow links cost failed views for every batch: timeouts start anew with each progress.
        batches = 2 * parameters.window + 6 * parameters.gateways * parameters.workload.requests
        self.bound_seconds = 100.0 + 4 * timeouts + batches * 16 * parameters.healed_delay_seconds
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
        is_calm = (
            not parameters.byzantine
            and parameters.healed_delay_seconds < 0.05
            and parameters.processes.slow_syncs == 0
            and parameters.processes.turn_seconds < 0.01
        )
        if is_calm and views > faults_max + 2:
            self._violate("34 no storm", f"{views} views after the faults were over")
        events = simulation.scheduler.events - self._events_before
        seconds = simulation.scheduler.seconds - self._time_before
        if events > EVENTS_PER_SECOND_MAX * max(1.0, seconds):
            self._violate("34 no storm", f"{events} events in {seconds:.1f} healed seconds")

    def _missing(self) -> tuple[str, str] | None:
        simulation = self._simulation
        for gateway in simulation.gateways.values():
            for asked in gateway.unfinished.values():
                is_build = asked.answered_at is not None
                name = "33 every build ends" if is_build else "31 every request is answered"
                return name, f"{asked.client} {asked.timestamp} after {self.bound_seconds} s"
        return self._out_of_step()

    def _out_of_step(self) -> tuple[str, str] | None:
        """Equal state everywhere, and one view: but for at most f who left for a later one alone.

        They do not vote, and cannot come back; they follow by COMMITs, and as soon as the others'
        timers expire too, the next view has all.
        """
        simulation = self._simulation
        standings = []
        views: dict[int, None] = {}
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
            standings.append((core.executed, core.application.parts(), ledger.end()))
            if core.has_entered:
                views[core.view] = None
            else:
                leavers.append(core.view)
            if core.low < core.executed - core.interval:
                return "32 replicas converge", f"{name} has no stable checkpoint: {core.low}"
        if any(standing != standings[0] for standing in standings):
            return "32 replicas converge", f"{[standing[0] for standing in standings]}"
        faults_max = simulation.cluster.quorums.faults_max
        if len(views) != 1 or len(leavers) > faults_max or any(v < min(views) for v in leavers):
            return "32 replicas converge", f"views {list(views)}, leaving for {leavers}"
        return None
