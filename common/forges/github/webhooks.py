"""GitHub's webhooks: push (branches and tags), pull_request, merge_group, ping.

The signature is over the raw body, also where that is a form (docs/FACTS.md). The event's name and
the delivery's id are in headers, which the signature does not cover: a body says by its fields
what it is, and which delivery it is by (ref, after).
"""

import msgspec

from ci.operations import Event
from ci.references import reference_refusal
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    Action,
    ForgeEvent,
    Refusal,
    check_commit_id,
    check_ref_name,
    ignored,
    malformed,
    pushed_ref,
    read_payload,
    sent_by,
    shown,
)
from common.forges.shared.github_events import (
    Changed,
    Commit,
    EventDialect,
    PullRequestPayload,
    Repository,
    User,
    login_of,
    parse_event,
)
from common.forges.shared.signatures import Proof, SignatureCheck, is_hmac_hex
from common.ref_names import BRANCH_PREFIX

NAME = "GitHub"
EVENT_HEADER = "x-github-event"
EVENT_HEADERS: tuple[str, ...] = (EVENT_HEADER,)
SIGNATURE_HEADER = "x-hub-signature-256"
LEGACY_SIGNATURE_HEADER = "x-hub-signature"
HEADERS: tuple[str, ...] = (EVENT_HEADER, SIGNATURE_HEADER, LEGACY_SIGNATURE_HEADER, "content-type")
SIGNATURE_PREFIX = "sha256="


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of a push that count. `head_commit` is null when a ref was deleted."""

    ref: str
    after: str
    repository: Repository
    before: str | None = None
    deleted: bool = False
    head_commit: Commit | None = None
    sender: User | None = None


class Changes(msgspec.Struct, frozen=True):
    """`changes` of an edited pull request."""

    base: Changed | None = None


class GitHubPullRequest(PullRequestPayload, frozen=True):
    """A pull_request event. `before`: of the head, where it changed."""

    before: str | None = None
    changes: Changes | None = None

    @property
    def is_base_changed(self) -> bool:
        """Whether it says that its base was another one."""
        return self.changes is not None and self.changes.base is not None

    @property
    def head_before(self) -> str | None:
        """The commit of the head until then; None: it does not say."""
        return self.before


class MergeGroup(msgspec.Struct, frozen=True):
    """`merge_group`: what the base branch would become."""

    head_sha: str
    head_ref: str
    base_ref: str


class MergeGroupPayload(msgspec.Struct, frozen=True):
    """The fields of a merge_group event that count. `reason`: why it was destroyed."""

    action: str
    merge_group: MergeGroup
    repository: Repository
    reason: str = ""


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """X-Hub-Signature-256 over the raw body. An empty one is missing; SHA-1 counts for nothing."""
    signature = delivery.header(SIGNATURE_HEADER)
    if signature is None or signature == SIGNATURE_PREFIX:
        legacy = delivery.header(LEGACY_SIGNATURE_HEADER)
        if legacy is not None and legacy != "sha1=":
            return SignatureCheck(Proof.WRONG, "only X-Hub-Signature (SHA-1) is there")
        return SignatureCheck(Proof.MISSING, "X-Hub-Signature-256 is missing")
    if is_hmac_hex(secrets, delivery.body, signature, prefix=SIGNATURE_PREFIX.encode()):
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(
        Proof.WRONG, "X-Hub-Signature-256 is not that of this body under the secret"
    )


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    return parse_event(DIALECT, delivery)


def _push(payload: PushPayload) -> ForgeEvent | Refusal:
    urls = payload.repository.urls
    if payload.deleted:
        return ignored(urls, f"{shown(payload.ref)} was deleted")
    head = payload.head_commit
    message = None if head is None else head.message
    commit = payload.after if head is None else head.id
    event = pushed_ref(
        urls,
        payload.ref,
        before=payload.before,
        after=payload.after,
        tagged=commit,
        message=message,
    )
    return sent_by(event, login_of(payload.sender))


def _merge_group(content: bytes) -> ForgeEvent | Refusal:
    """A merge group is built when its checks are requested, and no longer once it is destroyed.

    Whether it was merged, taken out of the queue or became another one: its branch is gone then, so
    a replica that has not fetched it by now never can.
    """
    payload = read_payload(MergeGroupPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls, group = payload.repository.urls, payload.merge_group
    if payload.action not in ("checks_requested", "destroyed"):
        return ignored(urls, f"the merge group was {shown(payload.action)}: it is the same")
    branch = group.base_ref.removeprefix(BRANCH_PREFIX)
    refusal = check_ref_name("`base_ref`", branch)
    refusal = refusal or check_ref_name("`head_ref`", group.head_ref)
    refusal = refusal or check_commit_id("`head_sha`", group.head_sha)
    if refusal is not None:
        return refusal
    if problem := reference_refusal(Event.MERGE_GROUP, branch, group.head_ref):
        return malformed("the merge group", f"is none: {problem}", f"is this {NAME}?")
    is_destroyed = payload.action == "destroyed"
    return ForgeEvent(
        action=Action.CANCEL if is_destroyed else Action.BUILD,
        reason=f"the merge group was destroyed: {shown(payload.reason)}" if is_destroyed else "",
        repositories=urls,
        event=Event.MERGE_GROUP,
        branch=branch,
        ref=group.head_ref,
        commit=group.head_sha,
        stable_identity=(group.head_ref, group.head_sha),
    )


DIALECT = EventDialect(
    name=NAME,
    event_headers=EVENT_HEADERS,
    push_payload=PushPayload,
    push=_push,
    pull_request_payload=GitHubPullRequest,
    built_actions=frozenset({"opened", "reopened", "synchronize"}),
    ping="ping",
    others={"merge_group": _merge_group},
)
