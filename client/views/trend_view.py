"""Weeks of finished builds in numbers: how long they waited and built, passed and agreed."""

import datetime
import statistics
from collections.abc import Callable, Sequence

import msgspec

from ci.operations import Outcome
from client.storage.build_measures import BuildMeasure
from client.views.build_times import span
from client.views.plots import Bars, bars

WEEK = datetime.timedelta(days=7)
_WEEK_SECONDS = WEEK.total_seconds()
# Neither tells anything of the code or of the machines.
_UNCOUNTED = (Outcome.CANCELLED, Outcome.SKIPPED)


class WeekView(msgspec.Struct, frozen=True):
    """The builds decided in one week. begin: its Monday, ISO 8601.

    Shares are of 1, times are seconds; slow: nine of ten took no longer. None: no such build.
    """

    begin: str
    builds: int
    passed: float | None
    agreed: float | None
    queued: float | None
    queued_slow: float | None
    built: float | None
    built_slow: float | None


class Plot(msgspec.Struct, frozen=True):
    """A plot with its title, and one sentence on what it shows."""

    title: str
    meaning: str
    bars: Bars


def weeks_of(measures: Sequence[BuildMeasure], weeks: int, now: float) -> tuple[WeekView, ...]:
    """So many weeks, the last one that of `now` (seconds since 1970), the oldest first."""
    first = begin_of(weeks, now)
    found: list[list[BuildMeasure]] = [[] for _ in range(weeks)]
    for measure in measures:
        week = int((measure.decided_at - first) // _WEEK_SECONDS)
        if 0 <= week < weeks and measure.outcome not in _UNCOUNTED:
            found[week].append(measure)
    begin = datetime.datetime.fromtimestamp(first, datetime.UTC).date()
    return tuple(_week(begin + index * WEEK, builds) for index, builds in enumerate(found))


def begin_of(weeks: int, now: float) -> float:
    """When the first of so many weeks begins, in seconds since 1970."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - datetime.timedelta(days=moment.weekday()) - (weeks - 1) * WEEK).timestamp()


def plots_of(weeks: Sequence[WeekView]) -> tuple[Plot, ...]:
    """What the page draws of these weeks."""
    names = [f"week of {week.begin}" for week in weeks]

    def plot(title: str, meaning: str, values: Sequence[float | None]) -> Plot:
        return Plot(title, meaning, bars(values, names, said=span))

    def share(title: str, meaning: str, values: Sequence[float | None]) -> Plot:
        return Plot(title, meaning, bars(values, names, said=percent, highest=1.0))

    return (
        plot(
            "Time in queue",
            "From the webhook until the replicas had agreed to build. Half of the builds waited "
            "no longer.",
            [week.queued for week in weeks],
        ),
        plot(
            "Time in build",
            "Checkout and steps, on the slowest replica that agrees. Half of the builds took no "
            "longer.",
            [week.built for week in weeks],
        ),
        share("Passed", "The builds that passed, of all.", [week.passed for week in weeks]),
        share(
            "Agreed",
            "The builds in which no replica found anything else than the verdict.",
            [week.agreed for week in weeks],
        ),
    )


def percent(share: float) -> str:
    """A share of 1 in words; all and none are said only where they are meant."""
    if 0 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.3g} %"
    return f"{100 * share:.0f} %"


def _week(begin: datetime.date, builds: Sequence[BuildMeasure]) -> WeekView:
    queued = sorted(build.queued_seconds for build in builds)
    built = sorted(build.built_seconds for build in builds if build.built_seconds is not None)
    return WeekView(
        begin=begin.isoformat(),
        builds=len(builds),
        passed=_share(builds, lambda build: build.outcome == Outcome.PASSED),
        agreed=_share(
            builds,
            lambda build: build.dissenting == 0 and build.outcome != Outcome.DISPUTED,
        ),
        queued=statistics.median(queued) if queued else None,
        queued_slow=slow(queued),
        built=statistics.median(built) if built else None,
        built_slow=slow(built),
    )


def slow(ordered: Sequence[float]) -> float | None:
    """What nine of ten of these values, in order, do not exceed; None: there are none."""
    return ordered[-(-9 * len(ordered) // 10) - 1] if ordered else None


def _share(builds: Sequence[BuildMeasure], holds: Callable[[BuildMeasure], bool]) -> float | None:
    return sum(map(holds, builds)) / len(builds) if builds else None
