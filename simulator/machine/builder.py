"""The builds of one simulated process: they take time, and their results are known before."""

from collections.abc import Callable

from ci.application import BuildApplication
from ci.assignments import Key
from ci.ballots import VERDICT_DEADLINE
from ci.builds import OpenBuild
from ci.executors import StartReason
from ci.operations import Agreement, Ballot, ReportDeadline
from driver.build_scheduler import BuildScheduler
from driver.ports import BuildOrder
from simulator.world.builds import BuildTruth
from simulator.world.coverage_goals import CoverageGoals

Told = Ballot | ReportDeadline | float | None
# The goals of simulator.world.coverage_goals that stand for the end of standing by.
GOALS = {
    StartReason.DIFFERING: "a stand-by takes over: ballots differ",
    StartReason.ABSTENTION: "a stand-by takes over: an abstention",
    StartReason.REPORT: "a stand-by takes over: a report of the deadline",
    StartReason.DELAY: "a stand-by takes over: the delay",
}


class SimulatedBuilder:
    """A driver.ports.Builder, from one start of its process to the next crash.

    later: (seconds, build key): call `on_built` with the key then.
    told: what the replica says of what it found (a faulty one lies here): a ballot, a report of
        the deadline instead, None for nothing at all, or how many seconds later it says it.
    attempt: which of the process's starts this is.
    """

    def __init__(
        self,
        name: str,
        attempt: int,
        truth: BuildTruth,
        application: BuildApplication,
        told: Callable[[Ballot, OpenBuild], Told],
        later: Callable[[float, Key], None],
        goals: CoverageGoals,
    ) -> None:
        self._name = name
        self._attempt = attempt
        self._truth = truth
        self._application = application
        self._told = told
        self._later = later
        self._goals = goals
        self._running: dict[Key, None] = {}
        self.scheduler: BuildScheduler | None = None

    def begin(self, order: BuildOrder, reason: StartReason) -> None:
        """As driver.ports.Builder."""
        assert self.scheduler is not None
        if self._is_left_to_others(order):
            self._goals.hit("an executor leaves a weak build to others")
            self.scheduler.on_left(order.key)
            return
        if reason in GOALS:
            self._goals.hit(GOALS[reason])
        self._running[order.key] = None
        duration = self._truth.duration_seconds(order.build, self._name, self._attempt)
        self._later(duration, order.key)

    def stop(self, key: Key) -> None:
        """As driver.ports.Builder."""
        self._running.pop(key, None)

    def on_built(self, key: Key, now: float) -> None:
        """The container of that build is done."""
        assert self.scheduler is not None
        build = self._application.open_builds().get(key[0])
        if key not in self._running or build is None or build.opened != key[1]:
            return
        found = self._truth.run(*key, build.commit, self._name, self._attempt)
        told = self._told(found, build)
        if isinstance(told, float):
            self._later(told, key)
            return
        del self._running[key]
        if isinstance(told, ReportDeadline):
            self.scheduler.cast(VERDICT_DEADLINE, key, told, now)
        elif told is not None:
            self.scheduler.on_built(key, told, now)

    def _is_left_to_others(self, order: BuildOrder) -> bool:
        """Whether it reads in the pipeline that fewer replicas are needed."""
        if order.commit is None or not order.is_spare:
            return False
        return self._truth.agreement(order.build) is Agreement.WEAK
