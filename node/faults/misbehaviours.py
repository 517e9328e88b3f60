"""What a node that misbehaves on purpose says and sends.

The simulator has an adversary of its own, which is richer.
"""

import asyncio
import collections
from collections.abc import Sequence
from typing import get_args

import msgspec

from ci.operations import Ballot, BuildResult, Outcome, ResultKey, Step
from common.configuration.config import FaultKind
from node.replica.speaker import Speaker
from pbft.authentication import Identity, sign_message
from pbft.codec import decode_message, digest_of, encode_batch, encode_message
from pbft.messages import AnyMessage, Checkpoint, Commit, Envelope, Prepare, PrePrepare

KINDS: tuple[str, ...] = tuple(kind for kind in get_args(FaultKind) if kind != "allowed")
# What a node with that fault does, for whoever chooses one.
DESCRIPTIONS = {
    "lying": "it builds like the others and then says the opposite in its ballot",
    "silent": "it receives everything and sends nothing",
    "equivocating": "every second replica is first told something else about the same numbers",
    "delaying": "everything that it sends comes late",
    "garbling": "no signature of its messages holds",
    "replaying": "with what it sends, it sends old messages once more",
}

DELAY_SECONDS = 1.0
# Old messages that are kept, and how many of them go out again with each new one.
REPLAYED_KEPT = 256
REPLAYED_AT_ONCE = 3


class Faults:
    """What is wrong with this node at present; None: nothing. `switch` changes it."""

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind

    def switch(self, kind: str | None) -> None:
        """Misbehave like this from now on."""
        assert kind is None or kind in KINDS, kind
        self.kind = kind


def told_ballot(ballot: Ballot, fault: str | None) -> Ballot:
    """What the node says, given what it found."""
    if fault != "lying" or not isinstance(ballot, BuildResult):
        return ballot
    return msgspec.structs.replace(ballot, compared=_opposite(ballot.compared))


class FaultyLinks:
    """Links that carry what the node says as its fault has it."""

    def __init__(self, links: Speaker, faults: Faults, identity: Identity) -> None:
        """identity: this node's own; nobody else's words can be bent."""
        self._links = links
        self._faults = faults
        self._identity = identity
        self._old: collections.deque[Envelope] = collections.deque(maxlen=REPLAYED_KEPT)

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Send them, or what becomes of them."""
        match self._faults.kind:
            case None:
                pass
            case "silent":
                return
            case "delaying":
                loop = asyncio.get_running_loop()
                loop.call_later(DELAY_SECONDS, self._links.send, to, list(envelopes))
                return
            case "garbling":
                envelopes = [self._garbled(envelope) for envelope in envelopes]
            case "equivocating" if self._is_second(to):
                envelopes = [e for envelope in envelopes for e in self._twice(envelope)]
            case "replaying":
                old = list(self._old)[:REPLAYED_AT_ONCE]
                self._old.rotate(-REPLAYED_AT_ONCE)
                self._old.extend(envelopes)
                envelopes = [*envelopes, *old]
        self._links.send(to, envelopes)

    def _is_second(self, to: str) -> bool:
        index = self._identity.cluster.replica_index(to)
        return index is not None and index % 2 == 1

    def _garbled(self, envelope: Envelope) -> Envelope:
        if envelope.signed.signer != self._identity.name:
            return envelope
        signature = bytes(byte ^ 0x55 for byte in envelope.signed.signature)
        signed = msgspec.structs.replace(envelope.signed, signature=signature)
        return msgspec.structs.replace(envelope, signed=signed)

    def _twice(self, envelope: Envelope) -> list[Envelope]:
        """A contradiction of it, properly signed, and then itself."""
        if envelope.signed.signer != self._identity.name:
            return [envelope]
        message = decode_message(envelope.signed.payload)
        body = b""
        changed: AnyMessage
        match message:
            case PrePrepare():
                body = encode_batch([])
                changed = msgspec.structs.replace(message, digest=digest_of(body))
            case Prepare() | Commit() | Checkpoint():
                changed = msgspec.structs.replace(message, digest=digest_of(message.digest))
            case _:
                return [envelope]
        payload = encode_message(changed)
        signed = sign_message(changed, payload, self._identity)
        return [Envelope(signed, body), envelope]


def _opposite(found: ResultKey) -> ResultKey:
    """Red for green, and green for anything else, in a form that the others count as valid."""
    if found.outcome is Outcome.PASSED:
        return msgspec.structs.replace(found, outcome=Outcome.FAILED, exit_code=1, artifacts=())
    if found.commit is None:
        # Without a commit only `checkout_failed` is a valid result: it cannot be turned green.
        return found
    return msgspec.structs.replace(
        found,
        outcome=Outcome.PASSED,
        exit_code=0,
        # of what was never read, as if it had been
        pipeline_sha256=found.pipeline_sha256 or "0" * 64,
        steps=tuple(Step(step.name, True) for step in found.steps),
    )
