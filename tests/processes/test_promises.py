"""The check of captures finds what it is there to find."""

from pathlib import Path

import msgspec
import pytest

from common.address import Address
from common.configuration.keys import SigningKey
from common.links.link import Inbox, Links
from common.web.peers import Peers
from node.diagnostics.capture import Capture
from pbft.authentication import Identity, sign_message
from pbft.codec import encode_message
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    Prepare,
    PrePrepare,
    Request,
    ViewChange,
)
from tests.processes.promises import broken_promises_of

ONE, OTHER = b"1" * 32, b"2" * 32
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("node0", "node1")}
CLUSTER = Cluster(
    Genesis(
        PROTOCOL_MIN,
        (Member("node0", KEYS["node0"].public_key, ("replica",)),),
        (Member("node1", KEYS["node1"].public_key, ("gateway",)),),
        8,
        16,
        64,
        b"",
    )
)


# the same replicas, after a change of the rules
NEXT = CLUSTER.succeeded_by(
    msgspec.structs.replace(CLUSTER.genesis, client_window=128), 16, b"\0" * 32
)


def links() -> Links:
    """To nobody."""
    return Links(
        Identity(CLUSTER, "node0", KEYS["node0"].sign),
        dial=Peers({"nobody": Address("127.0.0.1", 1)}),
        inbox=Inbox(lambda name, envelopes: None),
    )


def said(folder: Path, *messages: AnyMessage, signer: str = "node0") -> list[str]:
    """What the check finds where a replica said these."""
    file = folder / "node0.capture"
    capture = Capture(links(), file)
    for message in (Prepare(0, 1, ONE, 0), *messages):
        name = "node0" if message is not messages[-1] else signer
        signed = sign_message(
            message, encode_message(message), Identity(CLUSTER, name, KEYS[name].sign)
        )
        capture.send("node2", [Envelope(signed)])
    return broken_promises_of("node0", file)


@pytest.mark.parametrize(
    "pair",
    [
        (PrePrepare(0, 5, ONE, 0), PrePrepare(0, 5, OTHER, 0)),
        (Prepare(0, 5, ONE, 0), Prepare(0, 5, OTHER, 0)),
        (Commit(3, 5, ONE, 0), Commit(3, 5, OTHER, 0)),
        (Checkpoint(8, ONE, 0), Checkpoint(8, OTHER, 0)),
        (Request("node0", 5, b"one"), Request("node0", 5, b"other")),
    ],
)
def test_two_digests_for_one_place_are_found(
    tmp_path: Path, pair: tuple[AnyMessage, AnyMessage]
) -> None:
    (line,) = said(tmp_path, *pair)
    assert line.startswith("node0 signed 2 digests for ")
    assert type(pair[0]).__name__ in line


@pytest.mark.parametrize(
    "pair",
    [
        (Prepare(0, 5, ONE, 0), Prepare(0, 5, ONE, 0)),
        (Prepare(0, 5, ONE, 0), Prepare(0, 6, OTHER, 0)),
        (Prepare(0, 5, ONE, 0), Prepare(1, 5, OTHER, 0)),
        (Prepare(0, 5, ONE, 0), Commit(0, 5, OTHER, 0)),
    ],
)
def test_what_may_be_said_is_not_found(tmp_path: Path, pair: tuple[AnyMessage, AnyMessage]) -> None:
    assert said(tmp_path, *pair) == []


def test_what_others_signed_is_not_held_against_it(tmp_path: Path) -> None:
    pair = (Prepare(0, 5, ONE, 0), Prepare(0, 5, OTHER, 0))
    assert said(tmp_path, *pair, signer="node1") == []


def in_epochs(folder: Path, *words: tuple[int, int]) -> list[str]:
    """What is found where a replica signed a VIEW-CHANGE (its stable number) in each epoch."""
    file = folder / "node0.capture"
    capture, clusters = Capture(links(), file), [CLUSTER, NEXT]
    for epoch, stable in words:
        message = ViewChange(1, stable, (), (), 0)
        identity = Identity(clusters[epoch], "node0", KEYS["node0"].sign)
        capture.send("node2", [Envelope(sign_message(message, encode_message(message), identity))])
    return broken_promises_of("node0", file, clusters)


def test_another_digest_in_another_epoch_is_no_contradiction(tmp_path: Path) -> None:
    assert in_epochs(tmp_path, (0, 0), (1, 8)) == []


def test_two_digests_in_a_later_epoch_are_found(tmp_path: Path) -> None:
    (line,) = in_epochs(tmp_path, (0, 0), (1, 0), (1, 8))
    assert line == "node0 signed 2 digests for ViewChange, view 1, number 0, in epoch 1"


def test_an_empty_capture_proves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "node0.capture"
    file.write_bytes(b"\n")
    with pytest.raises(AssertionError, match="holds nothing that node0 signed"):
        broken_promises_of("node0", file)
