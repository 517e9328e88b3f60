"""Bitbucket Data Center's webhooks: repo:refs_changed, pr:opened and its like, diagnostics:ping.

The signature is over the raw body (docs/FACTS.md), which names the event itself. A push tells of
all refs that it moved. Of an annotated tag it tells the tag object, so the git server is asked for
the commit of each tag.
"""

import msgspec

from ci.operations import Event
from common.forge_words import forge_words
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    Action,
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
    with_others,
)
from common.forges.shared.signatures import SignatureCheck, hub_signature_check
from common.ref_names import BRANCH_PREFIX

NAME = "Bitbucket Data Center"
EVENT_HEADER = "x-event-key"
# Bitbucket Cloud sends it too, and is looked for first.
EVENT_HEADERS: tuple[str, ...] = (EVENT_HEADER,)
SIGNATURE_HEADER = "x-hub-signature"
HEADERS: tuple[str, ...] = (EVENT_HEADER, SIGNATURE_HEADER, "content-type")
PING = "diagnostics:ping"
PUSH = "repo:refs_changed"
# After these a request's head is another one, or there for the first time.
BUILT_REQUESTS = ("pr:opened", "pr:reopened", "pr:from_ref_updated")
# Sent for a new title as well; if the target is another one, `previousTarget` says so.
MODIFIED = "pr:modified"
URLS_MAX = 8


class Link(msgspec.Struct, frozen=True):
    """A link."""

    href: str = ""


class Links(msgspec.Struct, frozen=True):
    """`links` of a repository."""

    clone: tuple[Link, ...] = ()
    pages: tuple[Link, ...] = msgspec.field(default=(), name="self")


class Repository(msgspec.Struct, frozen=True):
    """`repository` of an event and of a request's ends."""

    id: int
    links: Links | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """All names that the forge has for it."""
        if self.links is None:
            return ()
        links = (*self.links.clone, *self.links.pages)[:URLS_MAX]
        return given_urls(*(link.href for link in links))


class Change(msgspec.Struct, frozen=True, rename="camel"):
    """One of `changes`: a ref that was added, updated or deleted."""

    ref_id: str
    from_hash: str
    to_hash: str
    type: str


class Commit(msgspec.Struct, frozen=True):
    """`toCommit` of a push."""

    id: str
    message: str = ""


class User(msgspec.Struct, frozen=True):
    """`author.user` of a request, and `actor` of every event."""

    name: str = ""


class PushPayload(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of repo:refs_changed that count."""

    changes: tuple[Change, ...]
    repository: Repository
    to_commit: Commit | None = None
    actor: User | None = None


class End(msgspec.Struct, frozen=True, rename="camel"):
    """`fromRef` and `toRef` of a request. `id`: the full name of the branch."""

    id: str
    latest_commit: str
    repository: Repository


class Author(msgspec.Struct, frozen=True):
    """`author` of a request."""

    user: User | None = None


class PullRequest(msgspec.Struct, frozen=True, rename="camel"):
    """`pullRequest`."""

    id: int
    from_ref: End
    to_ref: End
    updated_date: int = 0
    author: Author | None = None
    title: str | None = None


class Target(msgspec.Struct, frozen=True, rename="camel"):
    """`previousTarget` of a request that was modified."""

    display_id: str = ""


class PullRequestPayload(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of a pr event that count."""

    event_key: str
    pull_request: PullRequest
    previous_from_hash: str | None = None
    previous_target: Target | None = None
    actor: User | None = None


class AnyPayload(msgspec.Struct, frozen=True, rename="camel"):
    """What every event has; a ping has nothing of it."""

    event_key: str = ""
    repository: Repository | None = None


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """X-Hub-Signature over the raw body."""
    return hub_signature_check(secrets, delivery.body, delivery.header(SIGNATURE_HEADER))


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    payload = read_payload(AnyPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = () if payload.repository is None else payload.repository.urls
    event = payload.event_key
    if event == PUSH:
        push = read_payload(PushPayload, content, NAME)
        return push if isinstance(push, Refusal) else _push(push)
    if event in (*BUILT_REQUESTS, MODIFIED):
        request = read_payload(PullRequestPayload, content, NAME)
        return request if isinstance(request, Refusal) else _pull_request(request)
    if not event and delivery.header(EVENT_HEADER) == PING:
        return ForgeEvent(action=Action.PING, repositories=urls, reason="ping")
    return ignored(urls, f"{shown(event)} builds nothing; {PUSH} and {BUILT_REQUESTS[0]} do")


def _push(payload: PushPayload) -> ForgeEvent | Refusal:
    urls = payload.repository.urls
    event = with_others(
        urls, (_changed(urls, change, payload.to_commit) for change in payload.changes)
    )
    return sent_by(event, _name_of(payload.actor))


def _changed(urls: tuple[str, ...], change: Change, head: Commit | None) -> ForgeEvent | Refusal:
    if change.type == "DELETE":
        return ignored(urls, f"{shown(change.ref_id)} was deleted")
    event = pushed_ref(
        urls,
        change.ref_id,
        before=change.from_hash,
        after=change.to_hash,
        tagged=change.to_hash,
        message=head.message if head is not None and head.id == change.to_hash else None,
    )
    if isinstance(event, ForgeEvent) and event.event is Event.TAG and event.commit is not None:
        return msgspec.structs.replace(event, commit=None, commit_prefix="")
    return event


def _pull_request(payload: PullRequestPayload) -> ForgeEvent | Refusal:
    request = payload.pull_request
    source, target = request.from_ref, request.to_ref
    urls, branch = target.repository.urls, target.id.removeprefix(BRANCH_PREFIX)
    before = payload.previous_target
    is_retargeted = before is not None and before.display_id != branch
    if payload.event_key == MODIFIED and not is_retargeted:
        return ignored(urls, "the pull request was modified: its head is the same")
    if request.id < 1:
        return malformed("`id`", "is not that of a pull request", f"is this {NAME}?")
    head = RequestHead(
        ref=f"refs/pull-requests/{request.id}/from",
        commit=source.latest_commit,
        before=payload.previous_from_hash,
        is_from_fork=source.repository.id != target.repository.id,
        words=forge_words(_name_of(payload.actor), request.id, request.title),
    )
    base = RequestBase(branch, str(request.updated_date) if is_retargeted else None)
    user = None if request.author is None else request.author.user
    return pull_request(urls, head, base, author=_name_of(user))


def _name_of(user: User | None) -> str | None:
    return None if user is None else user.name or None
