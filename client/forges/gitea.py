"""Gitea's and Forgejo's webhooks: push (branches and tags), pull_request, Test Delivery.

They send GitHub's headers beside their own, so they are looked for first. The signature is over
the JSON, also where the body is a form that carries it (FACTS 3.3): not the raw body there.
"""

import msgspec

from client.forges.delivery import Delivery
from client.forges.event import (
    ForgeEvent,
    Refusal,
    ignored,
    is_all_zeros,
    malformed,
    pull_request,
    pushed_ref,
    read_payload,
    shown,
)
from client.forges.github import (
    EDITED,
    AnyPayload,
    Changed,
    Commit,
    Repository,
    User,
    is_fork,
)
from client.forges.signatures import Proof, SignatureCheck, is_hmac_hex

NAME = "Gitea or Forgejo"
EVENT_HEADERS = ("x-forgejo-event", "x-gitea-event")
SIGNATURE_HEADERS = ("x-forgejo-signature", "x-gitea-signature")
HUB_SIGNATURE_HEADER = "x-hub-signature-256"
HEADERS = (*EVENT_HEADERS, *SIGNATURE_HEADERS, HUB_SIGNATURE_HEADER, "content-type")
HUB_PREFIX = "sha256="

BUILT_ACTIONS = frozenset({"opened", "reopened", "synchronized"})


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of a push that count; there is no `deleted`."""

    ref: str
    after: str
    repository: Repository
    before: str = ""
    head_commit: Commit | None = None


class Head(msgspec.Struct, frozen=True):
    """`head` of a pull request. `ref`: its branch; of a request by AGit, a ref of the request."""

    sha: str
    ref: str = ""
    repo: Repository | None = None

    def is_from_fork(self, base: Repository) -> bool:
        """Whether its author need not be one who may push to the repository.

        Pushed to refs/for/ (AGit), which takes no right to write, a request claims the repository
        itself as its head's; only the head's name, which is no branch, tells.
        """
        return is_fork(self.repo, base) or not self.ref or self.ref.startswith("refs/")


class Base(msgspec.Struct, frozen=True):
    """`base` of a pull request."""

    ref: str


class PullRequest(msgspec.Struct, frozen=True):
    """`pull_request`."""

    head: Head
    base: Base
    user: User | None = None
    updated_at: str | None = None

    @property
    def author(self) -> str | None:
        """Who opened it; None: it does not say."""
        return self.user.login or None if self.user is not None else None


class Changes(msgspec.Struct, frozen=True):
    """`changes` of an edited pull request; `ref`: its base was another one."""

    ref: Changed | None = None


class PullRequestPayload(msgspec.Struct, frozen=True):
    """The fields of a pull_request event that count."""

    action: str
    number: int
    pull_request: PullRequest
    repository: Repository
    changes: Changes | None = None


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
    is_valid = is_hmac_hex(secrets, content, hub, HUB_PREFIX.encode())
    return _checked(is_valid, HUB_SIGNATURE_HEADER)


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    event = next((found for name in EVENT_HEADERS if (found := delivery.header(name))), "")
    if event == "push":
        return _push(content)
    if event == "pull_request":
        return _pull_request(content)
    payload = read_payload(AnyPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    return ignored(payload.urls, f"{shown(event)} builds nothing; push and pull_request events do")


def _push(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(PushPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = payload.repository.urls
    if is_all_zeros(payload.before) and is_all_zeros(payload.after):
        return ignored(urls, "a test delivery: it names no commit")
    head = payload.head_commit
    if head is None or is_all_zeros(payload.after):
        tagged, message = payload.after, None
    else:
        tagged, message = head.id, head.message
    return pushed_ref(payload.ref, payload.after, tagged, message, urls, before=payload.before)


def _pull_request(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(PullRequestPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = payload.repository.urls
    changes = payload.changes
    is_retargeted = payload.action == EDITED and changes is not None and changes.ref is not None
    if payload.action not in BUILT_ACTIONS and not is_retargeted:
        return ignored(urls, f"the pull request was {shown(payload.action)}: its head is the same")
    if payload.number < 1:
        return malformed("`number`", "is not that of a pull request", f"is this {NAME}?")
    request = payload.pull_request
    head = request.head
    return pull_request(
        ref=f"refs/pull/{payload.number}/head",
        base=request.base.ref,
        commit=head.sha,
        message=None,
        is_from_fork=head.is_from_fork(payload.repository),
        repositories=urls,
        author=request.author,
        retargeted_at=(request.updated_at or "") if is_retargeted else None,
    )


def _checked(is_valid: bool, header: str) -> SignatureCheck:
    if is_valid:
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(Proof.WRONG, f"{header} is not that of this JSON under the secret")
