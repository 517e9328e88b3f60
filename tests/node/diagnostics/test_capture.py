"""What is sent is in the file before it is sent, and a crash costs at most the line it cut."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from node.diagnostics.capture import Capture, read_capture
from pbft.messages import Envelope, Signed


class SpyLinks:
    """Notes what was in the file at the moment of sending."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sent: list[tuple[str, tuple[Envelope, ...]]] = []
        self.seen: list[list[tuple[str, Signed]]] = []

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        self.sent.append((to, tuple(envelopes)))
        self.seen.append(list(read_capture(self.file)))


def _envelope(number: int) -> Envelope:
    return Envelope(Signed("node0", b"payload %d" % number, bytes(64)), b"body")


def _capture(file: Path) -> tuple[Capture, SpyLinks]:
    links = SpyLinks(file)
    return Capture(links, file), links  # type: ignore[arg-type]


def test_it_is_in_the_file_before_it_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "captures" / "node0"
    capture, links = _capture(file)
    one, two, three = map(_envelope, (1, 2, 3))
    capture.send("node1", [one, two])
    capture.send("node2", [three])
    assert links.sent == [("node1", (one, two)), ("node2", (three,))]
    first = [("node1", one.signed), ("node1", two.signed)]
    assert links.seen == [first, [*first, ("node2", three.signed)]]


@pytest.mark.parametrize("cut_bytes", [1, 2, 3, 20, 60])
def test_a_line_that_a_crash_cut_costs_no_other(tmp_path: Path, cut_bytes: int) -> None:
    file = tmp_path / "node0"
    capture, _ = _capture(file)
    capture.send("node1", [_envelope(1)])
    capture.send("node1", [_envelope(2)])
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - cut_bytes)
    again, _ = _capture(file)
    again.send("node1", [_envelope(3)])
    kept = [signed for _, signed in read_capture(file)]
    # Of a line that lacks nothing but its end, the message itself is there.
    whole = [1, 2, 3] if cut_bytes == 1 else [1, 3]
    assert kept == [_envelope(number).signed for number in whole]


def test_a_file_that_cannot_be_written_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        _capture(tmp_path / "file" / "below")
