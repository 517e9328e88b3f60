"""When a branch turns, and whom that concerns.

The rule: builds are of one series if they have the same repository, branch, event, ref (a pull
request's, a tag's) and schedule. The newest decided build of a series says what colour it has. Only
a build that is newer than that one changes it, so verdicts that come late tell nobody anything.
"""

import fnmatch
from collections.abc import Iterable

from client.notifications.message import Turn
from client.storage.archive import BuildRecord
from common.configuration.notify_config import NotifyTarget

GREEN = "passed"
# Nobody learns from these whether the branch is good.
COLOURLESS = frozenset({"cancelled", "skipped"})


def turn_of(outcome: str, before: str | None) -> Turn | None:
    """What a verdict comes to after the one before in its series; None: nothing to tell.

    A series that begins red is broken; one that begins green is as people expect it.
    """
    if outcome in COLOURLESS:
        return None
    was_green = before in (None, GREEN)
    if outcome == GREEN:
        return None if was_green else Turn.FIXED
    return Turn.BROKEN if was_green else None


def is_concerned(target: NotifyTarget, record: BuildRecord) -> bool:
    """Whether a target is told of builds like this one."""
    return (
        record.event in target.events
        and (not target.repositories or record.repository in target.repositories)
        and (not target.branches or _has(target.branches, record.branch))
        and (not target.authors or _has(target.authors, record.author or ""))
    )


def _has(globs: Iterable[str], text: str) -> bool:
    return any(fnmatch.fnmatchcase(text, glob) for glob in globs)
