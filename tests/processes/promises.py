"""What no replica may ever have said, looked for in the captures of everything that was sent."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common.configuration.keys import verify
from node.diagnostics.capture import read_capture
from pbft.authentication import Authenticator
from pbft.codec import decode_message, digest_of
from pbft.genesis import Cluster
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    ViewChange,
)
from tests.processes.network import ComparedNetwork


def broken_promises(network: ComparedNetwork, epochs: Sequence[Cluster] = ()) -> list[str]:
    """One line for each thing that a replica said twice, and differently.

    epochs: the cluster of each epoch, if members changed.
    """
    lines: list[str] = []
    for name in (*network.node_names, *network.former_names):
        lines.extend(broken_promises_of(name, network.capture_file(name), epochs))
    return lines


def broken_promises_of(name: str, capture: Path, epochs: Sequence[Cluster] = ()) -> list[str]:
    """Two digests for one (phase, view, sequence); two states at one checkpoint; two requests
    with one number; two VIEW-CHANGEs or NEW-VIEWs for one view.

    Only what the replica signed itself: it also hands on what others signed. Each epoch begins anew
    with views and numbers, so there only what was signed in one and the same epoch counts.
    """
    said: dict[tuple[str, int, int], dict[bytes, set[Signed]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for _, signed in read_capture(capture):
        if signed.signer != name:
            continue
        message = decode_message(signed.payload)
        if isinstance(message, PrePrepare | Prepare | Commit):
            place = type(message).__name__, message.view, message.sequence
            said[place][message.digest].add(signed)
        elif isinstance(message, ViewChange | NewView):
            place = type(message).__name__, message.view, 0
            said[place][digest_of(signed.payload)].add(signed)
        elif isinstance(message, Checkpoint):
            said["Checkpoint", 0, message.sequence][message.digest].add(signed)
        elif isinstance(message, Request):
            place = "Request", 0, message.timestamp
            said[place][digest_of(signed.payload)].add(signed)
    assert said, f"{capture} holds nothing that {name} signed"
    authenticators = [Authenticator(cluster, verify) for cluster in epochs]
    lines: list[str] = []
    for (phase, view, number), digests in sorted(said.items()):
        if len(digests) < 2:
            continue
        of_epoch: dict[int | None, set[bytes]] = defaultdict(set)
        for digest, words in digests.items():
            for signed in words:
                of_epoch[_epoch_of(signed, authenticators)].add(digest)
        lines.extend(
            f"{name} signed {len(found)} digests for {phase}, view {view}, number {number}"
            + ("" if epoch is None else f", in epoch {epoch}")
            for epoch, found in of_epoch.items()
            if len(found) > 1
        )
    return lines


def _epoch_of(signed: Signed, authenticators: Sequence[Authenticator]) -> int | None:
    """In which epoch it was signed; None: in none of these."""
    message = decode_message(signed.payload)
    for epoch, authenticator in enumerate(authenticators):
        if authenticator.check(signed, message) is None:
            return epoch
    return None
