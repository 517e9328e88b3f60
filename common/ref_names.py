"""The grammar of git's names: branches, tags, heads of requests, commit ids. Pure."""

import re

BRANCH_BYTES_MAX = 255
# Full names of what may be built, beside branches: tags, and the heads of pull and merge requests.
_REQUEST_HEAD = re.compile(
    r"refs/((pull|merge-requests)/[1-9][0-9]{0,17}/head|pull-requests/[1-9][0-9]{0,17}/from)"
)
BRANCH_PREFIX = "refs/heads/"
TAG_PREFIX = "refs/tags/"


_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_FORBIDDEN_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")


def check_ref(text: str) -> str | None:
    """Why this is no full name of something to build, or None where it is one.

    refs/heads/<branch>, refs/tags/<tag>, refs/pull/<n>/head, refs/merge-requests/<n>/head,
    refs/pull-requests/<n>/from.
    """
    for prefix in (BRANCH_PREFIX, TAG_PREFIX):
        if text.startswith(prefix):
            return check_branch_name(text.removeprefix(prefix))
    if _REQUEST_HEAD.fullmatch(text):
        return None
    return (
        "is none of refs/heads/..., refs/tags/..., refs/pull/N/head, refs/merge-requests/N/head, "
        "refs/pull-requests/N/from"
    )


def ref_of(branch: str, ref: str | None) -> str:
    """The full name that a commit must be reachable from: `ref`, else the branch."""
    return ref if ref is not None else BRANCH_PREFIX + branch


def check_branch_name(text: str) -> str | None:
    """Why this is no branch name (the rules of git check-ref-format), or None where it is one.

    Stricter in one thing: a name that starts with '-' is refused, as `git branch` refuses it.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if not 1 <= size <= BRANCH_BYTES_MAX:
        return f"has {size} bytes; a branch name has 1 to {BRANCH_BYTES_MAX}"
    if text.startswith("-"):
        return "starts with '-'"
    if _FORBIDDEN_IN_BRANCH.search(text):
        return "contains a space, a control character or one of ~ ^ : ? * [ \\"
    if ".." in text or "@{" in text or text.endswith("."):
        return "contains '..' or '@{', or ends with '.'"
    for part in text.split("/"):
        if not part:
            return "starts or ends with '/', or contains '//'"
        if part.startswith(".") or part.endswith(".lock"):
            return "a part of it starts with '.' or ends with '.lock'"
    return None


def check_commit(text: str) -> str | None:
    """Why this is no full commit id (40 or 64 lower hex digits), or None where it is one."""
    if _COMMIT.fullmatch(text):
        return None
    return "a commit is 40 or 64 lower-case hexadecimal digits"
