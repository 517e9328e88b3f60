"""Where a build's time went, from the webhook to the verdict.

The gateway's clock measures all but the building, which each replica measures by its own.
"""

import datetime

import msgspec

from client.views.build_view import BuildView
from client.views.formats import length


class TimePart(msgspec.Struct, frozen=True):
    """A part of a build's time. meaning: what happened in it.

    begin, percent: its place on a bar of 100.
    """

    name: str
    meaning: str
    seconds: float
    begin: float
    percent: float
    is_longest: bool

    @property
    def text(self) -> str:
        """How long it took."""
        return span(self.seconds)


def span(seconds: float) -> str:
    """A length of time in words; below a second in milliseconds."""
    return length(seconds) if seconds >= 1 else f"{round(1000 * seconds)} ms"


def building_seconds(build: BuildView) -> float | None:
    """How long the slowest replica on the verdict's side took, by its own clock; None: unknown."""
    agreeing = () if build.verdict is None else build.verdict.agreeing
    took = [
        (ballot.checkout_milliseconds or 0) + ballot.build_milliseconds
        for ballot in build.ballots
        if ballot.replica in agreeing and ballot.build_milliseconds is not None
    ]
    return max(took) / 1000 if took else None


def total_seconds(build: BuildView) -> float | None:
    """From the webhook to the verdict; None: there is none yet."""
    times = build.times
    if times.received is None or times.decided is None:
        return None
    return _between(times.received, times.decided)


def time_parts(build: BuildView) -> tuple[TimePart, ...]:
    """The parts in their order; empty while the build is not decided, or nothing is known of it."""
    times, building = build.times, building_seconds(build)
    if building is None or times.received is None or times.signed is None:
        return ()
    if times.opened is None or times.decided is None:
        return ()
    open_seconds = _between(times.opened, times.decided)
    building = min(building, open_seconds)
    parts = (
        ("queued", "at the gateway, until it signed the request", times.received, times.signed),
        ("ordered", "until the replicas had agreed to build", times.signed, times.opened),
    )
    lengths = [(name, meaning, _between(begin, end)) for name, meaning, begin, end in parts]
    lengths.append(("built", "checkout and steps, on the slowest replica that agrees", building))
    lengths.append(
        ("decided", "waiting for a place at the replicas, and for the verdict",
         open_seconds - building)
    )  # fmt: skip
    total = sum(seconds for *_, seconds in lengths) or 1.0
    longest = max(seconds for *_, seconds in lengths)
    told = []
    begin = 0.0
    for name, meaning, seconds in lengths:
        percent = 100 * seconds / total
        told.append(TimePart(name, meaning, seconds, begin, percent, seconds == longest))
        begin += percent
    return tuple(told)


def _between(begin: str, end: str) -> float:
    moments = [datetime.datetime.fromisoformat(iso) for iso in (begin, end)]
    return max(0.0, (moments[1] - moments[0]).total_seconds())
