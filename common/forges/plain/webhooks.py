"""The plain webhook of people and scripts: {"branch", "repoCloneUrl"?, "commit"?}.

`branch` is a branch's name, or the full name of a branch or a tag (refs/heads/..., refs/tags/...).
Each POST is a new build. The body is read as JSON whatever its content type says (curl says it is
a form), then as a form with a field `payload`.
"""

from typing import Any

import msgspec

from ci.operations import Event
from common.forges.github.webhooks import SIGNATURE_HEADER
from common.forges.github.webhooks import check_signature as check_signature
from common.forges.shared.delivery import EXAMPLE, Delivery
from common.forges.shared.event import (
    URL_CHARACTERS_MAX,
    Action,
    ForgeEvent,
    Refusal,
    check_commit_id,
    kind_of,
    malformed,
    shown,
)
from common.ref_names import BRANCH_PREFIX, TAG_PREFIX, check_branch_name

# SubmitBuild takes no more.
BRANCH_CHARACTERS_MAX = 255
EVENT_HEADERS: tuple[str, ...] = ()
HEADERS: tuple[str, ...] = (SIGNATURE_HEADER, "content-type")


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Never raises.

    Refused: not JSON, not an object, `branch` missing or not a name that git allows,
    `repoCloneUrl` or `commit` of a wrong form. Other keys are ignored.
    """
    value = _json_of(delivery)
    if isinstance(value, Refusal):
        return value
    if not isinstance(value, dict):
        return malformed("the body", f"is {kind_of(value)}", f"send an object: {EXAMPLE}")
    named = _ref_of(value)
    if isinstance(named, Refusal):
        return named
    event, branch = named
    repository = value.get("repoCloneUrl")
    if repository is not None and not isinstance(repository, str):
        return malformed(
            "`repoCloneUrl`",
            f"is {kind_of(repository)}",
            "send a URL as a string, or leave it out",
        )
    if repository is not None and not 1 <= len(repository) <= URL_CHARACTERS_MAX:
        return malformed(
            "`repoCloneUrl`",
            f"has {len(repository)} characters",
            f"1 to {URL_CHARACTERS_MAX} are allowed",
        )
    commit = value.get("commit")
    if commit is not None:
        refusal = check_commit_id("`commit`", commit if isinstance(commit, str) else "")
        if refusal is not None:
            return refusal
    return ForgeEvent(
        action=Action.BUILD,
        repositories=() if repository is None else (repository,),
        event=event,
        branch=branch,
        ref=TAG_PREFIX + branch if event is Event.TAG else None,
        commit=commit,
    )


def _json_of(delivery: Delivery) -> Any | Refusal:
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    try:
        return msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        where = "the body"
        if content is not delivery.body:
            where = "the form's field `payload`"
        elif delivery.is_form and b"=" in content:
            where = "the body (a form without a field `payload`)"
        return malformed(where, f"is not JSON: {error}", f"send {EXAMPLE}")


def _ref_of(value: dict[str, Any]) -> tuple[Event, str] | Refusal:
    """Whether it is a branch or a tag, and its short name."""
    branch = value.get("branch")
    if branch is None:
        return malformed("`branch`", "is missing", f"send {EXAMPLE}")
    if not isinstance(branch, str):
        return malformed("`branch`", f"is {kind_of(branch)}", f"send a string: {EXAMPLE}")
    if len(branch) > BRANCH_CHARACTERS_MAX:
        return malformed(
            "`branch`",
            f"has {len(branch)} characters",
            f"at most {BRANCH_CHARACTERS_MAX} are allowed",
        )
    if branch.startswith("refs/") and not branch.startswith((BRANCH_PREFIX, TAG_PREFIX)):
        return malformed(
            f"`branch` ({shown(branch)})",
            "is the full name of neither a branch nor a tag",
            "send the short name, refs/heads/NAME or refs/tags/NAME",
        )
    event = Event.TAG if branch.startswith(TAG_PREFIX) else Event.PUSH
    branch = branch.removeprefix(TAG_PREFIX if event is Event.TAG else BRANCH_PREFIX)
    reason = check_branch_name(branch)
    if reason is not None:
        return malformed(
            f"`branch` ({shown(branch)})",
            f"is not a branch name that git allows: {reason}",
            "send the short name, as `git branch` prints it",
        )
    return event, branch
