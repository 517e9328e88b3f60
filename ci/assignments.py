"""Which open builds a replica is to begin, and since when it waits for the others. Pure.

The clocks that `ci.executors` asks for: a replica's own, from when its own state showed a build.
They begin anew with the process, which makes a replica that stands by no less patient than one
that was there all the time; whatever the state shows counts at once.
"""

from collections.abc import Callable, Iterable

from ci.builds import OpenBuild
from ci.executors import BuildAge, StandbyTimeout, StartReason, call, escalation, is_spare
from ci.operations import Agreement
from ci.verdict import Thresholds

# A build: its id, and the sequence number that opened it.
Key = tuple[bytes, int]


class AssignmentTracker:
    """What one replica is to begin. Times are seconds of its clock.

    thresholds, standby_timeout: of a build, for each has the limits that it was opened under.
    """

    def __init__(
        self,
        name: str,
        thresholds: Callable[[OpenBuild], Thresholds],
        standby_timeout: Callable[[OpenBuild], StandbyTimeout],
    ) -> None:
        self._name = name
        self._thresholds = thresholds
        self._standby_timeout = standby_timeout
        self._opened: dict[Key, float] = {}
        self._voted: dict[Key, float] = {}
        self._called: dict[Key, float] = {}
        self._weak: dict[Key, None] = {}

    def update(self, builds: Iterable[OpenBuild], now: float) -> None:
        """Take in what the state shows now; clocks of what is over are forgotten."""
        opened: dict[Key, float] = {}
        voted: dict[Key, float] = {}
        waiting: dict[Key, OpenBuild] = {}
        for build in builds:
            if build.executors and build.is_approved and not build.is_decided:
                key = (build.id, build.opened)
                waiting[key] = build
                opened[key] = self._opened.get(key, now)
                if build.ballots:
                    voted[key] = self._voted.get(key, now)
        self._opened, self._voted = opened, voted
        self._called = {
            key: self._called.get(key, now)
            for key, build in waiting.items()
            if escalation(build, self._standby_timeout(build), self._age(key, now)) is not None
        }
        self._weak = {key: None for key in self._weak if key in opened}

    def call(self, build: OpenBuild, now: float) -> StartReason | None:
        """Why this replica is to begin that build now; None: it is not."""
        key = (build.id, build.opened)
        agreement = Agreement.WEAK if key in self._weak else None
        age = self._age(key, now)
        return call(
            build,
            self._name,
            self._thresholds(build),
            standby_timeout=self._standby_timeout(build),
            age=age,
            agreement=agreement,
        )

    def is_everybody_called(self, build: OpenBuild, now: float) -> bool:
        """Whether those that stand by are to build it too, or everybody was from its beginning."""
        if not build.executors:
            return True
        age = self._age((build.id, build.opened), now)
        return escalation(build, self._standby_timeout(build), age) is not None

    def has_everybody_had_time(self, build: OpenBuild, now: float) -> bool:
        """Whether those that stand by were called so long ago that they could have built it.

        They begin when the others are done: without that time, f liars who report the deadline
        could end each build that takes longer than it.
        """
        if not build.executors:
            return True
        called = self._called.get((build.id, build.opened))
        standby_timeout = self._standby_timeout(build)
        return called is not None and now - called >= standby_timeout.build_seconds_max

    def is_spare(self, build: OpenBuild, now: float) -> bool:
        """Whether it may leave this build, which it begins as an executor, where it is `weak`.

        After the verdict it may not: that says whose ballots are waited for.
        """
        if build.is_decided:
            return False
        is_first_try = is_spare(build, self._name, self._thresholds(build))
        return is_first_try and not self.is_everybody_called(build, now)

    def note_weak(self, key: Key) -> None:
        """This replica read in the build's pipeline that it asks for weak agreement."""
        self._weak[key] = None

    def _age(self, key: Key, now: float) -> BuildAge:
        opened, voted = self._opened.get(key, now), self._voted.get(key)
        return BuildAge(now - opened, None if voted is None else now - voted)
