"""Bitbucket Cloud's webhooks: repo:push (branches and tags), pullrequest:created and :updated.

The signature has GitHub's old header X-Hub-Signature, but SHA-256 (docs/FACTS.md). A push tells of
all refs that it moved. A pull request has only the beginning of its head's commit, and no ref in
the repository that it is for: its source branch is built, and of a fork nothing can be.
"""

import re

import msgspec

from ci.operations import Event
from common.forge_words import forge_words
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    AUTHOR_CHARACTERS_MAX,
    Action,
    ForgeEvent,
    Refusal,
    check_ref_name,
    given_urls,
    ignored,
    malformed,
    pushed_ref,
    read_payload,
    sent_by,
    shown,
    with_others,
)
from common.forges.shared.signatures import SignatureCheck, hub_signature_check
from common.ref_names import BRANCH_PREFIX, TAG_PREFIX, check_commit

NAME = "Bitbucket Cloud"
EVENT_HEADER = "x-event-key"
# Data Center sends the event's header as well, but not this one.
EVENT_HEADERS: tuple[str, ...] = ("x-hook-uuid",)
SIGNATURE_HEADER = "x-hub-signature"
HEADERS: tuple[str, ...] = (*EVENT_HEADERS, EVENT_HEADER, SIGNATURE_HEADER, "content-type")
BUILT_REQUESTS = ("pullrequest:created", "pullrequest:updated")
NO_FORKS = "Bitbucket has no ref of a fork's pull request that replicas could fetch"

_COMMIT_PREFIX = re.compile(r"[0-9a-f]{12,64}")


class Link(msgspec.Struct, frozen=True):
    """A link."""

    href: str = ""


class Links(msgspec.Struct, frozen=True):
    """`links` of a repository."""

    html: Link | None = None


class User(msgspec.Struct, frozen=True):
    """`author` of a request, and `actor` of every event."""

    nickname: str = ""
    display_name: str = ""

    @property
    def name(self) -> str | None:
        """What they are called; None: it does not say."""
        return self.nickname or self.display_name or None


class Repository(msgspec.Struct, frozen=True):
    """`repository`, and that of a request's source, which is null where the fork is gone."""

    full_name: str = ""
    uuid: str | None = None
    links: Links | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Its page, and what it is cloned from, of which the forge tells nothing."""
        page = None if self.links is None or self.links.html is None else self.links.html.href
        ssh = f"git@bitbucket.org:{self.full_name}.git" if self.full_name else None
        return given_urls(f"{page}.git" if page else None, ssh, page)


class Target(msgspec.Struct, frozen=True):
    """`target` of a ref: its commit."""

    hash: str
    message: str = ""


class Ref(msgspec.Struct, frozen=True):
    """`old` and `new` of a change."""

    type: str
    name: str
    target: Target


class Change(msgspec.Struct, frozen=True):
    """One of `changes`; `old` is null for a new ref, `new` for one that was deleted."""

    old: Ref | None = None
    new: Ref | None = None


class Push(msgspec.Struct, frozen=True):
    """`push`."""

    changes: tuple[Change, ...]


class PushPayload(msgspec.Struct, frozen=True):
    """The fields of repo:push that count."""

    push: Push
    repository: Repository
    actor: User | None = None


class Branch(msgspec.Struct, frozen=True):
    """`branch` of one end of a request."""

    name: str


class Head(msgspec.Struct, frozen=True):
    """`commit` of one end of a request: twelve digits of its id."""

    hash: str


class End(msgspec.Struct, frozen=True):
    """`source` and `destination` of a request."""

    branch: Branch
    commit: Head | None = None
    repository: Repository | None = None


class PullRequest(msgspec.Struct, frozen=True):
    """`pullrequest`."""

    id: int
    source: End
    destination: End
    author: User | None = None
    title: str | None = None


class PullRequestPayload(msgspec.Struct, frozen=True):
    """The fields of a pullrequest event that count."""

    pullrequest: PullRequest
    repository: Repository
    actor: User | None = None


class AnyPayload(msgspec.Struct, frozen=True):
    """What every event has."""

    repository: Repository | None = None


def check_signature(delivery: Delivery, secrets: tuple[bytes, ...], now: float) -> SignatureCheck:
    """X-Hub-Signature over the raw body."""
    return hub_signature_check(secrets, delivery.body, delivery.header(SIGNATURE_HEADER))


def parse(delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    event = delivery.header(EVENT_HEADER) or ""
    if event == "repo:push":
        push = read_payload(PushPayload, content, NAME)
        return push if isinstance(push, Refusal) else _push(push)
    if event in BUILT_REQUESTS:
        request = read_payload(PullRequestPayload, content, NAME)
        return request if isinstance(request, Refusal) else _pull_request(request)
    payload = read_payload(AnyPayload, content, NAME)
    if isinstance(payload, Refusal):
        return payload
    urls = () if payload.repository is None else payload.repository.urls
    return ignored(urls, f"{shown(event)} builds nothing; pushes and new pull requests do")


def _push(payload: PushPayload) -> ForgeEvent | Refusal:
    urls = payload.repository.urls
    event = with_others(urls, (_changed(urls, change) for change in payload.push.changes))
    return sent_by(event, None if payload.actor is None else payload.actor.name)


def _changed(urls: tuple[str, ...], change: Change) -> ForgeEvent | Refusal:
    new, old = change.new, change.old
    if new is None:
        return ignored(urls, f"{shown('' if old is None else old.name)} was deleted")
    if new.type not in ("branch", "tag"):
        return ignored(urls, f"{shown(new.type)} {shown(new.name)} is neither a branch nor a tag")
    return pushed_ref(
        urls,
        (BRANCH_PREFIX if new.type == "branch" else TAG_PREFIX) + new.name,
        before=None if old is None else old.target.hash,
        after=new.target.hash,
        tagged=new.target.hash,
        message=new.target.message,
    )


def _pull_request(payload: PullRequestPayload) -> ForgeEvent | Refusal:
    request, urls = payload.pullrequest, payload.repository.urls
    source, branch = request.source, request.destination.branch.name
    refusal = check_ref_name("the destination branch", branch)
    refusal = refusal or check_ref_name("the source branch", source.branch.name)
    if refusal is not None:
        return refusal
    commit = "" if source.commit is None else source.commit.hash
    if request.id < 1 or not _COMMIT_PREFIX.fullmatch(commit):
        return malformed("`id` or `source.commit`", "is not that of a request", f"is this {NAME}?")
    ref = BRANCH_PREFIX + source.branch.name
    is_from_fork = _is_other(source.repository, payload.repository)
    is_full = check_commit(commit) is None
    author = request.author
    named = None if author is None else author.name
    sender = None if payload.actor is None else payload.actor.name
    return ForgeEvent(
        action=Action.SKIPPED if is_from_fork else Action.BUILD,
        reason=NO_FORKS if is_from_fork else "",
        repositories=urls,
        event=Event.PULL_REQUEST,
        branch=branch,
        # the fork's branch is in another repository: here is none that could be taken for it
        ref=f"refs/pull-requests/{request.id}/from" if is_from_fork else ref,
        # what is skipped is reported of the commit as the forge names it
        commit=commit if is_full or is_from_fork else None,
        commit_prefix=None if is_full or is_from_fork else commit,
        stable_identity=("pullrequest", str(request.id), ref, commit, branch),
        author=None if named is None else named[:AUTHOR_CHARACTERS_MAX],
        words=forge_words(sender, request.id, request.title),
        is_from_fork=is_from_fork,
    )


def _is_other(source: Repository | None, target: Repository) -> bool:
    """Whether the source is anywhere but in the repository itself; if nobody tells, it is."""
    if source is None or (source.uuid is None and not source.full_name):
        return True
    if source.uuid is not None and target.uuid is not None:
        return source.uuid != target.uuid
    return source.full_name != target.full_name
