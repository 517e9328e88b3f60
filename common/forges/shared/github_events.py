"""The events of GitHub, and of the forges that copied its webhooks: pushes and pull requests.

EventDialect is what differs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

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
    read_payload,
    shown,
)

# Sent for a new title as well; if the base is another one, `changes` says so.
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


class Head(msgspec.Struct, frozen=True):
    """`head` of a pull request. `repo` is null where the fork is gone."""

    sha: str
    repo: Repository | None = None

    def is_from_fork(self, base: Repository) -> bool:
        """Whether its author need not be one who may push to the repository."""
        return is_fork(self.repo, base)


class Base(msgspec.Struct, frozen=True):
    """`base` of a pull request."""

    ref: str


class User(msgspec.Struct, frozen=True):
    """`user` of a pull request, and `sender` of every event."""

    login: str = ""


class PullRequest(msgspec.Struct, frozen=True):
    """`pull_request`."""

    head: Head
    base: Base
    user: User | None = None
    title: str | None = None
    updated_at: str | None = None

    @property
    def author(self) -> str | None:
        """Who opened it; None: it does not say."""
        return login_of(self.user)


class Changed(msgspec.Struct, frozen=True):
    """That something changed; what it was before is not looked at."""


class PullRequestPayload(msgspec.Struct, frozen=True):
    """The fields of a pull_request event that count."""

    action: str
    number: int
    pull_request: PullRequest
    repository: Repository
    sender: User | None = None

    @property
    def is_base_changed(self) -> bool:
        """Whether it says that its base was another one."""
        raise NotImplementedError

    @property
    def head_before(self) -> str | None:
        """The commit of the head until then; None: it does not say."""
        return None


def login_of(user: User | None) -> str | None:
    """Their name at the forge; None: it does not say."""
    return None if user is None else user.login or None


class AnyPayload(msgspec.Struct, frozen=True):
    """What every event has; a hook of an organisation may name no repository."""

    repository: Repository | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The repository's, where one is named."""
        return () if self.repository is None else self.repository.urls


class EventDialect(msgspec.Struct, frozen=True):
    """How one of these forges tells its events."""

    # the forge's, for people
    name: str
    # the first of these headers that is there names the event
    event_headers: tuple[str, ...]
    # what a push holds, and what it asks for
    push_payload: type[msgspec.Struct]
    push: Callable[[Any], ForgeEvent | Refusal]
    pull_request_payload: type[PullRequestPayload]
    # the actions after which a pull request's head is another one, or there for the first time
    built_actions: frozenset[str]
    # the event that is sent when a webhook is set up; None: there is none of its own
    ping: str | None = None
    # what the forge has beside those, by the event's name
    others: Mapping[str, Callable[[bytes], ForgeEvent | Refusal]] = {}


def parse_event(dialect: EventDialect, delivery: Delivery) -> ForgeEvent | Refusal:
    """What the body asks for. Nothing of it is verified here. Never raises."""
    content = delivery.content()
    if isinstance(content, Refusal):
        return content
    event = next((found for name in dialect.event_headers if (found := delivery.header(name))), "")
    if event == "push":
        push = read_payload(dialect.push_payload, content, dialect.name)
        return push if isinstance(push, Refusal) else dialect.push(push)
    if event == "pull_request":
        request = read_payload(dialect.pull_request_payload, content, dialect.name)
        return request if isinstance(request, Refusal) else _pull_request(dialect, request)
    if event in dialect.others:
        return dialect.others[event](content)
    payload = read_payload(AnyPayload, content, dialect.name)
    if isinstance(payload, Refusal):
        return payload
    if event and event == dialect.ping:
        return ForgeEvent(action=Action.PING, repositories=payload.urls, reason="ping")
    return ignored(payload.urls, f"{shown(event)} builds nothing; push and pull_request events do")


def _pull_request(dialect: EventDialect, payload: PullRequestPayload) -> ForgeEvent | Refusal:
    urls = payload.repository.urls
    is_retargeted = payload.action == EDITED and payload.is_base_changed
    if payload.action not in dialect.built_actions and not is_retargeted:
        return ignored(urls, f"the pull request was {shown(payload.action)}: its head is the same")
    if payload.number < 1:
        return malformed("`number`", "is not that of a pull request", f"is this {dialect.name}?")
    request = payload.pull_request
    head = RequestHead(
        ref=f"refs/pull/{payload.number}/head",
        commit=request.head.sha,
        before=payload.head_before,
        is_from_fork=request.head.is_from_fork(payload.repository),
        words=forge_words(login_of(payload.sender), payload.number, request.title),
    )
    retargeted_at = (request.updated_at or "") if is_retargeted else None
    base = RequestBase(request.base.ref, retargeted_at)
    return pull_request(urls, head, base, author=request.author)


def is_fork(head: Repository | None, base: Repository) -> bool:
    """Whether a head is anywhere but in the repository itself; what nobody tells counts as one."""
    if head is None or (head.id is None and not head.full_name):
        return True
    if head.id is not None and base.id is not None:
        return head.id != base.id
    return head.full_name != base.full_name
