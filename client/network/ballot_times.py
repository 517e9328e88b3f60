"""How long replicas build beside each other, and whose ballots verdicts waited for: told by the
ledger, entry by entry. Pure.

A replica measures its own times, and nobody can check them. That a verdict was reached with a
replica's ballot is in the ledger's order.
"""

import statistics
from collections import Counter, deque
from typing import Annotated

import msgspec

from ci.ledger import RecordedBallot
from common.safe_text import log_text

# The newest builds that are told of, of each replica; and the newest verdicts.
BUILDS_TOLD = 60
VERDICTS_TOLD = 100
# A late ballot is compared with the times of the verdict it comes after, of so many verdicts.
VERDICTS_KEPT = 256
# A replica gives its reasons in words of its own: so many sorts are counted, of so many characters.
REASONS_MAX = 12
REASON_CHARACTERS_MAX = 60
OTHER_REASONS = "other reasons"


class ReplicaTimes(msgspec.Struct, frozen=True):
    """How one replica builds."""

    seconds: Annotated[
        tuple[float, ...],
        msgspec.Meta(description="checkout and steps of its newest builds, by its own clock"),
    ] = ()
    against_others: Annotated[
        float | None,
        msgspec.Meta(
            description="the median of its times, each divided by the median of the ballots that "
            "the verdict rests on; null: there are none"
        ),
    ] = None
    completed: Annotated[
        int, msgspec.Meta(description="of the newest verdicts, those reached with its ballot")
    ] = 0
    verdicts: Annotated[int, msgspec.Meta(description="how many the newest verdicts are")] = 0
    abstention_reasons: Annotated[
        dict[str, int],
        msgspec.Meta(description="how often it could not build, by the reason's first words"),
    ] = {}


class BallotTimes:
    """Counts as verdicts and ballots are fed to it, in their order."""

    def __init__(self) -> None:
        # (its seconds, those divided by the median of the verdict's) by replica
        self._times: dict[str, deque[tuple[float, float]]] = {}
        self._medians: dict[str, float] = {}
        # whose ballot completed it, of each of the newest verdicts
        self._completed: deque[str] = deque(maxlen=VERDICTS_TOLD)
        self._reasons: dict[str, Counter[str]] = {}

    def copy(self) -> "BallotTimes":
        """One that goes its own way from here."""
        other = BallotTimes()
        other._times = {name: times.copy() for name, times in self._times.items()}
        other._medians = dict(self._medians)
        other._completed = self._completed.copy()
        other._reasons = {name: reasons.copy() for name, reasons in self._reasons.items()}
        return other

    def note_verdict(
        self, build: str, agreeing: tuple[str, ...], ballots: tuple[RecordedBallot, ...]
    ) -> None:
        """A build was decided. agreeing: in the order of their ballots; the last one decided it."""
        if agreeing:
            self._completed.append(agreeing[-1])
        times = [
            seconds
            for ballot in ballots
            if ballot.replica in agreeing and (seconds := _seconds(ballot)) is not None
        ]
        if times:
            self._medians[build] = statistics.median(times)
            if len(self._medians) > VERDICTS_KEPT:
                del self._medians[next(iter(self._medians))]

    def note_ballot(self, build: str, ballot: RecordedBallot) -> None:
        """A replica's ballot on a build that is decided."""
        if ballot.reason is not None:
            self._note_reason(ballot.replica, ballot.reason)
        seconds, median = _seconds(ballot), self._medians.get(build)
        if seconds is not None and median:
            times = self._times.setdefault(ballot.replica, deque(maxlen=BUILDS_TOLD))
            times.append((seconds, seconds / median))

    def of(self, replica: str) -> ReplicaTimes:
        """What there is about one replica."""
        times = self._times.get(replica, ())
        return ReplicaTimes(
            seconds=tuple(seconds for seconds, _ in times),
            against_others=statistics.median(part for _, part in times) if times else None,
            completed=self._completed.count(replica),
            verdicts=len(self._completed),
            abstention_reasons=dict(self._reasons.get(replica, Counter()).most_common()),
        )

    def _note_reason(self, replica: str, reason: str) -> None:
        # what stands behind a colon is often a path, a time, or another program's text
        words = log_text(reason.partition(":")[0].strip(), REASON_CHARACTERS_MAX)
        reasons = self._reasons.setdefault(replica, Counter())
        is_known = words in reasons or len(reasons) < REASONS_MAX
        reasons[words if is_known else OTHER_REASONS] += 1


def _seconds(ballot: RecordedBallot) -> float | None:
    if ballot.build_milliseconds is None:
        return None
    return ((ballot.checkout_milliseconds or 0) + ballot.build_milliseconds) / 1000
