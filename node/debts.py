"""What this replica owes: the open builds that it has not cast a ballot on.

Computed afresh from the replicated state and from what was cast, so that a crash forgets no debt
and none is paid twice.
"""

from collections.abc import Callable, Mapping

from ci.ballots import Key
from ci.builds import OpenBuild
from node.executor import BuildOrder


def owed_builds(
    builds: Mapping[bytes, OpenBuild], replica: str, has_cast: Callable[[Key], bool]
) -> dict[Key, BuildOrder]:
    """The builds that wait for this replica's ballot, by (id, opening sequence), oldest first.

    One that waits for approval is owed by nobody.

    A decided build that still takes late ballots is owed too: every replica builds everything.
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
