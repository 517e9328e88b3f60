"""The verdict rule: what a build came to, from the ballots in the order that the ledger fixes.

`passed` needs n - f equal ballots, anything else f + 1. Where the pipeline asks for weak agreement
and the genesis allows it, `passed` needs f + 1 too.

Why green can never have a second quorum: each replica has one ballot, so quorums for two values
need (n - f) + (f + 1) = n + 1 ballots, and there are n. A 2-2 split of four is therefore never
`passed`, in whatever order the ballots come: green lacks its third, red has its second. The sum
is the same for n < 4 with f = 0: green needs every ballot, and one red ballot is enough.
Nothing in it depends on the other value's kind, so a green of default agreement is as safe from
a value of weak agreement as from red.

What weak agreement gives up: a weak green has f + 1 ballots, so n - f - 1 >= f + 1 may be left
for another value, red or another green. Both can then have their threshold, and the order of the
ballots decides; all see the same order. What stays: a value is decided by f + 1 equal ballots or
more, one of them a correct replica's, and what the pipeline asks for is part of the value. So
f liars cannot make a green weak: a correct replica read `weak` in the pipeline's own file.

Why f + 1 is enough for red: at least one correct replica found it. That some other value was
found by f + 1 too (a flaky build) is possible; the order decides, and all see the same order.
"""

from collections.abc import Iterable

import msgspec

from ci.operations import Agreement, Ballot, BuildResult, Outcome, ResultKey
from pbft.quorums import Quorums


class Verdict(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was decided, for ever.

    compared: the value that the agreeing replicas found; None for disputed and cancelled.
    agreeing: their names in the order of their ballots, up to the verdict.
    threshold: how many equal ballots this took; None where no number of ballots decided.
    """

    outcome: Outcome
    compared: ResultKey | None = None
    agreeing: tuple[str, ...] = ()
    threshold: int | None = None


DISPUTED = Verdict(Outcome.DISPUTED)
CANCELLED = Verdict(Outcome.CANCELLED)


class Thresholds(msgspec.Struct, frozen=True):
    """How many equal ballots a value takes.

    is_weak_agreement_allowed: does the genesis let a pipeline ask for weak agreement?
    vacant: of how many replicas no ballot is expected (`Cluster.expected_names`).
    """

    quorums: Quorums
    is_weak_agreement_allowed: bool = False
    vacant: int = 0

    @property
    def expected(self) -> int:
        """How many replicas may cast a ballot."""
        return self.quorums.replicas - self.vacant

    def equal_ballots(self, compared: ResultKey) -> int:
        """How many equal ballots this value takes."""
        is_weak = compared.agreement is Agreement.WEAK and self.is_weak_agreement_allowed
        if compared.outcome is Outcome.PASSED and not is_weak:
            return self.quorums.replicas - self.quorums.faults_max
        return self.quorums.weak


def decide(
    ballots: Iterable[tuple[str, Ballot]], deadline_reports: int, thresholds: Thresholds
) -> Verdict | None:
    """The verdict on one build, or None while it is open.

    ballots: (replica name, its ballot) in their order; of one replica only the first counts, and
        an abstention is a ballot without a value.
    deadline_reports: how many replicas have said that the build's deadline passed.

    The verdict is reached at the first ballot after which a value has its threshold, or after
    which none can get it any more (disputed); ballots after that one change nothing. Without
    such a ballot, `strong` deadline reports make it disputed.
    """
    quorums = thresholds.quorums
    found: dict[ResultKey, list[str]] = {}
    voted: set[str] = set()
    for replica, ballot in ballots:
        if replica in voted:
            continue
        voted.add(replica)
        if isinstance(ballot, BuildResult):
            compared = ballot.compared
            agreeing = found.setdefault(compared, [])
            agreeing.append(replica)
            needed = thresholds.equal_ballots(compared)
            if len(agreeing) >= needed:
                return Verdict(compared.outcome, compared, tuple(agreeing), needed)
        if not _has_reachable_value(found, thresholds.expected - len(voted), thresholds):
            return DISPUTED
    return DISPUTED if deadline_reports >= quorums.strong else None


def is_contradicted(
    ballots: Iterable[tuple[str, Ballot]], own: ResultKey, replica: str, *, quorums: Quorums
) -> bool:
    """Whether f + 1 other replicas, so a correct one among them, found one thing that is not `own`.

    ballots: as for `decide`. replica: the one that found `own`.
    """
    found: dict[ResultKey, set[str]] = {}
    for name, ballot in ballots:
        if isinstance(ballot, BuildResult) and name != replica and ballot.compared != own:
            found.setdefault(ballot.compared, set()).add(name)
    return any(len(replicas) >= quorums.weak for replicas in found.values())


def _has_reachable_value(
    found: dict[ResultKey, list[str]], missing: int, thresholds: Thresholds
) -> bool:
    """Could some value still reach its threshold if every missing ballot were for it?"""
    # A value that nobody has named yet: f + 1 is the lowest threshold that one can have.
    if missing >= thresholds.quorums.weak:
        return True
    return any(
        len(agreeing) + missing >= thresholds.equal_ballots(compared)
        for compared, agreeing in found.items()
    )
