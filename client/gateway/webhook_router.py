"""From a delivery to what the gateway does about it: who sent it, of what, and is it wanted.

The order of the checks is the rule. What a sender is told before it has proved that it knows a
secret never depends on which repositories there are.
"""

import fnmatch
import hashlib
from collections.abc import Sequence

import msgspec

from ci.operations import Delivery as BuildDelivery
from ci.operations import Event
from ci.references import QUEUE_PREFIX
from client.storage.build_request import BuildRequest
from common.forges.registry import FORGES, PLAIN, forge_of
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import (
    BAD_REQUEST,
    BODY_BYTES_MAX,
    NOT_FOUND,
    PLAIN_BODY_BYTES_MAX,
    UNAUTHORIZED,
    Action,
    ForgeEvent,
    Refusal,
    malformed,
    shown,
    too_large,
)
from common.forges.shared.signatures import Proof, SignatureCheck
from common.repositories.repository_config import GatewayRepository, PullRequests

# What a stranger may have us hash to find out whether it is one: every secret takes the whole body.
HASHED_BYTES_MAX = 64 * 1024 * 1024


class Source(msgspec.Struct, frozen=True):
    """A repository that may ask for builds, with its webhook's secrets."""

    entry: GatewayRepository
    secrets: tuple[bytes, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Every URL by which a webhook may call it."""
        return frozenset((self.entry.url, *self.entry.aliases))


class Ordered(msgspec.Struct, frozen=True):
    """Have it built; or, where `skip_reason` is not empty, only say that it is skipped."""

    build: BuildRequest
    skip_reason: str = ""
    # how the commit begins, if the forge tells no more of it: its ref has to be asked for it
    commit_prefix: str | None = None
    # what else the same delivery orders, of the same repository
    others: "tuple[Ordered, ...]" = ()


class Withdrawn(msgspec.Struct, frozen=True):
    """Have it built no longer; `build` is what its delivery ordered, and reason why."""

    build: BuildRequest
    reason: str


class Answered(msgspec.Struct, frozen=True):
    """Nothing is to be done; the sender is told that all is well, and why nothing is built."""

    detail: str


Reception = Ordered | Withdrawn | Answered | Refusal


def receive(
    delivery: Delivery, sources: Sequence[Source], *, now: float, config_file: str
) -> Reception:
    """What a delivery comes to. Never raises.

    now: seconds since 1970; config_file: its name, for what an operator has to put right.
    """
    bytes_max = body_bytes_max(delivery)
    if len(delivery.body) > bytes_max:
        return too_large(bytes_max)
    name = forge_of(delivery)
    forge = FORGES[name].webhooks
    duplicate = delivery.duplicate(forge.HEADERS)
    if duplicate is not None:
        return duplicate
    event: ForgeEvent | Refusal = forge.parse(delivery)
    if isinstance(event, Refusal):
        return event
    named = _named(event, sources, name)
    source = _sender(delivery, name, named, sources=sources, now=now)
    if isinstance(source, Refusal):
        return source
    if source is None and event.repositories:
        return _unknown_repository(event, name, config_file)
    if event.action is Action.PING:
        return Answered("pong: this webhook is set up")
    if event.action is Action.IGNORED and not event.others:
        return Answered(f"ignored: {event.reason}")
    if source is None:
        return _unknown_repository(event, name, config_file)
    return _all_wanted((event, *event.others), name, source.entry)


def body_bytes_max(delivery: Delivery) -> int:
    """How long a body with these headers may be."""
    return PLAIN_BODY_BYTES_MAX if forge_of(delivery) == PLAIN else BODY_BYTES_MAX


def delivery_identity(forge: str, repository: str, *stable: str) -> bytes:
    """SHA-256 of what stays the same when a delivery comes again, through whichever gateway.

    The forge's own delivery id is no part of it: nothing vouches for that header.
    """
    parts = b"".join(b"%d:%b," % (len(p), p) for p in (s.encode() for s in (repository, *stable)))
    return hashlib.sha256(b"pbft-ci delivery\0" + forge.encode() + b"\0" + parts).digest()


def _named(event: ForgeEvent, sources: Sequence[Source], name: str) -> list[Source]:
    """The configured repositories that are meant: none, one, or those of several URLs."""
    if name == PLAIN and not event.repositories:
        return [sources[0]]
    return [source for source in sources if not source.names.isdisjoint(event.repositories)]


def _sender(
    delivery: Delivery, name: str, named: list[Source], *, sources: Sequence[Source], now: float
) -> Source | Refusal | None:
    """The repository whose secret the sender knows, or whose sender may be anybody; else 401.

    What else is listed under one of the sender's URLs counts only for who knows its secret, too:
    to everybody else a listed one is like one that is not. Where no configured repository is meant
    any of the secrets will do (None): its owner is no stranger, and may be told that the
    repository is not listed.
    """
    if not named:
        affordable = _affordable(delivery, sources)
        if any(_may_ask(delivery, name, source, now=now) for source in affordable):
            return None
        return _stranger(delivery, name, now)
    own = [source for source in named if _may_ask(delivery, name, source, now=now)]
    if not own:
        return _stranger(delivery, name, now)
    if len(own) > 1:
        return malformed(
            "the repository's URLs", "are those of two repositories", "send one repository's"
        )
    entry = own[0].entry
    if name not in (PLAIN, entry.forge):
        return Refusal(
            BAD_REQUEST,
            f"this is a webhook of {name}, but the repository is configured with `forge: "
            f"{entry.forge or 'null'}`; set `forge: {name}` if it is hosted there",
        )
    return own[0]


def _may_ask(delivery: Delivery, name: str, source: Source, *, now: float) -> bool:
    """Whether the sender knows one of the repository's secrets, or may be anybody."""
    if not source.secrets:
        return source.entry.unsigned_allowed
    check: SignatureCheck = FORGES[name].webhooks.check_signature(delivery, source.secrets, now)
    if check.proof is Proof.MISSING:
        return source.entry.unsigned_allowed
    return check.proof is Proof.VALID


def _stranger(delivery: Delivery, name: str, now: float) -> Refusal:
    """401, and what is wrong with the signature; never which repositories there are."""
    reason = FORGES[name].webhooks.check_signature(delivery, (), now).reason
    return Refusal(
        UNAUTHORIZED,
        f"{reason}; the secret of the webhook at the forge must be the one in this repository's "
        "webhook_secret_file",
    )


def _affordable(delivery: Delivery, sources: Sequence[Source]) -> list[Source]:
    """The first of these whose secrets can all be tried; for a usual body that is all of them."""
    found = []
    left = HASHED_BYTES_MAX
    for source in sources:
        left -= len(source.secrets) * len(delivery.body)
        if left < 0:
            break
        found.append(source)
    return found


def _unknown_repository(event: ForgeEvent, name: str, config_file: str) -> Refusal:
    where = "`repoCloneUrl`" if name == PLAIN else "the repository"
    named = event.repositories[0] if event.repositories else ""
    return Refusal(
        NOT_FOUND,
        f"{where}: {shown(named)} is not one of the configured repositories; the operator can add "
        f"it under `repositories:` in {config_file} (and in the configuration of the nodes)",
    )


def _all_wanted(events: tuple[ForgeEvent, ...], name: str, entry: GatewayRepository) -> Reception:
    """What the events of one delivery come to: whatever of them is ordered, else the first."""
    receptions = [_wanted(event, name, entry) for event in events]
    ordered = [reception for reception in receptions if isinstance(reception, Ordered)]
    if not ordered:
        return receptions[0]
    return msgspec.structs.replace(ordered[0], others=tuple(ordered[1:]))


def _wanted(event: ForgeEvent, name: str, entry: GatewayRepository) -> Reception:
    """What of a forge's events this repository's operator wants; a person's POST is wanted."""
    if event.action is Action.IGNORED:
        return Answered(f"ignored: {event.reason}")
    build = BuildRequest(
        repository=entry.url,
        branch=event.branch,
        commit=event.commit,
        event=event.event,
        ref=event.ref,
        before=event.before,
        author=event.author,
        words=event.words,
    )
    if name == PLAIN or event.stable_identity is None:
        return Ordered(build)
    if event.event.value not in entry.events:
        return Answered(f"ignored: `events` of this repository leaves out {event.event}")
    if _is_told_of_by_the_queue(event, entry):
        return Answered("ignored: what is built of a merge queue is told by merge_group")
    is_filtered = event.event is not Event.TAG and entry.branches
    if is_filtered and not any(fnmatch.fnmatchcase(event.branch, glob) for glob in entry.branches):
        return Answered(
            f"ignored: {shown(event.branch)} matches none of this repository's `branches`"
        )
    build = msgspec.structs.replace(
        build,
        delivery=BuildDelivery(name, delivery_identity(name, entry.url, *event.stable_identity)),
        needs_approval=needs_approval(event, entry.pull_requests),
    )
    if event.action is Action.CANCEL:
        return Withdrawn(build, event.reason)
    return Ordered(
        build, event.reason if event.action is Action.SKIPPED else "", event.commit_prefix
    )


def _is_told_of_by_the_queue(event: ForgeEvent, entry: GatewayRepository) -> bool:
    """Whether this is the push of a merge group's branch, which comes beside its own event."""
    is_of_queue = event.event is Event.PUSH and event.branch.startswith(QUEUE_PREFIX)
    return is_of_queue and Event.MERGE_GROUP.value in entry.events


def needs_approval(event: ForgeEvent, allowed: PullRequests) -> bool:
    """Whether an operator has to look at it first: only ever at a pull request."""
    if event.event is not Event.PULL_REQUEST or allowed == "all":
        return False
    return allowed == "none" or event.is_from_fork
