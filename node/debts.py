"""What this replica owes: the open builds that it has not cast a ballot on.

Computed afresh from the replicated state and from what was cast, so that a crash forgets no debt
and none is paid twice.
"""

from collections.abc import Callable, Mapping

from ci.builds import OpenBuild
from ci.duties import Key
from ci.executors import STAND_BY
from node.executor import BuildOrder


def owed_builds(
    builds: Mapping[bytes, OpenBuild], replica: str, has_cast: Callable[[Key], bool]
) -> dict[Key, BuildOrder]:
    """The builds that wait for this replica's ballot, by (id, opening sequence), oldest first.

    One that waits for approval is owed by nobody.

    A decided build that still takes late ballots is owed too; whether this replica is to begin
    what it owes, or stands by, is `ci.duties`.
    """
    owed = sorted(
        (build for build in builds.values() if build.is_approved and replica not in build.ballots),
        key=lambda build: build.opened,
    )
    return {
        (build.id, build.opened): BuildOrder(
            build=build.id,
            opened=build.opened,
            repository=build.repository,
            branch=build.branch,
            commit=build.commit,
            event=build.event,
            ref=build.ref,
        )
        for build in owed
        if not has_cast((build.id, build.opened))
    }


def state_of(build: OpenBuild | None, replica: str, at_hand: str) -> str:
    """What this replica does about a build, in a word: what is at hand, or that it stands by.

    build: while it is open. at_hand: as `Executor.state` says it.
    """
    if build is None or at_hand != "none" or replica in build.ballots:
        return at_hand
    is_spared = bool(build.executors) and replica not in build.executors
    return STAND_BY if is_spared and build.is_approved else at_hand
