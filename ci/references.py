"""Whether a request for a build fits together: its event, its ref, its branch. Pure.

The rule: what a pipeline decides by (`when: event, branch`) and what git can show (the ref) are one
claim. A gateway that says "the tag v1" about refs/heads/main is refused here, by all replicas
alike; whether the ref really leads to the commit each replica asks git (node.sources.mirror).
"""

import re

from ci.operations import Event

BRANCH_PREFIX = "refs/heads/"
TAG_PREFIX = "refs/tags/"
# The head of a pull request (GitHub, Gitea, Forgejo) and of a merge request (GitLab).
_REQUEST_HEAD = re.compile(r"refs/(pull|merge-requests)/[1-9][0-9]{0,18}/head")


def full_ref(branch: str, ref: str | None) -> str:
    """The ref that the commit must be on: `ref`, else that of the branch."""
    return BRANCH_PREFIX + branch if ref is None else ref


def branch_ref(name: str) -> str:
    """The full name of a branch that is given by its full or its short name."""
    return name if name.startswith("refs/") else BRANCH_PREFIX + name


def target_of(event: Event, branch: str) -> str | None:
    """The full name of the branch that a pull request is for; None: it is none."""
    return BRANCH_PREFIX + branch if event is Event.PULL_REQUEST else None


def reference_refusal(event: Event, branch: str, ref: str | None) -> str | None:
    """Why this event cannot have this ref and this branch; None: it can. Fixed texts."""
    reference = full_ref(branch, ref)
    match event:
        case Event.PUSH:
            if reference != BRANCH_PREFIX + branch:
                return "the event is push, and the ref is not refs/heads/ and the branch"
        case Event.TAG:
            if reference != TAG_PREFIX + branch:
                return "the event is tag, and the ref is not refs/tags/ and the branch (the tag)"
        case Event.PULL_REQUEST:
            if _REQUEST_HEAD.fullmatch(reference) is None:
                return "the event is pull_request, and the ref is not the head of a request"
    return None
