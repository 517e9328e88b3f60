"""How a branch stands: since when, how often it passed lately, how long it builds."""

import statistics

import msgspec

from ci.operations import Outcome
from client.storage.archive import Archive, BuildRecord
from client.views.build_times import span
from client.views.build_view import iso_time
from client.views.plots import Line, Run, line, run

# So many of its newest builds are looked at.
NEWEST_MAX = 20
PASSED = (str(Outcome.PASSED),)
# Nobody wants to know how often a build was not to be.
_UNCOUNTED = (Outcome.PASSED, Outcome.CANCELLED, Outcome.SKIPPED)
NOT_PASSED = tuple(str(outcome) for outcome in Outcome if outcome not in _UNCOUNTED)
COUNTED = (*PASSED, *NOT_PASSED)


class Since(msgspec.Struct, frozen=True):
    """Since when a branch passes, or does not.

    build, commit, at: the first build of the run, and when it was asked for (ISO 8601).
    before, before_commit: the newest build before it, which ended the other way; None: there is
    none here.
    """

    build: str
    commit: str | None
    at: str
    before: str | None
    before_commit: str | None


class BranchView(msgspec.Struct, frozen=True):
    """One branch. run: its newest builds, so many, the oldest first; so many of them passed.

    took: the middle one of their build times, in words. line: those times. since: None, if its
    newest build neither passed nor failed.
    """

    run: Run
    builds: int
    passed: int
    took: str | None
    line: Line | None
    since: Since | None


def branch_view(archive: Archive, newest: BuildRecord, outcome: str) -> BranchView:
    """The branch of this build, its newest decided one, with that outcome."""
    repository, branch = newest.repository, newest.branch
    builds = archive.pushed(repository, branch, outcomes=COUNTED, builds_max=NEWEST_MAX)[::-1]
    passed = [build.outcome in PASSED for build in builds]
    times = [build.built_seconds for build in builds if build.built_seconds is not None]
    since = None
    if outcome in COUNTED:
        side, other = (PASSED, NOT_PASSED) if outcome in PASSED else (NOT_PASSED, PASSED)
        first, before = archive.first_since(repository, branch, outcomes=side, others=other)
        since = None if first is None else _since(first, before)
    return BranchView(
        run=run(passed),
        builds=len(builds),
        passed=sum(passed),
        took=span(statistics.median(times)) if times else None,
        line=line(times, span),
        since=since,
    )


def _since(first: BuildRecord, before: BuildRecord | None) -> Since:
    return Since(
        build=first.build.hex(),
        commit=first.commit,
        at=iso_time(first.received_at) or "",
        before=None if before is None else before.build.hex(),
        before_commit=None if before is None else before.commit,
    )
