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
from simulator.world.world import World

# How a replica reacts to what its container showed: it casts a ballot, reports the deadline
# instead, does nothing at all (None), or looks again after so many seconds.
Reaction = Ballot | ReportDeadline | float | None
# The goals of simulator.world.coverage_goals that stand for the end of standing by.
GOALS = {
    StartReason.DIFFERING: "a stand-by takes over: ballots differ",
    StartReason.ABSTENTION: "a stand-by takes over: an abstention",
    StartReason.REPORT: "a stand-by takes over: a report of the deadline",
    StartReason.DELAY: "a stand-by takes over: the delay",
}


class SimulatedBuilder:
    """A driver.ports.Builder, from one start of its process to the next crash.

    attempt: which of the process's starts this is.
    react: what the replica does with what it found; a faulty one lies here.
    later: (seconds, build key): call `on_built` with the key then.
    """

    def __init__(
        self,
        world: World,
        name: str,
        attempt: int,
        *,
        application: BuildApplication,
        react: Callable[[Ballot, OpenBuild], Reaction],
        later: Callable[[float, Key], None],
    ) -> None:
        self._name = name
        self._attempt = attempt
        self._truth = world.truth
        self._goals = world.goals
        self._application = application
        self._react = react
        self._later = later
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
        found = self._truth.run(key, build.commit, replica=self._name, attempt=self._attempt)
        reaction = self._react(found, build)
        if isinstance(reaction, float):
            self._later(reaction, key)
            return
        del self._running[key]
        if isinstance(reaction, ReportDeadline):
            self.scheduler.cast(VERDICT_DEADLINE, key, reaction, now=now)
        elif reaction is not None:
            self.scheduler.on_built(key, reaction, now)

    def _is_left_to_others(self, order: BuildOrder) -> bool:
        """Whether it reads in the pipeline that fewer replicas are needed."""
        if order.commit is None or not order.is_spare:
            return False
        return self._truth.agreement(order.build) is Agreement.WEAK
