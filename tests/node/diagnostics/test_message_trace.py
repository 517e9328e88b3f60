"""Which messages a build was made of, and what is kept of them."""

from pathlib import Path

import msgspec

from ci.ledger import VerdictEntry, decode_entry
from client.dashboard.build_diagram import build_diagram
from client.network.nodes import ServedTrace, decode_answer
from common.diagram.message_diagram import draw
from node.diagnostics.message_trace import (
    KEY_BYTES,
    MESSAGES_MAX,
    PAYLOAD_BYTES_MAX,
    Heading,
    MessageTrace,
)
from pbft.codec import digest_of, encode_message
from pbft.messages import Envelope, PreparedCertificate, Signed, StateParts, ViewChange
from pbft.ports import Event, Output
from pbft.quorums import quorums_for
from tests.node.local_network import NAMES, Network
from tests.waiting import wait_until


def envelope(number: int, size: int = 8) -> Envelope:
    return Envelope(Signed("node1", number.to_bytes(size, "big"), bytes(64)))


def test_what_is_kept_is_bounded_in_number_and_size() -> None:
    trace = MessageTrace("node0", lambda: 1.0)
    trace.note_received("node1", [envelope(n) for n in range(MESSAGES_MAX + 10)])
    trace.note_received("node1", [envelope(1, PAYLOAD_BYTES_MAX + 1)])
    kept = list(trace.newest())
    assert len(kept) == MESSAGES_MAX
    assert max(len(logged.signed.payload) for logged in kept) <= PAYLOAD_BYTES_MAX


def test_of_a_long_view_change_the_heading_is_kept() -> None:
    """With the certificates of a full window it is longer than what is kept whole."""
    trace = MessageTrace("node0", lambda: 1.0)
    certificate = PreparedCertificate(Signed("node0", bytes(4000), bytes(64)), ())
    message = ViewChange(3, 0, (), (certificate,) * 8, 1)
    payload = encode_message(message)
    assert len(payload) > PAYLOAD_BYTES_MAX
    trace.note_received("node1", [Envelope(Signed("node1", payload, bytes(64)))])
    (kept,) = trace.newest()
    assert kept.signed.payload == b""
    assert kept.message() == Heading("ViewChange", 3, 1, 8, digest_of(payload)[:KEY_BYTES])
    other = encode_message(StateParts(1, (("x", bytes(20_000)),), 1))
    trace.note_received("node1", [Envelope(Signed("node1", other, bytes(64)))])
    trace.note_received("node1", [Envelope(Signed("node1", payload[:-1] + b"\x07\x07", b""))])
    assert list(trace.newest()) == [kept]


def test_a_build_that_nobody_ordered_has_no_messages() -> None:
    assert MessageTrace("node0").of_build(bytes(32)) is None


async def test_a_build_is_its_request_its_ballots_and_their_phases(tmp_path: Path) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name)
    try:
        network.submit(1)
        store = network.stores["node1"]
        await wait_until(lambda: network.verdicts("node1") == 1, "the verdict")
        entry = decode_entry(store.ledger.entries(1, 1)[0].body)
        assert isinstance(entry, VerdictEntry)
        build = bytes.fromhex(entry.build)
        await wait_until(lambda: len(store.ballots.of(build)) == 4, "all ballots")
        trace = network.runtimes["node1"].trace.of_build(build)
        assert trace is not None
        kinds = {row.kind for row in trace.messages}
        assert {"Request", "PrePrepare", "Prepare", "Commit", "Ballot"} <= kinds
        assert trace.built is not None
        assert {moment.event for moment in trace.moments} == {"prepared", "executed"}
        cast = {row.text.split()[1] for row in trace.messages if row.kind == "Ballot"}
        assert cast == set(NAMES)
        assert [row.at for row in trace.messages] == sorted(row.at for row in trace.messages)
    finally:
        await network.close()


def test_the_same_words_may_be_refused_once_and_taken_later() -> None:
    """A VIEW-CHANGE whose signature was garbled on the way, and then came whole."""
    times = iter((1.0, 1.0, 2.0))
    trace = MessageTrace("node0", lambda: next(times))
    payload = encode_message(ViewChange(1, 0, (), (), 1))
    output = Output()
    output.events.append(Event("refused", {"signer": "node1", "reason": "bad signature"}))
    trace.note_received("node1", [Envelope(Signed("node1", payload, bytes(64)))])
    trace.note_outputs([output])
    trace.note_received("node1", [Envelope(Signed("node1", payload, b"\x01" * 64))])
    rows = [trace._row(logged, "ViewChange") for logged in trace.newest()]
    assert [row.refused for row in rows] == [None, "bad signature"]


def test_a_refusal_is_laid_to_its_message() -> None:
    trace = MessageTrace("node0", lambda: 1.0)
    bad = envelope(1)
    trace.note_received("node1", [bad])
    output = Output()
    output.events.append(Event("refused", {"signer": "node1", "reason": "malformed: x"}))
    trace.note_outputs([output])
    assert list(trace._refusals.values()) == ["malformed: x"]


async def test_the_diagram_of_four_nodes_is_drawn(tmp_path: Path) -> None:
    """Over JSON, as the gateway gets it."""
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name)
    try:
        network.submit(1)
        await wait_until(lambda: all(network.verdicts(n) == 1 for n in NAMES), "the verdicts")
        entry = decode_entry(network.stores["node0"].ledger.entries(1, 1)[0].body)
        assert isinstance(entry, VerdictEntry)
        build = bytes.fromhex(entry.build)
        traces = {
            name: decode_answer(
                msgspec.json.encode(network.runtimes[name].trace.of_build(build)), ServedTrace, name
            )
            for name in NAMES
        }
    finally:
        await network.close()
    diagram = build_diagram("t", NAMES, "client", traces=traces, quorums=quorums_for(4))
    prepares = [arrow for arrow in diagram.arrows if arrow.kind == "Prepare"]
    assert {(arrow.source, arrow.target) for arrow in prepares} >= {("node1", "node2")}
    assert all(arrow.arrived is not None and arrow.sent <= arrow.arrived for arrow in prepares)
    requests = [arrow for arrow in diagram.arrows if arrow.kind == "Request"]
    assert {arrow.source for arrow in requests} == {"client"}
    assert {bar.text.split(": ")[1] for bar in diagram.bars} == {"passed 0"}
    assert not any(mark.kind == "dissent" for mark in diagram.marks)
    dissent = build_diagram(
        "t", NAMES, "client", traces=traces, quorums=quorums_for(4), dissenting=("node2",)
    )
    (mark,) = [mark for mark in dissent.marks if mark.kind == "dissent"]
    assert (mark.lane, mark.text) == ("node2", "dissents: passed 0")
    assert "a ballot that differs" in draw(dissent)
