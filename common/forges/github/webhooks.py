"""GitHub's webhooks: push (branches and tags), pull_request, ping.

The signature is over the raw body, also where that is a form (docs/FACTS.md). The event's name and
the delivery's id are in headers, which the signature does not cover: a body says by its fields
what it is, and which delivery it is by (ref, after).
"""

import msgspec

from common.forges.shared.delivery import Delivery
from common.forges.shared.event import ForgeEvent, Refusal, ignored, pushed_ref, shown
from common.forges.shared.github_events import (
    Changed,
    Commit,
    EventDialect,
    PullRequestPayload,
    Repository,
    parse_event,
)
from common.forges.shared.signatures import Proof, SignatureCheck, is_hmac_hex

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
    return pushed_ref(
        urls,
        payload.ref,
        before=payload.before,
        after=payload.after,
        tagged=commit,
        message=message,
    )


DIALECT = EventDialect(
    name=NAME,
    event_headers=EVENT_HEADERS,
    push_payload=PushPayload,
    push=_push,
    pull_request_payload=GitHubPullRequest,
    built_actions=frozenset({"opened", "reopened", "synchronize"}),
    ping="ping",
)
