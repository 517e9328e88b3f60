"""What no replica may ever have said, looked for in the captures of everything that was sent."""

from collections import defaultdict
from pathlib import Path

from node.diagnostics.capture import read_capture
from pbft.codec import decode_message, digest_of
from pbft.messages import Checkpoint, Commit, NewView, Prepare, PrePrepare, Request, ViewChange
from tests.processes.network import ComparedNetwork


def broken_promises(network: ComparedNetwork) -> list[str]:
    """One line for each thing that a replica said twice, and differently."""
    lines: list[str] = []
    for name in network.node_names:
        lines.extend(broken_promises_of(name, network.capture_file(name)))
    return lines


def broken_promises_of(name: str, capture: Path) -> list[str]:
    """Two digests for one (phase, view, sequence); two states at one checkpoint; two requests
    with one number; two VIEW-CHANGEs or NEW-VIEWs for one view.

    Only what the replica signed itself: it also hands on what others signed.
    """
    said: dict[tuple[str, int, int], set[bytes]] = defaultdict(set)
    for _, signed in read_capture(capture):
        if signed.signer != name:
            continue
        message = decode_message(signed.payload)
        if isinstance(message, PrePrepare | Prepare | Commit):
            phase = type(message).__name__
            said[phase, message.view, message.sequence].add(message.digest)
        elif isinstance(message, ViewChange | NewView):
            said[type(message).__name__, message.view, 0].add(digest_of(signed.payload))
        elif isinstance(message, Checkpoint):
            said["Checkpoint", 0, message.sequence].add(message.digest)
        elif isinstance(message, Request):
            said["Request", 0, message.timestamp].add(digest_of(signed.payload))
    assert said, f"{capture} holds nothing that {name} signed"
    return [
        f"{name} signed {len(digests)} digests for {phase}, view {view}, number {number}"
        for (phase, view, number), digests in sorted(said.items())
        if len(digests) > 1
    ]
