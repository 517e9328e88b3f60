"""client.dashboard.build_diagram: whatever a node says of its messages, there is a picture."""

import msgspec
import pytest

from client.dashboard.build_diagram import build_diagram
from client.network.nodes import (
    TRACE_CHARACTERS_MAX,
    TRACE_ROWS_MAX,
    NodeFailed,
    ServedMessage,
    ServedMoment,
    ServedTrace,
    decode_answer,
)
from common.diagram.message_diagram import Diagram, draw
from pbft.quorums import quorums_for

REPLICAS = ("r0", "r1", "r2", "r3")


def message(at: float, direction: str, peer: str, kind: str, text: str = "") -> ServedMessage:
    return ServedMessage(at, direction, peer, kind, "key", text, None)


def trace(*messages: ServedMessage, built: tuple[float, float] | None = None) -> ServedTrace:
    return ServedTrace(messages, (), built)


def diagram_of(**traces: ServedTrace) -> Diagram:
    diagram = build_diagram("t", REPLICAS, "gateway", traces=traces, quorums=quorums_for(4))
    assert draw(diagram)
    return diagram


def test_an_arrow_begins_when_its_message_was_sent_last_before() -> None:
    sender = trace(
        message(3.0, "sent", "r1", "Prepare"),
        message(1.0, "sent", "all", "Prepare"),
        message(9.0, "sent", "all", "Prepare"),
    )
    receiver = trace(message(2.0, "received", "r0", "Prepare"))
    again = trace(message(4.0, "received", "r0", "Prepare"))
    unsent = trace(message(0.5, "received", "r0", "Prepare"))
    arrows = diagram_of(r0=sender, r1=receiver).arrows
    assert [(arrow.sent, arrow.arrived) for arrow in arrows] == [(1.0, 2.0)]
    assert [arrow.sent for arrow in diagram_of(r0=sender, r1=again).arrows] == [3.0]
    assert [arrow.sent for arrow in diagram_of(r0=sender, r1=unsent).arrows] == [0.5]


def test_a_ballot_is_told_beside_its_build() -> None:
    text = "from r1 client=r1 timestamp=7 operation=abc ballot=failed 3"
    diagram = diagram_of(r1=trace(message(2.0, "sent", "all", "Ballot", text), built=(1.0, 2.0)))
    assert [bar.text for bar in diagram.bars] == ["1.0 s: failed 3"]


def test_the_words_of_a_liar_hold_nobody_up() -> None:
    """Each of these was an error page, or a gateway that answers nobody for as long as it took."""
    long = "from x " * (TRACE_CHARACTERS_MAX // 7)
    ballots = [message(1.0, "sent", "all", "Ballot", long) for _ in range(500)]
    number = "view=" + "9" * (TRACE_CHARACTERS_MAX - 5)
    diagram = diagram_of(
        r0=trace(message(1.0, "received", "r1", "PrePrepare", number), *ballots),
        r1=trace(message(-1e308, "received", "r0", "Reply"), built=(-1e308, 1e308)),
    )
    assert "r0" not in diagram.roles


@pytest.mark.parametrize(
    "served",
    [
        trace(message(1.0, "sent", "all", "Reply", "x" * (TRACE_CHARACTERS_MAX + 1))),
        trace(*[message(1.0, "sent", "all", "Reply")] * (TRACE_ROWS_MAX + 1)),
        ServedTrace((), (ServedMoment(1.0, "stable", {}),) * (TRACE_ROWS_MAX + 1), None),
    ],
)
def test_more_than_a_node_keeps_is_no_answer(served: ServedTrace) -> None:
    with pytest.raises(NodeFailed, match="r0"):
        decode_answer(msgspec.json.encode(served), ServedTrace, "r0")
