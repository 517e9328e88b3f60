"""What carries the messages of a replica to the others: links, or what is put in front of them."""

from collections.abc import Sequence
from typing import Protocol

from pbft.messages import Envelope


class Speaker(Protocol):
    """`common.links.link.Links`, `node.diagnostics.capture.Capture`, or a faulty node's own."""

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Hand them over."""
