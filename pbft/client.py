"""The client: asks all replicas at once, and believes f+1 equal signed replies (OSDI'99, 4.1).

Sans IO, as the core. A request's number and bytes are on disk before it comes here (`ask`); a
number is sent only once the number W before it was answered, so that no replica has to refuse it.
A request may be answered more than once: a build is first `opened`, later `decided`.

A replica has one word on each kind of answer: its newest one until that kind is accepted, for what
a correct replica says may change with its state (a refusal's reason, the timestamp in a `used`
answer), and who kept the first ones might never see f+1 that are equal. It takes back nobody's word
but its own.
"""

from collections.abc import Sequence

import msgspec

from pbft.authentication import Authenticator, Identity, sign_message
from pbft.codec import decode_request, digest_of, encode_message
from pbft.genesis import Cluster
from pbft.messages import Envelope, Replies, Reply, Request, Signed
from pbft.ports import Event, Refusal, Send, Verify

# Finished requests whose late replies are still reported.
FINISHED_KEPT = 256
# Kinds of answer to one request that are kept apart; correct replicas use two or three.
KINDS_PER_REPLICA_MAX = 4


class Accepted(msgspec.Struct, frozen=True):
    """An answer that at least f+1 distinct replicas gave, equal in all that counts."""

    timestamp: int
    # of the request that the replicas executed under this timestamp; another than ours means that
    # the timestamp was used before, and ours needs a new one
    request_digest: bytes
    # kind, subject and result: as in pbft.messages.Reply
    kind: str
    subject: bytes
    result: bytes
    # (replica's name, its attestation, the signed message it came in), by replica
    replies: tuple[tuple[str, bytes, Signed], ...]


class LateReply(msgspec.Struct, frozen=True):
    """An answer of a kind that is accepted: one that came after, or one that differs from it.

    An equal answer that came after, with no attestation, is not reported: it proves no more than
    f+1 did, so its signature is not even checked.
    """

    timestamp: int
    replica: str
    # whether it equals the accepted answer
    agrees: bool
    # kind, subject, result and attestation: as in pbft.messages.Reply
    kind: str
    subject: bytes
    result: bytes
    attestation: bytes
    # the message that it came in
    signed: Signed


class ClientOutput(msgspec.Struct):
    """What one turn asks of the shell; a Send to None goes to all replicas."""

    messages: list[Send] = []
    accepted: list[Accepted] = []
    late: list[LateReply] = []
    events: list[Event] = []
    deadline: float | None = None


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Local settings: the first wait before asking again, and the longest one."""

    resend_seconds: float = 1.0
    resend_seconds_max: float = 15.0


class _Asking(msgspec.Struct):
    """One request under way."""

    signed: Signed
    digest: bytes
    last_kinds: frozenset[str]
    due: float | None
    delay: float
    # by kind, then by replica
    replies: dict[str, dict[str, tuple[Reply, Signed]]] = {}
    accepted: dict[str, Reply] = {}


def make_request(client: Identity, timestamp: int, operation: bytes) -> Signed:
    """The signed REQUEST <o, t, c>."""
    message = Request(client.name, timestamp, operation)
    return sign_message(message, encode_message(message), client)


class Client:
    """One member that asks for operations."""

    def __init__(
        self, cluster: Cluster, name: str, verify: Verify, *, settings: ClientSettings | None = None
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._authenticator = Authenticator(cluster, verify)
        self._settings = settings or ClientSettings()
        self._asking: dict[int, _Asking] = {}
        self._finished: dict[int, _Asking] = {}
        # In order of `ask`.
        self._unsent: dict[int, None] = {}
        self._output = ClientOutput()

    def ask(self, signed: Signed, last_kinds: frozenset[str], now: float) -> ClientOutput:
        """Ask until an answer of one of `last_kinds` is accepted.

        signed: our own Request, whose bytes and number are on disk already.
        """
        request = decode_request(signed)
        assert request.client == self._name
        assert request.timestamp not in self._asking
        self._asking[request.timestamp] = _Asking(
            signed, digest_of(signed.payload), last_kinds, None, self._settings.resend_seconds
        )
        self._unsent[request.timestamp] = None
        return self._finish(now)

    def receive(self, envelopes: Sequence[Envelope], now: float) -> ClientOutput:
        """Take what arrived from replicas."""
        for envelope in envelopes:
            refusal = self._receive_one(envelope.signed)
            if refusal is not None:
                self._output.events.append(
                    Event("refused", {"signer": envelope.signed.signer, "reason": refusal.reason})
                )
        return self._finish(now)

    def handle_timer(self, now: float) -> ClientOutput:
        """Ask again what is due."""
        for asking in self._asking.values():
            if asking.due is not None and asking.due <= now:
                self._output.messages.append(Send(None, Envelope(asking.signed)))
                asking.delay = min(2 * asking.delay, self._settings.resend_seconds_max)
                asking.due = now + asking.delay
        return self._finish(now)

    def _receive_one(self, signed: Signed) -> Refusal | None:
        message = self._authenticator.read(signed)
        if isinstance(message, Refusal):
            return message
        if not isinstance(message, Replies):
            return None  # a replica's STATUS is meant for its peers
        if not any(self._is_wanted(reply, signed.signer) for reply in message.replies):
            return None
        if refusal := self._authenticator.check(signed, message):
            return refusal
        for reply in message.replies:
            # Asked anew: what the same message said before may have settled it.
            if self._is_wanted(reply, signed.signer):
                self._count(reply, signed)
        return None

    def _is_wanted(self, reply: Reply, replica: str) -> bool:
        asking = self._under_way(reply.timestamp)
        if asking is None or reply.client != self._name:
            return False
        earlier = asking.replies.get(reply.kind, {}).get(replica)
        accepted = asking.accepted.get(reply.kind)
        if accepted is not None:
            # Each replica's word is told once; what says nothing new is not even verified.
            is_new = bool(reply.attestation) or _compared(reply) != _compared(accepted)
            if earlier is not None or not is_new:
                return False
        elif earlier is not None:
            return earlier[0] != reply
        kinds = sum(replica in by_replica for by_replica in asking.replies.values())
        return kinds < KINDS_PER_REPLICA_MAX

    def _count(self, reply: Reply, signed: Signed) -> None:
        asking = self._under_way(reply.timestamp)
        assert asking is not None, "only what is wanted is counted"
        by_replica = asking.replies.setdefault(reply.kind, {})
        by_replica[signed.signer] = (reply, signed)
        accepted = asking.accepted.get(reply.kind)
        if accepted is not None:
            self._report_late(reply, signed, _compared(reply) == _compared(accepted))
            return
        equal = {
            name: (other.attestation, other_signed)
            for name, (other, other_signed) in by_replica.items()
            if _compared(other) == _compared(reply)
        }
        if len(equal) >= self._cluster.quorums.weak:
            self._accept(asking, reply, equal)

    def _under_way(self, timestamp: int) -> _Asking | None:
        return self._asking.get(timestamp) or self._finished.get(timestamp)

    def _report_late(self, reply: Reply, signed: Signed, agrees: bool) -> None:
        self._output.late.append(
            LateReply(
                reply.timestamp,
                signed.signer,
                agrees,
                reply.kind,
                reply.subject,
                reply.result,
                reply.attestation,
                signed,
            )
        )

    def _accept(
        self, asking: _Asking, reply: Reply, equal: dict[str, tuple[bytes, Signed]]
    ) -> None:
        asking.accepted[reply.kind] = reply
        self._output.accepted.append(
            Accepted(
                reply.timestamp,
                reply.request_digest,
                reply.kind,
                reply.subject,
                reply.result,
                tuple((name, *equal[name]) for name in sorted(equal)),
            )
        )
        for name, (other, signed) in asking.replies[reply.kind].items():
            if name not in equal:
                self._report_late(other, signed, agrees=False)
        used_before = reply.request_digest != asking.digest
        if reply.kind in asking.last_kinds or used_before:
            self._asking.pop(reply.timestamp, None)
            self._finished[reply.timestamp] = asking
            if len(self._finished) > FINISHED_KEPT:
                del self._finished[next(iter(self._finished))]
        else:
            # It is ordered; what is still to come takes as long as it takes.
            asking.delay = self._settings.resend_seconds_max

    def _finish(self, now: float) -> ClientOutput:
        if self._unsent:
            self._send_first(now)
        output = self._output
        output.deadline = min(
            (asking.due for asking in self._asking.values() if asking.due is not None),
            default=None,
        )
        self._output = ClientOutput()
        return output

    def _send_first(self, now: float) -> None:
        """Send what was never sent and is within the window above the lowest unanswered number."""
        unanswered = (t for t, asking in self._asking.items() if not asking.accepted)
        end = max(min(unanswered, default=1), 1) + self._cluster.genesis.client_window
        for timestamp in [t for t in self._unsent if t < end]:
            del self._unsent[timestamp]
            asking = self._asking.get(timestamp)
            if asking is not None:  # else the replicas answered what was never asked of them
                self._output.messages.append(Send(None, Envelope(asking.signed)))
                asking.due = now + asking.delay


def _compared(reply: Reply) -> tuple[bytes, str, bytes, bytes]:
    return (reply.request_digest, reply.kind, reply.subject, reply.result)
