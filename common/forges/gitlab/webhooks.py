"""GitLab's webhooks: push, tag_push, merge_request; the Test button sends one of them.

A signed delivery (Standard Webhooks) is judged by its signature alone: a token beside it, which
travels in the clear, never makes up for a bad one (docs/FACTS.md).
"""

import msgspec

from common.forge_words import forge_words
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    ForgeEvent,
    Refusal,
    RequestBase,
    RequestHead,
    given_urls,
    ignored,
    malformed,
    pull_request,
    pushed_ref,
    read_payload,
    sent_by,
    shown,
)
from common.forges.shared.signatures import (
    STANDARD_KEY_PREFIX,
    Proof,
    SignatureCheck,
    is_same_secret,
    standard_webhooks_check,
)

NAME = "GitLab"
EVENT_HEADER = "x-gitlab-event"
EVENT_HEADERS: tuple[str, ...] = (EVENT_HEADER,)
TOKEN_HEADER = "x-gitlab-token"  # noqa: S105 - a header's name
ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
HEADERS: tuple[str, ...] = (
    EVENT_HEADER,
    TOKEN_HEADER,
    ID_HEADER,
    TIMESTAMP_HEADER,
    SIGNATURE_HEADER,
    "content-type",
)

# `update` is sent for a new title as well; only one with new commits has `oldrev`, and only one
# with another target has that in `changes`.
BUILT_ACTIONS = frozenset({"open", "reopen"})


class Project(msgspec.Struct, frozen=True):
    """`project`."""

    path_with_namespace: str = ""
    id: int | None = None
    git_http_url: str | None = None
    git_ssh_url: str | None = None
    web_url: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """All names that the forge has for it."""
        return given_urls(self.git_http_url, self.git_ssh_url, self.web_url)


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One of `commits`, or a merge request's `last_commit`. There may be very many in a body."""

    id: str
    message: str = ""


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of push and tag_push that count; there is no `deleted` and no `head_commit`."""

    ref: str
    after: str
    project: Project
    before: str | None = None
    checkout_sha: str | None = None
    commits: tuple[Commit, ...] = ()
    user_username: str | None = None


class MergeRequest(msgspec.Struct, frozen=True):
    """`object_attributes`. `oldrev`: what the head was before, where that changed."""

    iid: int
    target_branch: str
    last_commit: Commit
    source_project_id: int | None = None
    target_project_id: int | None = None
    action: str = ""
    oldrev: str | None = None
    updated_at: str | None = None
    title: str | None = None


class Changed(msgspec.Struct, frozen=True):
    """That something changed; what it was before is not looked at."""


class Changes(msgspec.Struct, frozen=True):
    """`changes` of an updated merge request."""

    target_branch: Changed | None = None


class User(msgspec.Struct, frozen=True):
    """`user`: whose doing the event is."""

    username: str = ""


class MergeRequestPayload(msgspec.Struct, frozen=True):
    """The fields of a merge_request event that count."""

    object_attributes: MergeRequest
    project: Project
    changes: Changes | None = None
    user: User | None = None


class AnyPayload(msgspec.Struct, frozen=True):
    """What every event has; a group's hook may name no project."""

    object_kind: str = ""
    project: Project | None = None


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """webhook-signature where there is one, be it empty; else X-Gitlab-Token."""
    if delivery.has(SIGNATURE_HEADER):
        return standard_webhooks_check(
            secrets,
            identity=delivery.header(ID_HEADER),
            timestamp=delivery.header(TIMESTAMP_HEADER),
            signature=delivery.header(SIGNATURE_HEADER),
            body=delivery.body,
            now=now,
        )
    token = delivery.header(TOKEN_HEADER)
    if token is None:
        return SignatureCheck(Proof.MISSING, "webhook-signature and X-Gitlab-Token are missing")
    # A signing token signs; it is never sent.
    tokens = [secret for secret in secrets if not secret.startswith(STANDARD_KEY_PREFIX)]
    if is_same_secret(tokens, token):
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(Proof.WRONG, "X-Gitlab-Token is not the secret")


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    payload = read_payload(AnyPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    match payload.object_kind:
        case "push" | "tag_push":
            return _push(content)
        case "merge_request":
            return _merge_request(content)
    urls = () if payload.project is None else payload.project.urls
    return ignored(
        urls, f"{shown(payload.object_kind)} builds nothing; push, tag and merge request events do"
    )


def _push(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(PushPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    commit = payload.checkout_sha or payload.after
    message = next((c.message for c in payload.commits if c.id == commit), None)
    event = pushed_ref(
        payload.project.urls,
        payload.ref,
        before=payload.before,
        after=payload.after,
        tagged=commit,
        message=message,
    )
    return sent_by(event, payload.user_username)


def _merge_request(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(MergeRequestPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    request, urls = payload.object_attributes, payload.project.urls
    is_update, changes = request.action == "update", payload.changes
    is_changed = is_update and request.oldrev is not None
    is_retargeted = is_update and changes is not None and changes.target_branch is not None
    if request.action not in BUILT_ACTIONS and not (is_changed or is_retargeted):
        return ignored(
            urls, f"the merge request's action is {shown(request.action)}: its head is the same"
        )
    if request.iid < 1:
        return malformed("`iid`", "is not that of a merge request", f"is this {NAME}?")
    source, target = request.source_project_id, request.target_project_id
    author = None if payload.user is None else payload.user.username or None
    head = RequestHead(
        ref=f"refs/merge-requests/{request.iid}/head",
        commit=request.last_commit.id,
        message=request.last_commit.message,
        before=request.oldrev,
        is_from_fork=source is None or source != target,
        words=forge_words(author, request.iid, request.title),
    )
    retargeted_at = (request.updated_at or "") if is_retargeted else None
    base = RequestBase(request.target_branch, retargeted_at)
    return pull_request(urls, head, base, author=author)
