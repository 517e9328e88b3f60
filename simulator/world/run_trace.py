"""What happened, as a chain of SHA-256 over every event; as readable lines where wanted."""

import hashlib
from collections.abc import Callable

from pbft.codec import MalformedMessage, decode_message
from pbft.messages import Envelope
from pbft.ports import Event
from simulator.world.scheduler import SECOND, Scheduler

_DIGEST_SHOWN = 8
PIECES_MAX = 1024


class Trace:
    """The chain of one run. `tell` gets each line, where somebody reads along."""

    def __init__(self, scheduler: Scheduler, tell: Callable[[str], None] | None = None) -> None:
        self._scheduler = scheduler
        self._hasher = hashlib.sha256()
        # What is not hashed yet: hashing a lot at once is cheaper.
        self._pieces: list[bytes] = []
        self._tell = tell
        self.is_read = tell is not None

    @property
    def digest(self) -> str:
        """The digest of everything so far, in hex."""
        self._drain()
        return self._hasher.hexdigest()

    def _drain(self) -> None:
        self._hasher.update(b"".join(self._pieces))
        self._pieces.clear()

    def arrival(self, link: str, mark: bytes, envelope: Envelope) -> None:
        """A message was delivered over that link; mark: the link's name for the chain."""
        signed = envelope.signed
        pieces = self._pieces
        pieces += (
            self._scheduler.now.to_bytes(8, "big"),
            mark,
            signed.signature,
            signed.payload,
        )
        if len(pieces) > PIECES_MAX:
            self._drain()
        if self._tell is not None:
            self._say(f"{link}: {in_words(envelope)}")

    def event(self, text: str) -> None:
        """Something else happened."""
        self._pieces.append(b"%d %b\n" % (self._scheduler.now, text.encode()))
        if self._tell is not None:
            self._say(text)

    def note(self, name: str, event: Event) -> None:
        """A log event of a replica: it follows from the rest, and is not part of the chain."""
        if self.is_read:
            details = " ".join(f"{key}={value}" for key, value in event.details.items())
            self._say(f"  {name}: {event.name} {details}")

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
