"""Gitea's and Forgejo's webhooks: push (branches and tags), pull_request, Test Delivery.

They send GitHub's headers beside their own, so they are looked for first. The signature is over
the JSON, also where the body is a form that carries it (docs/FACTS.md): not the raw body there.
"""

import msgspec

from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    ForgeEvent,
    Refusal,
    ignored,
    is_all_zeros,
    pushed_ref,
    sent_by,
)
from common.forges.shared.github_events import (
    Changed,
    Commit,
    EventDialect,
    Head,
    PullRequest,
    PullRequestPayload,
    Repository,
    User,
    is_fork,
    login_of,
    parse_event,
)
from common.forges.shared.signatures import Proof, SignatureCheck, is_hmac_hex

NAME = "Gitea or Forgejo"
EVENT_HEADERS: tuple[str, ...] = ("x-forgejo-event", "x-gitea-event")
SIGNATURE_HEADERS = ("x-forgejo-signature", "x-gitea-signature")
HUB_SIGNATURE_HEADER = "x-hub-signature-256"
HEADERS: tuple[str, ...] = (
    *EVENT_HEADERS,
    *SIGNATURE_HEADERS,
    HUB_SIGNATURE_HEADER,
    "content-type",
)
HUB_PREFIX = "sha256="


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of a push that count; there is no `deleted`."""

    ref: str
    after: str
    repository: Repository
    before: str = ""
    head_commit: Commit | None = None
    sender: User | None = None


class GiteaHead(Head, frozen=True):
    """`head` of a pull request. `ref`: its branch; of a request by AGit, a ref of the request."""

    ref: str = ""

    def is_from_fork(self, base: Repository) -> bool:
        """Whether its author need not be one who may push to the repository.

        Pushed to refs/for/ (AGit), which takes no right to write, a request claims the repository
        itself as its head's; only the head's name, which is no branch, tells.
        """
        return is_fork(self.repo, base) or not self.ref or self.ref.startswith("refs/")


class GiteaPullRequest(PullRequest, frozen=True):
    """`pull_request`."""

    head: GiteaHead


class Changes(msgspec.Struct, frozen=True):
    """`changes` of an edited pull request; `ref`: its base was another one."""

    ref: Changed | None = None


class GiteaPullRequestPayload(PullRequestPayload, frozen=True):
    """A pull_request event."""

    pull_request: GiteaPullRequest
    changes: Changes | None = None

    @property
    def is_base_changed(self) -> bool:
        """Whether it says that its base was another one."""
        return self.changes is not None and self.changes.ref is not None


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """X-Gitea-Signature (bare hex) over the JSON. An empty one is missing."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return SignatureCheck(Proof.WRONG, content.text)
    for name in SIGNATURE_HEADERS:
        signature = delivery.header(name)
        if signature is not None:
            is_valid = is_hmac_hex(secrets, content, signature)
            return _checked(is_valid, name)
    hub = delivery.header(HUB_SIGNATURE_HEADER)
    if hub is None or hub == HUB_PREFIX:
        return SignatureCheck(Proof.MISSING, "X-Gitea-Signature is missing or empty")
    is_valid = is_hmac_hex(secrets, content, hub, prefix=HUB_PREFIX.encode())
    return _checked(is_valid, HUB_SIGNATURE_HEADER)


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    return parse_event(DIALECT, delivery)


def _push(payload: PushPayload) -> ForgeEvent | Refusal:
    urls = payload.repository.urls
    if is_all_zeros(payload.before) and is_all_zeros(payload.after):
        return ignored(urls, "a test delivery: it names no commit")
    head = payload.head_commit
    if head is None or is_all_zeros(payload.after):
        tagged, message = payload.after, None
    else:
        tagged, message = head.id, head.message
    event = pushed_ref(
        urls,
        payload.ref,
        before=payload.before,
        after=payload.after,
        tagged=tagged,
        message=message,
    )
    return sent_by(event, login_of(payload.sender))


def _checked(is_valid: bool, header: str) -> SignatureCheck:
    if is_valid:
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(Proof.WRONG, f"{header} is not that of this JSON under the secret")


DIALECT = EventDialect(
    name=NAME,
    event_headers=EVENT_HEADERS,
    push_payload=PushPayload,
    push=_push,
    pull_request_payload=GiteaPullRequestPayload,
    built_actions=frozenset({"opened", "reopened", "synchronized"}),
)
