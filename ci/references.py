"""Whether a request for a build fits together: its event, its ref, its branch. Pure.

The rule: what a pipeline decides by (`when: event, branch`) and what git can show (the ref) are one
claim. A gateway that says "the tag v1" about refs/heads/main is refused here, by all replicas
alike; whether the ref really leads to the commit each replica asks git (node.sources.mirror).
"""

import re

from ci.operations import Event

BRANCH_PREFIX = "refs/heads/"
TAG_PREFIX = "refs/tags/"
# Below it GitHub's merge queue makes a branch for each merge group: <base>/pr-<number>-<commit>.
QUEUE_PREFIX = "gh-readonly-queue/"
# The head of a pull request (GitHub, Gitea, Forgejo; Bitbucket Data Center) and of a merge request
# (GitLab).
_REQUEST_HEAD = re.compile(
    r"refs/((pull|merge-requests)/[1-9][0-9]{0,18}/head|pull-requests/[1-9][0-9]{0,18}/from)"
)


def full_ref(branch: str, ref: str | None) -> str:
    """The ref that the commit must be on: `ref`, else that of the branch."""
    return BRANCH_PREFIX + branch if ref is None else ref


def branch_ref(name: str) -> str:
    """The full name of a branch that is given by its full or its short name."""
    return name if name.startswith("refs/") else BRANCH_PREFIX + name


def target_of(event: Event, branch: str) -> str | None:
    """The full name of the branch that a pull request or a merge group is for; None: it is none."""
    is_for_branch = event in (Event.PULL_REQUEST, Event.MERGE_GROUP)
    return BRANCH_PREFIX + branch if is_for_branch else None


def reference_refusal(
    event: Event, branch: str, ref: str | None, *, schedule: str | None = None
) -> str | None:
    """Why this event cannot have this ref, branch and schedule; None: it can. Fixed texts.

    Bitbucket Cloud has no refs of requests: there the head of one is a branch, which is not the
    branch that the request is for.
    """
    reference = full_ref(branch, ref)
    if (schedule is None) is (event is Event.CRON):
        return "the event is cron without a schedule, or another one with a schedule"
    match event:
        case Event.PUSH:
            if reference != BRANCH_PREFIX + branch:
                return "the event is push, and the ref is not refs/heads/ and the branch"
        case Event.TAG:
            if reference != TAG_PREFIX + branch:
                return "the event is tag, and the ref is not refs/tags/ and the branch (the tag)"
        case Event.PULL_REQUEST:
            is_other_branch = (
                reference.startswith(BRANCH_PREFIX) and reference != BRANCH_PREFIX + branch
            )
            if not is_other_branch and _REQUEST_HEAD.fullmatch(reference) is None:
                return "the event is pull_request, and the ref is not the head of a request"
        case Event.MERGE_GROUP:
            group = reference.removeprefix(f"{BRANCH_PREFIX}{QUEUE_PREFIX}{branch}/")
            if group == reference or "/" in group:
                return "the event is merge_group, and the ref is not in the queue of the branch"
        case Event.CRON:
            if reference != BRANCH_PREFIX + branch:
                return "the event is cron, and the ref is not refs/heads/ and the branch"
    return None
