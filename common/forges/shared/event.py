"""What a webhook comes to, whichever forge sent it: one small type, and refusals that help.

The rule: whatever the bytes are, the answer is a value. Nothing in here does IO or knows the time.
"""

import enum
import itertools
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from ci.operations import Event
from common.forge_words import ForgeWords, forge_words
from common.ref_names import BRANCH_PREFIX, TAG_PREFIX, check_branch_name, check_commit
from common.safe_text import log_text

# GitHub and GitLab send no more (docs/FACTS.md).
BODY_BYTES_MAX = 25 * 1024 * 1024
# A branch, a URL and a commit, however they are escaped, and what else a script may add. It is
# decoded before it is known who sent it, and into objects: many times its size.
PLAIN_BODY_BYTES_MAX = 64 * 1024
# SubmitBuild takes no more.
URL_CHARACTERS_MAX = 1024
SHOWN_CHARACTERS_MAX = 80
AUTHOR_CHARACTERS_MAX = 255
# Each may be a build of its own.
REFS_PER_PUSH_MAX = 100

BAD_REQUEST = 400
UNAUTHORIZED = 401
NOT_FOUND = 404
TOO_LARGE = 413

_SKIP_MARKER = re.compile(r"\[(skip ci|ci skip)\]", re.IGNORECASE)

_Payload = TypeVar("_Payload", bound=msgspec.Struct)


class Action(enum.StrEnum):
    """What an event asks for."""

    BUILD = "build"
    # no longer build what it names
    CANCEL = "cancel"
    IGNORED = "ignored"
    SKIPPED = "skipped"
    PING = "ping"


class ForgeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one repository.

    event, branch, ref and commit are as in ci.operations.SubmitBuild.
    """

    # what it asks for
    action: Action
    # every URL by which the sender calls the repository; empty if it names none
    repositories: tuple[str, ...]
    # why nothing is built, or no longer, if the action is not BUILD
    reason: str = ""
    event: Event = Event.PUSH
    branch: str = ""
    # None for a branch
    ref: str | None = None
    commit: str | None = None
    # the beginning of the commit, if the forge tells no more of it; then `commit` is None
    commit_prefix: str | None = None
    # what stays the same when this is delivered again, by whomever: (ref, what it points at
    # after the event), and of a request that got another target also when. None for what is a new
    # build each time (a plain POST)
    stable_identity: tuple[str, ...] | None = None
    # whose request it is, by their name at the forge; None: it does not say
    author: str | None = None
    # what else the forge says for people
    words: ForgeWords = ForgeWords()
    # a pull request whose author need not be one of the repository's
    is_from_fork: bool = False
    # what the ref pointed at until then; None: it does not say, or the ref was not there
    before: str | None = None
    # what else the same delivery tells of the same repository: a push may move several refs
    others: "tuple[ForgeEvent, ...]" = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why nothing will be built: the HTTP status, and what was wrong, where, what to do."""

    status: int
    text: str


def ignored(repositories: tuple[str, ...], reason: str) -> ForgeEvent:
    """An event that was understood and asks for nothing."""
    return ForgeEvent(action=Action.IGNORED, repositories=repositories, reason=reason)


def malformed(where: str, wrong: str, remedy: str) -> Refusal:
    """A refusal of a body that says nothing that can be built."""
    return Refusal(BAD_REQUEST, f"{where} {wrong}; {remedy}")


def too_large(bytes_max: int) -> Refusal:
    """The answer to a body over the limit."""
    remedy = "send no more than 25 MB" if bytes_max == BODY_BYTES_MAX else "send less"
    return Refusal(TOO_LARGE, f"the body has more than {bytes_max} bytes; {remedy}")


def read_payload(kind: type[_Payload], content: bytes, forge: str) -> _Payload | Refusal:
    """The JSON that a forge sent, as the fields of it that count. Unknown fields are skipped."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as error:
        return malformed(
            "the body",
            f"is not what {forge} documents for this event: {log_text(str(error))}",
            f"is this really a webhook of {forge}?",
        )


def is_all_zeros(commit: str) -> bool:
    """Whether this is git's id for "nothing": what a deleted or new ref points at."""
    return bool(commit) and not commit.strip("0")


def skip_marker(message: str | None) -> str | None:
    """The `[skip ci]` or `[ci skip]` in a commit's message, as it is there; None: none."""
    found = _SKIP_MARKER.search(message or "")
    return found[0] if found else None


def pushed_ref(
    repositories: tuple[str, ...],
    ref: str,
    *,
    before: str | None,
    after: str,
    tagged: str,
    message: str | None,
) -> ForgeEvent | Refusal:
    """A pushed branch or tag, in any forge's words.

    before, after: what the ref pointed at, and points at now; tagged: the commit that a tag is of,
        which for an annotated tag is not `after`. message: of the commit, where the forge tells it.
    """
    commit = tagged
    if ref.startswith(BRANCH_PREFIX):
        event, name = Event.PUSH, ref.removeprefix(BRANCH_PREFIX)
        commit = after
    elif ref.startswith(TAG_PREFIX):
        event, name = Event.TAG, ref.removeprefix(TAG_PREFIX)
    else:
        return ignored(repositories, f"{shown(ref)} is neither a branch nor a tag")
    refusal = check_ref_name("`ref`", name) or check_commit_id("`after`", after)
    if refusal is not None:
        return refusal
    if is_all_zeros(after):
        what = "branch" if event is Event.PUSH else "tag"
        return ignored(repositories, f"nothing is left of the {what} {shown(name)}")
    refusal = check_commit_id("the commit", commit)
    if refusal is not None:
        return refusal
    marker = skip_marker(message)
    return ForgeEvent(
        action=Action.BUILD if marker is None else Action.SKIPPED,
        reason="" if marker is None else f"the commit's message says {marker}",
        repositories=repositories,
        event=event,
        branch=name,
        ref=None if event is Event.PUSH else ref,
        commit=commit,
        stable_identity=(ref, after),
        before=_known_commit(before),
    )


def with_others(
    repositories: tuple[str, ...], events: Iterable[ForgeEvent | Refusal]
) -> ForgeEvent | Refusal:
    """One event of all that a delivery tells: a ref that cannot be built keeps no other from it.

    A refusal if that is all there is, or if there are too many.
    """
    told = list(itertools.islice(events, REFS_PER_PUSH_MAX + 1))
    if len(told) > REFS_PER_PUSH_MAX:
        return malformed(
            "the push", f"moved more than {REFS_PER_PUSH_MAX} refs", "push fewer at once"
        )
    if not told:
        return ignored(repositories, "it tells of no ref that was moved")
    if len(told) == 1:
        return told[0]
    found = [
        ignored(repositories, event.text) if isinstance(event, Refusal) else event for event in told
    ]
    return msgspec.structs.replace(found[0], others=tuple(found[1:]))


def sent_by(event: ForgeEvent | Refusal, sender: str | None) -> ForgeEvent | Refusal:
    """The same event, and all others of its delivery, with whose doing it is."""
    if isinstance(event, Refusal):
        return event
    words = forge_words(sender)
    others = tuple(msgspec.structs.replace(other, words=words) for other in event.others)
    return msgspec.structs.replace(event, words=words, others=others)


class RequestHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull or merge request wants to have merged."""

    # the ref in the target's repository that follows the request
    ref: str
    commit: str
    # the commit's; None: the forge does not say
    message: str | None = None
    # the commit until now; None: the forge does not say, or the request is new
    before: str | None = None
    # the head is in another repository, so its author need not be one of this one's
    is_from_fork: bool
    # what the forge says of it for people
    words: ForgeWords = ForgeWords()


class RequestBase(msgspec.Struct, frozen=True):
    """The branch that a pull or merge request is to be merged into."""

    branch: str
    # when it became this one, in the forge's words; None: the event is not about that. Such an
    # event is a build of its own, also if it was this one before: in between the request was built
    # for another base, which is what its status shows
    retargeted_at: str | None = None


def pull_request(
    repositories: tuple[str, ...], head: RequestHead, base: RequestBase, *, author: str | None
) -> ForgeEvent | Refusal:
    """A pull or merge request that is new or has changed, in any forge's words."""
    refusal = check_ref_name("the base branch", base.branch)
    refusal = refusal or check_commit_id("the head", head.commit)
    if refusal is not None:
        return refusal
    marker = skip_marker(head.message)
    retargeted = () if base.retargeted_at is None else (base.branch, base.retargeted_at)
    return ForgeEvent(
        action=Action.BUILD if marker is None else Action.SKIPPED,
        reason="" if marker is None else f"the commit's message says {marker}",
        repositories=repositories,
        event=Event.PULL_REQUEST,
        branch=base.branch,
        ref=head.ref,
        commit=head.commit,
        stable_identity=(head.ref, head.commit, *retargeted),
        author=None if author is None else author[:AUTHOR_CHARACTERS_MAX],
        words=head.words,
        is_from_fork=head.is_from_fork,
        before=_known_commit(head.before),
    )


def _known_commit(commit: str | None) -> str | None:
    """A full commit id, or None: only the order of builds depends on it, so nobody is refused."""
    if commit is None or is_all_zeros(commit) or check_commit(commit) is not None:
        return None
    return commit


def check_ref_name(where: str, name: str) -> Refusal | None:
    """A refusal where this is no name that git allows for a branch or a tag."""
    reason = check_branch_name(name)
    if reason is None:
        return None
    return malformed(
        f"{where} ({shown(name)})",
        f"is not a name that git allows: {reason}",
        "name a branch or a tag as git does",
    )


def check_commit_id(where: str, commit: str) -> Refusal | None:
    """A refusal where this is no full commit id."""
    if check_commit(commit) is None:
        return None
    return malformed(
        where,
        "is not a full commit id",
        "all 40 (or 64) lower-case hexadecimal digits are needed",
    )


def given_urls(*urls: str | None) -> tuple[str, ...]:
    """The URLs that are there, each once, and none that is longer than a request may hold."""
    return tuple(dict.fromkeys(url for url in urls if url and len(url) <= URL_CHARACTERS_MAX))


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def shown(text: Any) -> str:
    """A stranger's text as one short line in quotes; nothing in it can reach a terminal."""
    text = str(text)
    cut = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."
    return ascii(cut)
