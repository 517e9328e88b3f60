"""Records every message that a node sends, to prove later that it never sent two that conflict.

Off by default (`capture_file`). One line per message and receiver, appended before the message is
handed to the link. So every message that was sent is in the file, also after kill -9.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.links.link import Links
from pbft.codec import MalformedMessage, decode_signed, encode_signed
from pbft.messages import Envelope, Signed


class Capture:
    """Links that write each message down before they carry it."""

    def __init__(self, links: Links, file: Path) -> None:
        """Opens the file, and makes it where it is missing. Raises OSError."""
        self._links = links
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, 0o600)
        # A line that a crash cut short was not sent; it must not run into the next one.
        _write_all(self._descriptor, b"\n")

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Raises OSError: then nothing was sent."""
        lines = [
            b"%s %s\n" % (to.encode(), base64.b64encode(encode_signed(envelope.signed)))
            for envelope in envelopes
        ]
        _write_all(self._descriptor, b"".join(lines))
        self._links.send(to, envelopes)


def read_capture(file: Path) -> Iterator[tuple[str, Signed]]:
    """(receiver, message) for each whole line of a capture, in the order of sending."""
    with file.open("rb") as stream:
        for line in stream:
            to, separator, text = line.rstrip(b"\n").partition(b" ")
            if not separator or not line.endswith(b"\n"):
                continue
            try:
                yield to.decode(), decode_signed(base64.b64decode(text, validate=True))
            except (ValueError, MalformedMessage):
                continue  # the end of the line is missing: a crash cut it short before it was sent


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
