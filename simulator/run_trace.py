"""What happened, as a chain of SHA-256 over every event; as readable lines where wanted."""

import hashlib
from collections.abc import Callable

from pbft.codec import MalformedMessage, decode_message
from pbft.messages import Envelope
from pbft.ports import Notice
from simulator.scheduler import SECOND, Scheduler

_DIGEST_SHOWN = 8


class Trace:
    """The chain of one run. `tell` gets each line, where somebody reads along."""

    def __init__(self, scheduler: Scheduler, tell: Callable[[str], None] | None = None) -> None:
        self._scheduler = scheduler
        self._hasher = hashlib.sha256()
        self._tell = tell

    @property
    def digest(self) -> str:
        """The digest of everything so far, in hex."""
        return self._hasher.hexdigest()

    def message(self, verb: str, sender: str, receiver: str, envelope: Envelope) -> None:
        """A message was delivered, lost, forged ..."""
        signed = envelope.signed
        self._hasher.update(b"%d %b %b>%b " % (
            self._scheduler.now, verb.encode(), sender.encode(), receiver.encode(),
        ))  # fmt: skip
        self._hasher.update(signed.signature)
        self._hasher.update(signed.payload)
        if self._tell is not None:
            self._say(f"{verb} {sender} > {receiver}: {in_words(envelope)}")

    def event(self, text: str) -> None:
        """Something else happened."""
        self._hasher.update(b"%d %b\n" % (self._scheduler.now, text.encode()))
        if self._tell is not None:
            self._say(text)

    def note(self, name: str, notice: Notice) -> None:
        """A notice of a replica: it follows from the rest, and is not part of the chain."""
        if self._tell is not None:
            details = " ".join(f"{key}={value}" for key, value in notice.details.items())
            self._say(f"  {name}: {notice.event} {details}")

    def _say(self, text: str) -> None:
        assert self._tell is not None
        self._tell(f"{self._scheduler.now / SECOND:11.6f} {text}")


def in_words(envelope: Envelope) -> str:
    """A message in one short line."""
    signed = envelope.signed
    try:
        message = decode_message(signed.payload)
    except MalformedMessage:
        return f"{len(signed.payload)} bytes naming {signed.signer}"
    words = [type(message).__name__]
    for field in message.__struct_fields__:
        value = getattr(message, field)
        if isinstance(value, bytes):
            words.append(f"{field}={value.hex()[:_DIGEST_SHOWN]}")
        elif isinstance(value, int | str):
            words.append(f"{field}={value}")
        else:
            words.append(f"{field}[{len(value)}]")
    return " ".join(words)
