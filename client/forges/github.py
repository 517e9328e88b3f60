"""GitHub's webhooks: push (branches and tags), pull_request, ping.

The signature is over the raw body, also where that is a form (FACTS 3.1). The event's name and
the delivery's id are in headers, which the signature does not cover: a body says by its fields
what it is, and which delivery it is by (ref, after).
"""

import msgspec

from client.forges.delivery import Delivery
from client.forges.event import (
    Action,
    ForgeEvent,
    Refusal,
    given_urls,
    ignored,
    malformed,
    pull_request,
    pushed_ref,
    read_payload,
    shown,
)
from client.forges.signatures import Proof, SignatureCheck, is_hmac_hex

NAME = "GitHub"
EVENT_HEADER = "x-github-event"
SIGNATURE_HEADER = "x-hub-signature-256"
LEGACY_SIGNATURE_HEADER = "x-hub-signature"
HEADERS = (EVENT_HEADER, SIGNATURE_HEADER, LEGACY_SIGNATURE_HEADER, "content-type")
SIGNATURE_PREFIX = "sha256="

# A pull request's head is another one, or it is there for the first time.
BUILT_ACTIONS = frozenset({"opened", "reopened", "synchronize"})
# A new title as well; where the base is another one, `changes` has the old one.
EDITED = "edited"


class Repository(msgspec.Struct, frozen=True):
    """`repository`, and a pull request's `head.repo` and `base.repo`."""

    full_name: str = ""
    id: int | None = None
    clone_url: str | None = None
    ssh_url: str | None = None
    html_url: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """All names that the forge has for it."""
        return given_urls(self.clone_url, self.ssh_url, self.html_url)


class Commit(msgspec.Struct, frozen=True):
    """`head_commit`."""

    id: str
    message: str = ""


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of a push that count. `head_commit` is null when a ref was deleted."""

    ref: str
    after: str
    repository: Repository
    before: str | None = None
    deleted: bool = False
    head_commit: Commit | None = None


class Head(msgspec.Struct, frozen=True):
    """`head` of a pull request. `repo` is null where the fork is gone."""

    sha: str
    repo: Repository | None = None


class Base(msgspec.Struct, frozen=True):
    """`base` of a pull request."""

    ref: str


class User(msgspec.Struct, frozen=True):
    """`user` of a pull request."""

    login: str = ""


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


class Changed(msgspec.Struct, frozen=True):
    """That something changed; what it was before is not looked at."""


class Changes(msgspec.Struct, frozen=True):
    """`changes` of an edited pull request."""

    base: Changed | None = None


class PullRequestPayload(msgspec.Struct, frozen=True):
    """The fields of a pull_request event that count. `before`: of the head, where it changed."""

    action: str
    number: int
    pull_request: PullRequest
    repository: Repository
    before: str | None = None
    changes: Changes | None = None


class AnyPayload(msgspec.Struct, frozen=True):
    """What every event has; a hook of an organisation may name no repository."""

    repository: Repository | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The repository's, where one is named."""
        return () if self.repository is None else self.repository.urls


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """X-Hub-Signature-256 over the raw body. An empty one is missing; SHA-1 counts for nothing."""
    signature = delivery.header(SIGNATURE_HEADER)
    if signature is None or signature == SIGNATURE_PREFIX:
        legacy = delivery.header(LEGACY_SIGNATURE_HEADER)
        if legacy is not None and legacy != "sha1=":
            return SignatureCheck(Proof.WRONG, "only X-Hub-Signature (SHA-1) is there")
        return SignatureCheck(Proof.MISSING, "X-Hub-Signature-256 is missing")
    if is_hmac_hex(secrets, delivery.body, signature, SIGNATURE_PREFIX.encode()):
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(
        Proof.WRONG, "X-Hub-Signature-256 is not that of this body under the secret"
    )


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    event = delivery.header(EVENT_HEADER) or ""
    if event == "push":
        return _push(content)
    if event == "pull_request":
        return _pull_request(content)
    payload = read_payload(AnyPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    if event == "ping":
        return ForgeEvent(action=Action.PING, repositories=payload.urls, reason="ping")
    return ignored(payload.urls, f"{shown(event)} builds nothing; push and pull_request events do")


def _push(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(PushPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = payload.repository.urls
    if payload.deleted:
        return ignored(urls, f"{shown(payload.ref)} was deleted")
    head = payload.head_commit
    message = None if head is None else head.message
    commit = payload.after if head is None else head.id
    return pushed_ref(payload.ref, payload.after, commit, message, urls, before=payload.before)


def _pull_request(content: bytes) -> ForgeEvent | Refusal:
    payload = read_payload(PullRequestPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = payload.repository.urls
    changes = payload.changes
    is_retargeted = payload.action == EDITED and changes is not None and changes.base is not None
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
        is_from_fork=is_fork(head.repo, payload.repository),
        repositories=urls,
        author=request.author,
        before=payload.before,
        retargeted_at=(request.updated_at or "") if is_retargeted else None,
    )


def is_fork(head: Repository | None, base: Repository) -> bool:
    """Whether a head is anywhere but in the repository itself; what nobody tells counts as one."""
    if head is None or (head.id is None and not head.full_name):
        return True
    if head.id is not None and base.id is not None:
        return head.id != base.id
    return head.full_name != base.full_name
