"""Which caches a build may read, and whether it may write them. Pure.

The rule: a scope is a branch, and only builds of that branch write to it. Which branches have one
says the operator, and that a build is of such a branch git has shown to this replica. What the
request or the pipeline says can give a build a scope to read, and never one to write.
"""

from collections.abc import Sequence

import msgspec

from ci.operations import Event
from ci.references import BRANCH_PREFIX
from common.pipeline.pipeline_file import matches


class Branches(msgspec.Struct, frozen=True):
    """What a repository's server says: the branch that its HEAD names, and the commit at the head
    of the branch that is built. None: it has none."""

    default: str | None
    tip: str | None


class Scope(msgspec.Struct, frozen=True):
    """The branch whose caches a build reads, and whether it may write them too."""

    branch: str
    is_written: bool


def scope_of(
    event: Event,
    reference: str,
    commit: str,
    *,
    target: str,
    branches: Branches,
    cache_branches: Sequence[str] | None,
) -> Scope | None:
    """The scope of a build; None: it neither reads nor writes.

    reference: the full name that the commit was proved to be on. target: the branch that the
    request names, for a pull request its target. branches: as the server says it now.
    cache_branches: the operator's globs; None: the branch that HEAD names.

    A build writes if it is a push, its branch has a scope, and its commit is that branch's head.
    A commit below the head may have come in with a branch that nobody looked at but for its end.
    """
    if event is Event.TAG:
        return None

    def has_scope(branch: str | None) -> bool:
        if branch is None or cache_branches is None:
            return branch is not None and branch == branches.default
        return any(matches(glob, branch) for glob in cache_branches)

    if event is Event.PUSH and reference.startswith(BRANCH_PREFIX):
        own = reference.removeprefix(BRANCH_PREFIX)
        if has_scope(own):
            return Scope(own, is_written=branches.tip == commit)
    elif has_scope(target):
        return Scope(target, is_written=False)
    if branches.default is not None and has_scope(branches.default):
        return Scope(branches.default, is_written=False)
    return None
