"""What a webhook's body asks for: raw bytes to a request, or to a refusal that helps. Pure.

The rule: whatever the bytes are, the answer is a value. The body is read as JSON whatever its
content type says (curl says it is a form), then as a form with a field `payload`.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from common.git_environment import check_branch_name, check_commit

# GitHub and GitLab send no more (FACTS 3.1, 3.2).
BODY_BYTES_MAX = 25 * 1024 * 1024
# SubmitBuild takes no more.
BRANCH_CHARACTERS_MAX = 255
REPOSITORY_CHARACTERS_MAX = 1024
SHOWN_CHARACTERS_MAX = 80

EXAMPLE = '{"branch": "master"}'

BAD_REQUEST = 400
NOT_FOUND = 404
TOO_LARGE = 413


class WebhookRequest(msgspec.Struct, frozen=True):
    """A build that was asked for. `repository` None: the first one of the configuration.

    `commit` None: whatever the branch points at by now.
    """

    branch: str
    repository: str | None = None
    commit: str | None = None


class WebhookRefusal(msgspec.Struct, frozen=True):
    """Why nothing will be built: the HTTP status, and what was wrong, where, what to do."""

    status: int
    text: str


def parse_webhook(body: bytes, content_type: str = "") -> WebhookRequest | WebhookRefusal:
    """The request in a webhook's raw body. Never raises.

    Refused: more than 25 MB (413); not JSON, not an object, `branch` missing or not a name that
    git allows, `repoCloneUrl` or `commit` of a wrong form (400). Other keys are ignored: people
    send the payload of whatever they have.
    """
    if len(body) > BODY_BYTES_MAX:
        return too_large()
    value = _json_of(body, content_type)
    if isinstance(value, WebhookRefusal):
        return value
    if not isinstance(value, dict):
        return _malformed("the body", f"is {_kind_of(value)}", f"send an object: {EXAMPLE}")
    branch = _branch_of(value)
    if isinstance(branch, WebhookRefusal):
        return branch
    repository = value.get("repoCloneUrl")
    if repository is not None and not isinstance(repository, str):
        return _malformed(
            "`repoCloneUrl`",
            f"is {_kind_of(repository)}",
            "send a URL as a string, or leave it out",
        )
    if repository is not None and not 1 <= len(repository) <= REPOSITORY_CHARACTERS_MAX:
        return _malformed(
            "`repoCloneUrl`",
            f"has {len(repository)} characters",
            f"1 to {REPOSITORY_CHARACTERS_MAX} are allowed",
        )
    commit = value.get("commit")
    if commit is not None and (not isinstance(commit, str) or check_commit(commit) is not None):
        return _malformed(
            "`commit`",
            "is not a full commit id",
            "send all 40 (or 64) lower-case hexadecimal digits, or leave it out",
        )
    return WebhookRequest(branch=branch, repository=repository, commit=commit)


def choose_repository(
    request: WebhookRequest, repositories: Sequence[str], config_file: str
) -> str | WebhookRefusal:
    """The configured repository that the request means: its own, or the first.

    Only what the configuration lists is ever built, compared as text: a webhook can never make
    anybody fetch from an address that no operator wrote down.
    """
    if request.repository is None:
        return repositories[0]
    if request.repository in repositories:
        return request.repository
    return WebhookRefusal(
        NOT_FOUND,
        f"`repoCloneUrl`: {_shown(request.repository)} is not one of the configured repositories; "
        f"the operator can add it under `repositories:` in {config_file} "
        "(and in the configuration of the nodes)",
    )


def too_large() -> WebhookRefusal:
    """The answer to a body over the limit."""
    return WebhookRefusal(
        TOO_LARGE, f"the body has more than {BODY_BYTES_MAX} bytes; send no more than 25 MB"
    )


def _json_of(body: bytes, content_type: str) -> Any | WebhookRefusal:
    if not body.strip():
        return _malformed("the body", "is empty", f"send {EXAMPLE}")
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    payload = _form_payload(body)
    if payload is None:
        where = "the body"
        if "form" in content_type and b"=" in body:
            where = "the body (a form without a field `payload`)"
        return _malformed(where, f"is not JSON: {reason}", f"send {EXAMPLE}")
    try:
        return msgspec.json.decode(payload)
    except (ValueError, RecursionError) as error:
        return _malformed("the form's field `payload`", f"is not JSON: {error}", f"send {EXAMPLE}")


def _form_payload(body: bytes) -> bytes | None:
    """The field `payload` of an urlencoded form, or None. It is looked for in the bytes."""
    if not (body.startswith(b"payload=") or b"&payload=" in body):
        return None
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=64)
    except ValueError:
        return None
    values = fields.get("payload")
    return values[0].encode("utf-8", "surrogatepass") if values else None


def _branch_of(value: dict[str, Any]) -> str | WebhookRefusal:
    branch = value.get("branch")
    if branch is None:
        return _malformed("`branch`", "is missing", f"send {EXAMPLE}")
    if not isinstance(branch, str):
        return _malformed("`branch`", f"is {_kind_of(branch)}", f"send a string: {EXAMPLE}")
    if len(branch) > BRANCH_CHARACTERS_MAX:
        return _malformed(
            "`branch`",
            f"has {len(branch)} characters",
            f"at most {BRANCH_CHARACTERS_MAX} are allowed",
        )
    reason = check_branch_name(branch)
    if reason is not None:
        return _malformed(
            f"`branch` ({_shown(branch)})",
            f"is not a branch name that git allows: {reason}",
            "send the short name, as `git branch` prints it",
        )
    return branch


def _malformed(where: str, wrong: str, remedy: str) -> WebhookRefusal:
    return WebhookRefusal(BAD_REQUEST, f"{where} {wrong}; {remedy}")


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _shown(text: str) -> str:
    """A stranger's text as one short line in quotes; nothing in it can reach a terminal."""
    cut = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."
    return ascii(cut)
