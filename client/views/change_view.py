"""What a build changed: the last green one before it, the first red one since, and between them
the commits.
"""

import msgspec

from ci.operations import Outcome
from client.storage.archive import BuildRecord
from client.storage.build_history import RED
from client.views.build_view import iso_time
from client.views.commit_view import ChangedCommits, FindCommit, changed_commits
from common.forges.web_pages import WebPages


class EarlierBuild(msgspec.Struct, frozen=True):
    """A build before this one, or this one. decided: when (ISO 8601)."""

    id: str
    commit: str | None
    decided: str | None


class WhatChanged(msgspec.Struct, frozen=True):
    """What people are shown of it. None: there is none, or it is not known.

    green: the last build of the same branch that passed; red: the first since then that did not;
    reds: how many did not. is_red: the branch is red at this build. is_first: this build is `red`.
    commits: from the commit of `green` to that of `red`, or of this build if it is not red.
    comparison: the forge's page of them.
    of_commit: how many builds of this commit came to what, the most frequent first.
    """

    green: EarlierBuild | None
    red: EarlierBuild | None
    reds: int
    is_red: bool
    is_first: bool
    commits: ChangedCommits | None
    comparison: str | None
    of_commit: tuple[tuple[str, int], ...]

    @property
    def is_unsteady(self) -> bool:
        """Whether builds of one commit passed and did not: it is not the commit that made it."""
        outcomes = {outcome for outcome, _ in self.of_commit}
        return Outcome.PASSED in outcomes and not outcomes.isdisjoint(RED)


class Around(msgspec.Struct, frozen=True):
    """The builds around one: as client.storage.build_history.Since, and of the same commit.

    outcome: of the build itself; None: it has no verdict.
    """

    outcome: str | None
    green: BuildRecord | None
    red: BuildRecord | None
    reds: int
    of_commit: dict[str, int]


def what_changed(
    record: BuildRecord, around: Around, find: FindCommit, *, pages: WebPages | None
) -> WhatChanged:
    """What that build changed. find: looks a commit up."""
    green, red = around.green, around.red
    is_red = red is not None and around.outcome != Outcome.PASSED
    newer = red if is_red and red is not None else record
    commits = comparison = None
    if green is not None and green.commit is not None and newer.commit is not None:
        commits = changed_commits(find, green.commit, newer.commit)
        if pages is not None and green.commit != newer.commit:
            comparison = pages.comparison(green.commit, newer.commit)
    return WhatChanged(
        green=_earlier(green),
        red=_earlier(red),
        reds=around.reds,
        is_red=is_red,
        is_first=is_red and red is not None and red.build == record.build,
        commits=commits,
        comparison=comparison,
        of_commit=tuple(around.of_commit.items()),
    )


def _earlier(record: BuildRecord | None) -> EarlierBuild | None:
    if record is None:
        return None
    return EarlierBuild(record.build.hex(), record.commit, iso_time(record.decided_at))
