"""Keeps the last messages of a node, in both directions, and finds those of one build.

GET /pbft/log and the message diagram of a build show them. They are in memory only, and bounded; a
message is decoded only when somebody asks for a build, and then once.
"""

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from ci.operations import BuildResult, CastBallot, MalformedOperation, decode_operation
from pbft.codec import MalformedMessage, decode_message, digest_of
from pbft.messages import (
    AnyMessage,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    Replies,
    Request,
    Signed,
    ViewChange,
)
from pbft.ports import ExecutedRequest, Output

MESSAGES_MAX = 4096
# A longer payload is not kept: many of them would fill memory. Of a VIEW-CHANGE or NEW-VIEW, with
# the certificates of a full window, the heading is.
PAYLOAD_BYTES_MAX = 16 * 1024
# How a payload begins that has a heading: MessagePack of an array whose first item is the type.
_LONG_NAMES = (b"viewchange", b"newview")
HEADING_BYTES = 16
MARKS_MAX = 4096
REFUSALS_MAX = 1024
BUILDS_MAX = 256
# Around a build's own messages, so that the view change that held it up is seen too.
MARGIN_SECONDS = 0.05
KEY_BYTES = 12
_MARKED = frozenset({"prepared", "executed", "view_change", "new_view", "equivocation"})


class Heading(msgspec.Struct, frozen=True):
    """What is kept of a long VIEW-CHANGE or NEW-VIEW. kind: the name of its type."""

    kind: str
    view: int
    replica: int
    certificates: int
    key: bytes


class LoggedMessage(msgspec.Struct, frozen=True):
    """One message. at: seconds since 1970, by this machine; direction: `received` or `sent`.

    heading: of a message that was too long to be kept; then the payload is empty. key: what tells
    the payload from others.
    """

    at: float
    direction: str
    peer: str
    signed: Signed
    heading: Heading | None = None

    def message(self) -> AnyMessage | Heading:
        """What was said. Raises MalformedMessage."""
        return self.heading or decode_message(self.signed.payload)

    @property
    def key(self) -> bytes:
        """The beginning of the payload's digest."""
        return self.heading.key if self.heading is not None else _key(self.signed)


class Row(msgspec.Struct, frozen=True):
    """A message of a build. key: the beginning of the payload's SHA-256, in hexadecimal."""

    at: float
    direction: str
    peer: str
    kind: str
    key: str
    text: str
    refused: str | None


class Moment(msgspec.Struct, frozen=True):
    """Something that the replica told."""

    at: float
    event: str
    details: dict[str, str | int | None]


class BuildTrace(msgspec.Struct, frozen=True):
    """What this node knows of a build's messages. built: when it began and ended, if it did."""

    messages: list[Row]
    moments: list[Moment]
    built: tuple[float, float] | None


# The key of a payload, the signature, and when it came.
_Arrival = tuple[bytes, bytes, float]
# What tells whose message it is: the sequence number of a vote, the digest of a request, the
# requests that are answered; "change" of a change of view, None of what is of no build.
_About = int | bytes | frozenset[tuple[str, int]] | Literal["change"] | None


class _Kept:
    """A message, and what it is about once somebody asked."""

    __slots__ = ("_about", "_is_read", "logged")

    def __init__(self, logged: LoggedMessage) -> None:
        self.logged = logged
        self._about: _About = None
        self._is_read = False

    @property
    def about(self) -> _About:
        """It is worked out once: whoever asks for a build looks at all messages."""
        if not self._is_read:
            self._about = _about(self.logged)
            self._is_read = True
        return self._about


class _Build:
    """Which numbers and requests are about one build."""

    def __init__(self) -> None:
        self.sequences: set[int] = set()
        self.requests: set[bytes] = set()
        self.asked: set[tuple[str, int]] = set()

    def has(self, about: _About) -> bool:
        """Whether a message that is about this is one of the build's."""
        if isinstance(about, int):
            return about in self.sequences
        if isinstance(about, bytes):
            return about in self.requests
        return isinstance(about, frozenset) and not about.isdisjoint(self.asked)


class MessageTrace:
    """The last messages of one replica. clock: seconds since 1970."""

    def __init__(self, replica: str, clock: Callable[[], float] = time.time) -> None:
        self._replica = replica
        self._clock = clock
        self._messages: collections.deque[_Kept] = collections.deque(maxlen=MESSAGES_MAX)
        self._moments: collections.deque[Moment] = collections.deque(maxlen=MARKS_MAX)
        # by what came and when: the same words may be taken at another time
        self._refusals: collections.OrderedDict[_Arrival, str] = collections.OrderedDict()
        self._builds: collections.OrderedDict[bytes, _Build] = collections.OrderedDict()
        self._unread: list[tuple[Sequence[Envelope], float]] = []

    def note_received(self, peer: str, envelopes: Sequence[Envelope]) -> None:
        """These came from that peer, for the next turn."""
        now = self._note("received", peer, envelopes)
        self._unread.append((envelopes, now))

    def note_sent(self, peer: str, envelopes: Sequence[Envelope]) -> None:
        """These go to that peer; `all`: to every other replica."""
        self._note("sent", peer, envelopes)

    def note_outputs(self, outputs: Sequence[Output]) -> None:
        """What the turn gave that took in all that was received before."""
        unread, self._unread = self._unread, []
        if not outputs:
            return
        received: list[tuple[Signed, float]] | None = None
        now = self._clock()
        for output in outputs:
            for event in output.events:
                if event.name in _MARKED:
                    self._moments.append(Moment(now, event.name, event.details))
                elif event.name == "refused":
                    if received is None:
                        received = [(e.signed, at) for envelopes, at in unread for e in envelopes]
                    self._note_refusal(received, event.details)
            for executed in output.executed:
                self._note_executed(executed)

    def newest(self) -> Iterator[LoggedMessage]:
        """All that are kept, newest first."""
        return (kept.logged for kept in reversed(self._messages))

    def of_build(self, build: bytes) -> BuildTrace | None:
        """What is kept of the messages that ordered this build and its ballots; None: nothing."""
        known = self._builds.get(build)
        if known is None:
            return None
        rows: list[Row] = []
        changes: list[Row] = []
        built: tuple[float, float] | None = None
        for kept in self._messages:
            about = kept.about
            if about == "change":
                logged = kept.logged
                changes.append(self._row(logged, kind_of(logged.message())))
            elif known.has(about):
                logged = kept.logged
                message = logged.message()
                kind = _kind_in(message)
                rows.append(self._row(logged, kind, known))
                if kind == "Ballot" and logged.signed.signer == self._replica and built is None:
                    built = _when_built(message, logged.at)
        if rows:
            began, ended = rows[0].at - MARGIN_SECONDS, rows[-1].at + MARGIN_SECONDS
            rows += [row for row in changes if began <= row.at <= ended]
            rows.sort(key=lambda row: row.at)
            moments = [m for m in self._moments if began <= m.at <= ended and _is_of(m, known)]
            return BuildTrace(rows, moments, built)
        return BuildTrace([], [], None)

    # --- inside ---------------------------------------------------------------------------------

    def _note(self, direction: str, peer: str, envelopes: Sequence[Envelope]) -> float:
        now = self._clock()
        keep = self._messages.append
        for envelope in envelopes:
            signed = envelope.signed
            if len(signed.payload) <= PAYLOAD_BYTES_MAX:
                keep(_Kept(LoggedMessage(now, direction, peer, signed)))
            elif (heading := _heading(signed)) is not None:
                short = msgspec.structs.replace(signed, payload=b"")
                keep(_Kept(LoggedMessage(now, direction, peer, short, heading)))
        return now

    def _note_refusal(
        self, received: list[tuple[Signed, float]], details: dict[str, str | int | None]
    ) -> None:
        """The core says whose message it refused and why; it is that one's first in this turn."""
        for signed, at in received:
            if signed.signer == details.get("signer"):
                received.remove((signed, at))
                arrival = (_key(signed), signed.signature, at)
                self._refusals[arrival] = str(details.get("reason"))
                if len(self._refusals) > REFUSALS_MAX:
                    self._refusals.popitem(last=False)
                return

    def _note_executed(self, executed: ExecutedRequest) -> None:
        build = _build_of(executed)
        if build is None:
            return
        known = self._builds.setdefault(build, _Build())
        known.sequences.add(executed.sequence)
        known.requests.add(digest_of(executed.signed.payload))
        known.asked.add((executed.request.client, executed.request.timestamp))
        if len(self._builds) > BUILDS_MAX:
            self._builds.popitem(last=False)

    def _row(self, logged: LoggedMessage, kind: str, known: _Build | None = None) -> Row:
        key = logged.key
        arrival = (key, logged.signed.signature, logged.at)
        refused = self._refusals.get(arrival) if logged.direction == "received" else None
        message = logged.message()
        text = _in_words(logged.signed.signer, message)
        if known is not None and isinstance(message, Replies):
            text += _answers(message, known)
        if isinstance(message, Request) and (cast := _ballot_in(message)) is not None:
            text += f" ballot={_ballot_in_words(cast)}"
        return Row(logged.at, logged.direction, logged.peer, kind, key.hex(), text, refused)


def _key(signed: Signed) -> bytes:
    return digest_of(signed.payload)[:KEY_BYTES]


def _build_of(executed: ExecutedRequest) -> bytes | None:
    """Which build an executed request is about."""
    if executed.applied.kind == "opened":
        return executed.applied.subject
    try:
        operation = decode_operation(executed.request.operation)
    except MalformedOperation:
        return None
    build = getattr(operation, "build", None)
    return build if isinstance(build, bytes) else None


def _about(logged: LoggedMessage) -> _About:
    """What tells of which builds a message is."""
    try:
        message = logged.message()
    except MalformedMessage:
        return None
    match message:
        case ViewChange() | NewView() | Heading():
            return "change"
        case PrePrepare() | Prepare() | Commit():
            return message.sequence
        case Request():
            return digest_of(logged.signed.payload)
        case Replies():
            return frozenset((reply.client, reply.timestamp) for reply in message.replies)
        case _:
            return None


def _kind_in(message: AnyMessage | Heading) -> str:
    """What a message of a build is called in its picture."""
    match message:
        case Request():
            return "Ballot" if _ballot_in(message) is not None else "Request"
        case Replies():
            return "Reply"
        case _:
            return kind_of(message)


def _answers(message: Replies, known: _Build) -> str:
    """Which answers about the build there are in it, and the beginning of each one's digest."""
    about = [r for r in message.replies if (r.client, r.timestamp) in known.asked]
    words = (f"{r.kind}={digest_of(r.subject + r.result).hex()[:12]}" for r in about)
    return "".join(f" {word}" for word in words)


def _ballot_in(request: Request) -> CastBallot | None:
    try:
        operation = decode_operation(request.operation)
    except MalformedOperation:
        return None
    return operation if isinstance(operation, CastBallot) else None


def _ballot_in_words(cast: CastBallot) -> str:
    """What the replica says that it found."""
    if not isinstance(cast.ballot, BuildResult):
        return "abstains"
    found = cast.ballot.compared
    code = "" if found.exit_code is None else f" {found.exit_code}"
    return f"{found.outcome.value}{code}"


def _when_built(message: AnyMessage | Heading, at: float) -> tuple[float, float] | None:
    """From the durations in a build result: it was cast at once."""
    cast = _ballot_in(message) if isinstance(message, Request) else None
    if cast is None or not isinstance(cast.ballot, BuildResult):
        return None
    evidence = cast.ballot.evidence
    seconds = (evidence.checkout_milliseconds + evidence.build_milliseconds) / 1000
    return at - seconds, at


def _is_of(moment: Moment, known: _Build) -> bool:
    sequence = moment.details.get("sequence")
    return moment.event not in ("prepared", "executed") or sequence in known.sequences


def kind_of(message: AnyMessage | Heading) -> str:
    """The name of a message's type."""
    return message.kind if isinstance(message, Heading) else type(message).__name__


def _heading(signed: Signed) -> Heading | None:
    """Of a long message; None where it is no change of view."""
    # the type is in its first bytes: nothing else that long is taken apart
    if not any(name in signed.payload[:HEADING_BYTES] for name in _LONG_NAMES):
        return None
    try:
        message = decode_message(signed.payload)
    except MalformedMessage:
        return None
    match message:
        case ViewChange():
            certificates = len(message.prepared)
        case NewView():
            certificates = len(message.view_changes)
        case _:
            return None
    kind = type(message).__name__
    return Heading(kind, message.view, message.replica, certificates, _key(signed))


def _in_words(signer: str, message: AnyMessage | Heading) -> str:
    """A message's fields in one line; bytes are cut to their beginning, of lists the length."""
    words = [f"from {signer}"]
    for field in message.__struct_fields__:
        value = getattr(message, field)
        if field in ("kind", "key"):
            continue
        if isinstance(value, bytes):
            words.append(f"{field}={value.hex()[:12]}")
        elif isinstance(value, int | str):
            words.append(f"{field}={value}")
        elif isinstance(value, tuple):
            words.append(f"{field}={len(value)}")
    return " ".join(words)
