"""Lies about particular messages: what replicas with f keys can say, by type of message.

Everything here is signed with keys of faulty replicas only, or not validly signed at all.
A new type of message gets its lies here.
"""

from collections.abc import Sequence

import msgspec

from ci.operations import (
    Noop,
    encode_operation,
)
from pbft.authentication import Identity, sign_message
from pbft.codec import decode_message, digest_of, encode_batch, encode_message
from pbft.genesis import Cluster
from pbft.log import NULL_BODY, NULL_REQUEST
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Replies,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from simulator.world.seeded_random import SeededRandom
from simulator.world.signatures import Signatures

CLAIMS_HEARD_MAX = 64


class Forger:
    """Makes lies. names: the faulty replicas, whose keys may be used."""

    def __init__(
        self,
        cluster: Cluster,
        signatures: Signatures,
        names: Sequence[str],
        *,
        chance: SeededRandom,
    ) -> None:
        self.names = tuple(names)
        self.cluster = self._cluster = cluster
        self._signers = {name: signatures.signer(name) for name in names}
        self._chance = chance
        # (view, sequence, digest) -> (type, replica) -> the vote
        self._heard: dict[tuple[int, int, bytes], dict[tuple[str, int], Signed]] = {}

    def say(self, name: str, message: AnyMessage, body: bytes = b"") -> Envelope:
        """That faulty replica says this, properly signed."""
        payload = encode_message(message)
        signed = sign_message(message, payload, Identity(self._cluster, name, self._signers[name]))
        return Envelope(signed, body)

    def impute(self, victim: str, message: AnyMessage, body: bytes = b"") -> Envelope:
        """The same in the name of somebody else: with no, or a faulty replica's, signature."""
        payload = encode_message(message)
        if self._chance.random() < 0.5:
            return Envelope(Signed(victim, payload, self._chance.randbytes(64)), body)
        name = self._chance.choice(self.names)
        signed = sign_message(message, payload, Identity(self._cluster, name, self._signers[name]))
        return Envelope(Signed(victim, payload, signed.signature), body)

    def index(self, name: str) -> int:
        """The number of that replica."""
        index = self._cluster.replica_index(name)
        assert index is not None
        return index

    @property
    def count(self) -> int:
        """How many replicas there are."""
        return len(self._cluster.replica_names)

    def name(self, index: int) -> str:
        """The name of the replica with this number."""
        return self._cluster.replica_names[index]

    # --- small changes of one's own messages (ByzzFuzz's small scope) ---------------------------

    def mutate(self, name: str, envelope: Envelope, kind: str) -> Envelope:
        """Another version of a message of that replica's own; the same where it has no such field.

        kind: `digest`, `view`, `sequence`.
        """
        message = decode_message(envelope.signed.payload)
        changes: dict[str, int | bytes] = {}
        if kind == "digest" and isinstance(message, PrePrepare | Prepare | Commit | Checkpoint):
            changes["digest"] = self._chance.choice(
                (NULL_REQUEST, digest_of(message.digest), self._chance.randbytes(32))
            )
        elif kind == "view" and isinstance(message, PrePrepare | Prepare | Commit | Status):
            changes["view"] = max(0, message.view + self._chance.choice((-1, 1)))
        elif kind == "sequence" and isinstance(message, PrePrepare | Prepare | Commit | Checkpoint):
            changes["sequence"] = max(0, message.sequence + self._chance.choice((-1, 1)))
        if not changes:
            return envelope
        return self.say(name, msgspec.structs.replace(message, **changes), envelope.body)

    def other_batch(self, name: str, message: PrePrepare, body: bytes) -> tuple[PrePrepare, bytes]:
        """Another PRE-PREPARE for the same number: reversed, shortened, made up, or null.

        Or with a request twice; or the same digest with another body.
        """
        requests = list(msgspec.msgpack.decode(body, type=tuple[Signed, ...])) if body else []
        kind = self._chance.randrange(7)
        if kind == 4:
            return message, self.made_up_batch(name)
        if kind == 5:
            requests.append(self.never_asked_for(1).signed)
        if kind == 0 and len(requests) > 1:
            other = encode_batch(requests[::-1])
        elif kind == 1 and len(requests) > 1:
            other = encode_batch(requests[:-1])
        elif kind == 2:
            other = NULL_BODY
        elif kind == 5:
            other = encode_batch(requests)
        elif kind == 6 and requests:
            other = encode_batch((*requests, requests[0]))
        else:
            own = Request(name, self._chance.randint(1, 9), encode_operation(Noop(b"made up")))
            other = encode_batch((self.say(name, own).signed, *requests))
        return msgspec.structs.replace(message, digest=digest_of(other)), other

    def false_content(self, name: str, envelope: Envelope) -> Envelope:
        """A wrong state, body, answer or checkpoint instead of the right one, if any."""
        message = decode_message(envelope.signed.payload)
        if isinstance(message, Checkpoint):
            return self.mutate(name, envelope, "digest")
        if isinstance(message, StateLeaves) and message.leaves:
            leaf = (message.leaves[0][0], self._chance.randbytes(32))
            leaves = (leaf, *message.leaves[1:])
            return self.say(name, msgspec.structs.replace(message, leaves=leaves))
        if isinstance(message, StateParts):
            parts = tuple((part, data + b"x") for part, data in message.parts)
            return self.say(name, msgspec.structs.replace(message, parts=parts))
        if isinstance(message, Body):
            return self.say(name, message, self.made_up_batch(name))
        if isinstance(message, PrePrepare):
            return Envelope(envelope.signed, self.made_up_batch(name))
        if isinstance(message, Replies):
            replies = tuple(
                msgspec.structs.replace(reply, result=b"false") for reply in message.replies
            )
            return self.say(name, msgspec.structs.replace(message, replies=replies))
        return envelope

    def false_state(self, name: str, sequence: int, parts: Sequence[str]) -> list[Envelope]:
        """Leaves that no certificate covers, and parts that no leaf covers."""
        index = self.index(name)
        leaves = tuple((part, self._chance.randbytes(32)) for part in sorted(parts))
        false = tuple((part, b"false") for part in parts)
        return [
            self.say(name, StateLeaves(sequence, leaves, index)),
            self.say(name, StateParts(sequence, false, index)),
        ]

    def false_view(self, name: str, envelope: Envelope) -> Envelope:
        """A VIEW-CHANGE or NEW-VIEW that leaves out, adds or bends what it has to say."""
        message = decode_message(envelope.signed.payload)
        if isinstance(message, ViewChange):
            return self.say(name, self._bent_view_change(message))
        if isinstance(message, NewView):
            return self.say(name, self._bent_new_view(name, message))
        return envelope

    def _bent_view_change(self, message: ViewChange) -> ViewChange:
        kind = self._chance.choice((0, 1, 2, 3, 4, 4, 4, 4))
        prepared = message.prepared
        if kind == 0:
            return msgspec.structs.replace(message, prepared=())
        if kind == 1 and prepared:
            return msgspec.structs.replace(message, prepared=prepared[:-1])
        if kind == 2:
            interval = self._cluster.genesis.checkpoint_interval
            return msgspec.structs.replace(message, stable=message.stable + interval)
        if kind == 3 and prepared:
            # Real signatures, fewer than it takes.
            first = msgspec.structs.replace(prepared[0], prepares=prepared[0].prepares[:-1])
            return msgspec.structs.replace(message, prepared=(first, *prepared[1:]))
        if kind == 4 and prepared:
            certificate = self.misused(prepared[-1])
            if certificate is not None:
                return msgspec.structs.replace(
                    message, prepared=self.in_order(prepared, certificate)
                )
        return message

    @staticmethod
    def in_order(
        prepared: tuple[PreparedCertificate, ...], more: PreparedCertificate
    ) -> tuple[PreparedCertificate, ...]:
        """With one more, in place of what is there for its number."""
        by_number: dict[int, PreparedCertificate] = {}
        for certificate in (*prepared, more):
            pre_prepare = decode_message(certificate.pre_prepare.payload)
            assert isinstance(pre_prepare, PrePrepare)
            by_number[pre_prepare.sequence] = certificate
        return tuple(by_number[number] for number in sorted(by_number))

    def hear(self, message: PrePrepare | Prepare, signed: Signed) -> None:
        """A vote that came to a faulty replica, or left one: it may serve in a certificate."""
        claim = (message.view, message.sequence, message.digest)
        if claim not in self._heard and len(self._heard) >= CLAIMS_HEARD_MAX:
            del self._heard[next(iter(self._heard))]
        votes = self._heard.setdefault(claim, {})
        votes.setdefault((type(message).__name__, message.replica), signed)

    def misused(self, real: PreparedCertificate) -> PreparedCertificate | None:
        """A certificate of a colluding primary that proves nothing: with PREPAREs about something
        else, in the names of others, or too few of them."""
        kind = self._chance.randrange(3)
        if kind == 2:
            return self._too_small()
        pre_prepare = decode_message(real.pre_prepare.payload)
        assert isinstance(pre_prepare, PrePrepare)
        primary = self._cluster.replica_names[pre_prepare.replica]
        if primary not in self.names:
            return None
        number = pre_prepare.sequence + 1
        digest = digest_of(self.made_up_batch(primary))
        false = msgspec.structs.replace(pre_prepare, sequence=number, digest=digest)
        prepares = real.prepares
        if kind == 1:
            others = [name for name in self._cluster.replica_names if name != primary]
            prepares = tuple(
                self.impute(name, Prepare(false.view, number, digest, self.index(name))).signed
                for name in others[: self._cluster.quorums.prepares]
            )
        return PreparedCertificate(self.say(primary, false).signed, prepares)

    def _too_small(self) -> PreparedCertificate | None:
        """Real signatures about one thing, by fewer backups than it takes."""
        for (view, number, digest), votes in reversed(self._heard.items()):
            first = votes.get((PrePrepare.__name__, self._cluster.primary(view)))
            prepares = [s for (kind, _), s in votes.items() if kind == Prepare.__name__]
            for name in self.names:
                if name != self._cluster.replica_names[self._cluster.primary(view)]:
                    vote = Prepare(view, number, digest, self.index(name))
                    prepares.append(self.say(name, vote).signed)
            signers = {signed.signer: signed for signed in prepares}
            if first is not None and 0 < len(signers) < self._cluster.quorums.prepares:
                return PreparedCertificate(first, tuple(signers.values()))
        return None

    def _bent_new_view(self, name: str, message: NewView) -> NewView:
        kind = self._chance.randrange(6)
        ordered = list(message.pre_prepares)
        if kind == 0 and ordered:
            return msgspec.structs.replace(message, pre_prepares=tuple(ordered[:-1]))
        if kind == 1 and ordered:
            place = self._chance.randrange(len(ordered))
            pre_prepare = decode_message(ordered[place].payload)
            assert isinstance(pre_prepare, PrePrepare)
            null = msgspec.structs.replace(pre_prepare, digest=NULL_REQUEST)
            ordered[place] = self.say(name, null).signed
            return msgspec.structs.replace(message, pre_prepares=tuple(ordered))
        if kind == 2:
            last = decode_message(ordered[-1].payload) if ordered else None
            number = last.sequence + 1 if isinstance(last, PrePrepare) else 1
            more = PrePrepare(message.view, number, self._chance.randbytes(32), message.replica)
            return msgspec.structs.replace(
                message, pre_prepares=(*ordered, self.say(name, more).signed)
            )
        if kind == 3:
            weak = message.view_changes[: self._cluster.quorums.weak]
            return msgspec.structs.replace(message, view_changes=weak)
        if kind == 4:
            twice = (*message.view_changes[:-1], message.view_changes[0])
            return msgspec.structs.replace(message, view_changes=twice)
        return message

    def made_up_batch(self, name: str) -> bytes:
        """A body with one request of that faulty replica's own."""
        own = Request(name, self._chance.randint(1, 9), encode_operation(Noop(b"made up")))
        return encode_batch((self.say(name, own).signed,))

    def never_asked_for(self, number: int) -> Envelope:
        """A request in a client's name that the client did not sign."""
        member = self._chance.choice(self._cluster.genesis.clients).name
        request = Request(member, number, encode_operation(Noop(b"never asked for")))
        return self.impute(member, request)
