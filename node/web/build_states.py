"""Names what this replica does about a build in one word."""

from ci.builds import OpenBuild
from ci.executors import STAND_BY


def state_of(build: OpenBuild | None, replica: str, at_hand: str) -> str:
    """What this replica does about a build, in a word: what is at hand, or that it stands by.

    build: while it is open. at_hand: as `BuildRunner.state` says it.
    """
    if build is None or at_hand != "none" or replica in build.ballots:
        return at_hand
    is_spared = bool(build.executors) and replica not in build.executors
    return STAND_BY if is_spared and build.is_approved else at_hand
