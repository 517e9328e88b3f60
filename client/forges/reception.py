"""From a delivery to what the gateway does about it: who sent it, of what, and is it wanted.

The order of the checks is the rule. What a sender is told before it has proved that it knows a
secret never depends on which repositories there are.
"""

import fnmatch
import hashlib
from collections.abc import Sequence
from types import ModuleType

import msgspec

from ci.operations import Delivery as BuildDelivery
from ci.operations import Event
from client.forges import gitea, github, gitlab, plain
from client.forges.delivery import Delivery
from client.forges.event import (
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
from client.forges.signatures import Proof, SignatureCheck
from client.wanted import WantedBuild
from common.repository_config import GatewayRepository, PullRequests

PLAIN = "plain"
# What a stranger may have us hash to find out whether it is one: every secret takes the whole body.
HASHED_BYTES_MAX = 64 * 1024 * 1024
FORGES: dict[str, ModuleType] = {
    "github": github,
    "gitlab": gitlab,
    "gitea": gitea,
    PLAIN: plain,
}


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

    build: WantedBuild
    skip_reason: str = ""


class Answered(msgspec.Struct, frozen=True):
    """Nothing is to be done; the sender is told that all is well, and why nothing is built."""

    detail: str


Reception = Ordered | Answered | Refusal


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
    forge = FORGES[name]
    duplicate = delivery.duplicate(forge.HEADERS)
    if duplicate is not None:
        return duplicate
    event: ForgeEvent | Refusal = forge.parse(delivery)
    if isinstance(event, Refusal):
        return event
    source = _source_of(event, sources, name)
    if isinstance(source, Refusal):
        return source
    refusal = _check_sender(delivery, name, source, sources, now)
    if refusal is not None:
        return refusal
    if source is None and event.repositories:
        return _unknown_repository(event, name, config_file)
    if event.action is Action.PING:
        return Answered("pong: this webhook is set up")
    if event.action is Action.IGNORED:
        return Answered(f"ignored: {event.reason}")
    if source is None:
        return _unknown_repository(event, name, config_file)
    return _wanted(event, name, source.entry)


def forge_of(delivery: Delivery) -> str:
    """Whose headers these are. Gitea and Forgejo send GitHub's as well, so they come first."""
    if any(delivery.has(header) for header in gitea.EVENT_HEADERS):
        return "gitea"
    if delivery.has(gitlab.EVENT_HEADER):
        return "gitlab"
    return "github" if delivery.has(github.EVENT_HEADER) else PLAIN


def body_bytes_max(delivery: Delivery) -> int:
    """How long a body with these headers may be."""
    return PLAIN_BODY_BYTES_MAX if forge_of(delivery) == PLAIN else BODY_BYTES_MAX


def delivery_identity(forge: str, repository: str, ref: str, after: str) -> bytes:
    """SHA-256 of what stays the same when a delivery comes again, through whichever gateway.

    The forge's own delivery id is no part of it: nothing vouches for that header.
    """
    parts = b"".join(
        b"%d:%b," % (len(p), p) for p in (s.encode() for s in (repository, ref, after))
    )
    return hashlib.sha256(b"pbft-ci delivery\0" + forge.encode() + b"\0" + parts).digest()


def _source_of(event: ForgeEvent, sources: Sequence[Source], name: str) -> Source | Refusal | None:
    """The configured repository that is meant; None: none, or the sender names none."""
    if name == PLAIN and not event.repositories:
        return sources[0]
    found = [source for source in sources if not source.names.isdisjoint(event.repositories)]
    if len(found) > 1:
        return malformed(
            "the repository's URLs", "are those of two repositories", "send one repository's"
        )
    return found[0] if found else None


def _check_sender(
    delivery: Delivery, name: str, source: Source | None, sources: Sequence[Source], now: float
) -> Refusal | None:
    """401 unless the sender knows the repository's secret, or may be anybody.

    Where no configured repository is meant any of the secrets will do: its owner is no stranger,
    and may be told that the repository is not listed.
    """
    candidates = _affordable(delivery, sources) if source is None else [source]
    reason = FORGES[name].check_signature(delivery, (), now).reason
    for candidate in candidates:
        check: SignatureCheck = FORGES[name].check_signature(delivery, candidate.secrets, now)
        is_known = check.proof is Proof.VALID and bool(candidate.secrets)
        is_open = candidate.entry.unsigned_allowed and (
            check.proof is Proof.MISSING or not candidate.secrets
        )
        if not is_known and not is_open:
            continue
        if source is not None and name not in (PLAIN, candidate.entry.forge):
            return Refusal(
                BAD_REQUEST,
                f"this is a webhook of {name}, but the repository is configured with `forge: "
                f"{candidate.entry.forge or 'null'}`; set `forge: {name}` if it is hosted there",
            )
        return None
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


def _wanted(event: ForgeEvent, name: str, entry: GatewayRepository) -> Reception:
    """What of a forge's events this repository's operator wants; a person's POST is wanted."""
    build = WantedBuild(
        repository=entry.url,
        branch=event.branch,
        commit=event.commit,
        event=event.event,
        ref=event.ref,
    )
    if name == PLAIN or event.stable_identity is None:
        return Ordered(build)
    if event.event.value not in entry.events:
        return Answered(f"ignored: `events` of this repository leaves out {event.event}")
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
    return Ordered(build, event.reason if event.action is Action.SKIPPED else "")


def needs_approval(event: ForgeEvent, allowed: PullRequests) -> bool:
    """Whether an operator has to look at it first: only ever at a pull request."""
    if event.event is not Event.PULL_REQUEST or allowed == "all":
        return False
    return allowed == "none" or event.is_from_fork
