"""The verdict rule: what a build came to, from the ballots in the order that the ledger fixes.

`passed` needs n - f equal ballots, anything else f + 1.

Why green can never have a second quorum: each replica has one ballot, so quorums for two values
need (n - f) + (f + 1) = n + 1 ballots, and there are n. A 2-2 split of four is therefore never
`passed`, in whatever order the ballots come: green lacks its third, red has its second. The sum
is the same for n < 4 with f = 0: green needs every ballot, and one red ballot is enough.

Why f + 1 is enough for red: at least one correct replica found it. That some other value was
found by f + 1 too (a flaky build) is possible; the order decides, and all see the same order.
"""

from collections.abc import Iterable

import msgspec

from ci.operations import Ballot, Compared, Finding, Outcome
from pbft.quorums import Quorums


class Verdict(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was decided, for ever.

    compared: the value that the agreeing replicas found; None for disputed and cancelled.
    agreeing: their names in the order of their ballots, up to the verdict.
    threshold: how many equal ballots this took; None where no number of ballots decided.
    """

    outcome: Outcome
    compared: Compared | None = None
    agreeing: tuple[str, ...] = ()
    threshold: int | None = None


DISPUTED = Verdict(Outcome.DISPUTED)
CANCELLED = Verdict(Outcome.CANCELLED)


def equal_ballots_needed(outcome: Outcome, quorums: Quorums) -> int:
    """How many equal ballots this outcome takes."""
    if outcome is Outcome.PASSED:
        return quorums.replicas - quorums.faults_max
    return quorums.weak


def decide(
    ballots: Iterable[tuple[str, Ballot]], deadline_reports: int, quorums: Quorums
) -> Verdict | None:
    """The verdict on one build, or None while it is open.

    ballots: (replica name, its ballot) in their order; of one replica only the first counts, and
        an abstention is a ballot without a value.
    deadline_reports: how many replicas have said that the build's deadline passed.

    The verdict is reached at the first ballot after which a value has its threshold, or after
    which none can get it any more (disputed); ballots after that one change nothing. Without
    such a ballot, `strong` deadline reports make it disputed.
    """
    found: dict[Compared, list[str]] = {}
    voted: set[str] = set()
    for replica, ballot in ballots:
        if replica in voted:
            continue
        voted.add(replica)
        if isinstance(ballot, Finding):
            compared = ballot.compared
            agreeing = found.setdefault(compared, [])
            agreeing.append(replica)
            needed = equal_ballots_needed(compared.outcome, quorums)
            if len(agreeing) >= needed:
                return Verdict(compared.outcome, compared, tuple(agreeing), needed)
        if not _has_reachable_value(found, quorums.replicas - len(voted), quorums):
            return DISPUTED
    return DISPUTED if deadline_reports >= quorums.strong else None


def _has_reachable_value(found: dict[Compared, list[str]], missing: int, quorums: Quorums) -> bool:
    """Could some value still reach its threshold if every missing ballot were for it?"""
    # A value that nobody has named yet: f + 1 is the lowest threshold that one can have.
    if missing >= quorums.weak:
        return True
    return any(
        len(agreeing) + missing >= equal_ballots_needed(compared.outcome, quorums)
        for compared, agreeing in found.items()
    )
