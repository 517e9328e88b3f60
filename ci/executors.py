"""Who builds first, and when the others follow: `executors: minimal`.

Agreement is of all n replicas; a verdict takes the ballots of fewer (Yin et al. 2003; Wood et al.
2011). With `executors: minimal` as many replicas as the rule for `passed` needs begin at once: the
executors of a build. The others stand by. That is advice to the shells and no rule of counting:
whoever casts a ballot is counted, so the verdict's safety is that of `executors: all`.

The executors are drawn when the build is opened, from the ledger's head before it and the build's
id, and are part of the build's replicated state. While all of them find the same, their ballots
are enough; as soon as two differ or one abstains, they may not be, and the state shows it to
everybody: all that stand by begin. What no state shows, an executor that says nothing, is left to
a delay by each replica's own clock.
"""

import enum
import hashlib

import msgspec

from ci.builds import OpenBuild
from ci.limits import Limits
from ci.operations import Abstain, Agreement
from ci.verdict import Thresholds
from pbft.genesis import Cluster

MINIMAL = "minimal"
# What a replica that need not build a build says of it, where others say what they do.
STAND_BY = "stand-by"
# Beyond what the first ballot took: machines differ by less, and it is no whole build's time.
SHARE_OF_THE_FIRST = 0.5


class StartReason(enum.StrEnum):
    """Why a replica begins a build. The first two hold from its opening, the others for those
    that stand by."""

    EVERYBODY = "every replica builds"
    EXECUTOR = "it is an executor"
    DIFFERING = "two ballots differ"
    ABSTENTION = "a replica abstained"
    REPORT = "a replica reported the deadline"
    DELAY = "there is no verdict in time"


class BuildAge(msgspec.Struct, frozen=True):
    """How long, in seconds by the own clock, a build is seen open and approved, and how long with
    a ballot; None: it has none."""

    open_seconds: float = 0.0
    ballot_seconds: float | None = None


class StandbyTimeout(msgspec.Struct, frozen=True):
    """How long one replica that stands by waits for a verdict, in seconds.

    stand_by_seconds: at least so long after the first ballot. build_seconds_max: the longest
        build, and so much more where there is no ballot at all.
    """

    stand_by_seconds: float
    build_seconds_max: float

    def is_over(self, age: BuildAge) -> bool:
        """Whether the executors had their time: the first ballot tells how long a build takes."""
        if age.ballot_seconds is None:
            return age.open_seconds >= self.build_seconds_max + self.stand_by_seconds
        first_took = age.open_seconds - age.ballot_seconds
        return age.ballot_seconds >= max(self.stand_by_seconds, SHARE_OF_THE_FIRST * first_took)


def drawn_executors(
    cluster: Cluster, limits: Limits, ledger_head: bytes, *, build_id: bytes
) -> tuple[str, ...]:
    """The n - f executors of a build that opens now, in the order drawn; empty: all build.

    ledger_head, build_id: 32 bytes each; the head is that before the build.
    """
    if limits.executors != MINIMAL:
        return ()

    def drawn(name: str) -> bytes:
        seed = b"pbft-ci executors\0" + ledger_head + build_id
        return hashlib.sha256(seed + name.encode()).digest()

    quorums = cluster.quorums
    order = sorted(cluster.expected_names, key=drawn)
    return tuple(order[: quorums.replicas - quorums.faults_max])


def first_executors(
    executors: tuple[str, ...], agreement: Agreement | None, thresholds: Thresholds
) -> tuple[str, ...]:
    """Those of a build's executors whom this agreement needs: f + 1 of them under `weak`.

    agreement: what the pipeline asks for; None: not known. A replica believes only its own
    reading of the file, or a verdict.
    """
    is_weak = agreement is Agreement.WEAK and thresholds.is_weak_agreement_allowed
    return executors[: thresholds.quorums.weak] if is_weak else executors


def call(
    build: OpenBuild,
    replica: str,
    thresholds: Thresholds,
    *,
    standby_timeout: StandbyTimeout,
    age: BuildAge,
    agreement: Agreement | None = None,
) -> StartReason | None:
    """Why this replica is to begin that build now, if it did not before; None: it is not.

    agreement: what the replica read in the build's pipeline; None: it has not. Once begun, it goes
    on to its ballot, also beyond the verdict, for as long as the build is there.

    Of a decided build, those begin whose ballots it stays open for (`is_anybody_expected`): one
    that is late, or was started again, would otherwise be waited for until the deadline.
    """
    if not build.is_approved:
        return None
    if not build.executors:
        return StartReason.EVERYBODY
    if build.is_decided:
        is_executor = replica in _decided_executors(build, thresholds)
        return StartReason.EXECUTOR if is_executor else disagreement(build)
    if replica in first_executors(build.executors, agreement, thresholds):
        return StartReason.EXECUTOR
    return escalation(build, standby_timeout, age)


def escalation(
    build: OpenBuild, standby_timeout: StandbyTimeout, age: BuildAge
) -> StartReason | None:
    """Why those that stand by begin an undecided build; None: its executors may be enough."""
    if (reason := disagreement(build)) is not None:
        return reason
    if build.reports:
        return StartReason.REPORT
    return StartReason.DELAY if standby_timeout.is_over(age) else None


def disagreement(build: OpenBuild) -> StartReason | None:
    """What a build's ballots show that calls every replica; None: nothing."""
    if any(isinstance(ballot, Abstain) for ballot in build.ballots.values()):
        return StartReason.ABSTENTION
    found = [b.compared for b in build.ballots.values() if not isinstance(b, Abstain)]
    if any(compared != found[0] for compared in found):
        return StartReason.DIFFERING
    return None


def is_spare(build: OpenBuild, replica: str, thresholds: Thresholds) -> bool:
    """Whether this executor need not build where it reads that the pipeline asks for `weak`."""
    weak = first_executors(build.executors, Agreement.WEAK, thresholds)
    return replica in build.executors and replica not in weak


def is_anybody_expected(build: OpenBuild, thresholds: Thresholds) -> bool:
    """Whether a late ballot may still come to a decided build, as far as the state tells.

    Where the executors were not enough, all others are called too. One that began by its own delay
    is not waited for, and is broken off when the last executor has cast its ballot.
    """
    if len(build.ballots) == thresholds.expected:
        return False
    if not build.executors or disagreement(build) is not None:
        return True
    return any(name not in build.ballots for name in _decided_executors(build, thresholds))


def _decided_executors(build: OpenBuild, thresholds: Thresholds) -> tuple[str, ...]:
    """The executors that a decided build needed: no replica's own reading counts any more."""
    assert build.verdict is not None
    compared = build.verdict.compared
    agreement = compared.agreement if compared is not None else None
    return first_executors(build.executors, agreement, thresholds)
