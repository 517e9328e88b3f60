"""client.logs.build_output: nothing that a build writes can steer a terminal or a page."""

import html.parser
import random
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.logs.build_output import BuildOutput, Span, html_of, terminal_text

# What hostile output is made of: every kind of sequence, whole and broken.
ATOMS = st.sampled_from(
    [
        b"text", b"\n", b"\r", b"\r\n", b"\t", b"\x00", b"\x07", b"\x08", b"\x7f", b"\x1b",
        b"\x1b[", b"\x1b[31m", b"\x1b[0m", b"\x1b[1;4;97;41m", b"\x1b[38;5;9m", b"\x1b[2J",
        b"\x1b[38;2;1;2;3m", b"\x1b[?1049h", b"\x1b]0;title\x07", b"\x1b]8;;http://x\x1b\\",
        b"\x1bP", b"\x9b", b"\xc2\x9b31m", b"\xc2\x9d", b"\xe2\x80\xae", b"\xe2", b"\x80",
        b"\xff", b"<script>", b"&amp;", b"\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb",
        b"\xe2\x81\xa6", b"\x1b(0", b"\x1bc", b"\x18", b"0;1", b"m", b"\xe2\x80\xa8",
        b"\xc2\xa0", b"\xf3\xa0\x81\x81",
    ]
)  # fmt: skip
OUTPUT = st.lists(ATOMS, max_size=30).map(b"".join)


def spans_of(*pieces: bytes) -> list[Span]:
    output = BuildOutput()
    spans = [span for piece in pieces for span in output.take(piece)]
    return joined([*spans, *output.take(b"", is_last=True)])


def joined(spans: list[Span]) -> list[Span]:
    result: list[Span] = []
    for span in spans:
        if result and result[-1].style == span.style:
            result[-1] = Span(span.style, result[-1].text + span.text)
        else:
            result.append(span)
    return result


def text_of(*pieces: bytes) -> str:
    return "".join(span.text for span in spans_of(*pieces))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n\ttext\n", "plain\n\ttext\n"),
        ("gr\u00fcn \u4f60\u597d".encode(), "gr\u00fcn \u4f60\u597d"),
        (b"a\r\nb\r\r\nc", "a\nb\nc"),
        (b"10%\r20%\r\r30%\n\rnext", "10%\n20%\n30%\nnext"),
        (b"a\x00b\x07c\x08d\x7fe", "abcde"),
        (b"a\x1b[2Jb\x1b[10;20Hc\x1b[?1049hd\x1b(0e\x1bcf\x1b7g", "abcdefg"),
        (b"a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c\x1bPdevice\x1b\\d", "abcd"),
        # the same in one-character controls, which terminals obey as well
        ("a\u009b2Jb\u009d0;title\x07c\u0085d".encode(), "abcd"),
        (b"a\x1b]never ended\nb", "a\nb"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\xe2\x82", "a\ufffd"),
        (b"a\x1b", "a"),
        (b"a\x1b[3", "a[3"),
        # right-to-left override, isolate, zero width space, line separator, byte order mark, tag
        ("\u202ea\u2066b\u200bc\u2028d\ufeffe\U000e0041".encode(),
         "<U+202E>a<U+2066>b<U+200B>c<U+2028>d<U+FEFF>e<U+E0041>"),
        ("a\u00a0b\u3000c".encode(), "a b c"),
        # a sign of three, joined
        ("\U0001f469\u200d\U0001f4bb".encode(), "\U0001f469\u200d\U0001f4bb"),
    ],
)  # fmt: skip
def test_what_is_shown(data: bytes, text: str) -> None:
    assert text_of(data) == text


def test_styles_are_names() -> None:
    data = b"a\x1b[1;31mb\x1b[22mc\x1b[44;97md\x1b[39;49me\x1b[38;5;9mf\x1b[38;2;1;2;3mg\x1b[mh"
    assert spans_of(data) == [
        Span((), "a"),
        Span(("bold", "red"), "b"),
        Span(("red",), "c"),
        Span(("bright-white", "on-blue"), "d"),
        Span((), "e"),
        Span(("bright-red",), "f"),
        Span((), "gh"),
    ]


@pytest.mark.parametrize(
    "sequence", [b"\x1b[31", b"\x1b[>31m", b"\x1b[3 1m", b"\x1b[31$m", b"\x1b[999999999999999m"]
)
def test_what_is_no_style_changes_none(sequence: bytes) -> None:
    assert all(span.style == () for span in spans_of(sequence + b" text"))


def test_a_sequence_without_an_end_is_bounded() -> None:
    output = BuildOutput()
    for _ in range(100):
        output.take(b"\x1b[" + b"1;" * 10_000)
        assert output.held_bytes <= 100
        output.take(b"\x1b]" + b"x" * 10_000)
        assert output.held_bytes <= 100
    assert "still here" in "".join(span.text for span in output.take(b"\nstill here"))


def test_many_small_pieces_of_one_style_are_linear_work() -> None:
    """No time is asserted but for what would be wrong by orders (joined one by one: minutes)."""
    began_at = time.process_time()
    spans = BuildOutput().take(b"a\r" * 800_000, is_last=True)
    assert time.process_time() - began_at < 60
    assert spans == [Span((), "a\n" * 800_000)]


@settings(deadline=None)
@given(OUTPUT, st.integers(0, 2**32))
def test_it_does_not_matter_where_the_bytes_are_cut(data: bytes, seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert spans_of(*pieces) == spans_of(data)


@settings(deadline=None)
@given(OUTPUT)
def test_nothing_gets_through(data: bytes) -> None:
    for span in spans_of(data):
        assert span.text
        for sign in span.text:
            assert sign in "\n\t\u200c\u200d" or sign == " " or sign.isprintable()
            assert unicodedata.bidirectional(sign) not in {
                "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"
            }  # fmt: skip


class _Reader(html.parser.HTMLParser):
    """Reads HTML back, as a browser would."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(deadline=None)
@given(OUTPUT)
def test_html_holds_the_same_text_and_no_tag_but_ours(data: bytes) -> None:
    spans = spans_of(data)
    reader = _Reader()
    reader.feed(html_of(spans))
    reader.close()
    assert reader.text == "".join(span.text for span in spans)
    assert all(tag == "span" and [name for name, _ in attrs] == ["class"]
               for tag, attrs in reader.tags)  # fmt: skip


def test_html() -> None:
    spans = [Span(("bold", "red", "on-black"), '<a href="x">'), Span((), "&\n")]
    assert html_of(spans) == (
        '<span class="sgr-bold sgr-red sgr-on-black">&lt;a href=&quot;x&quot;&gt;</span>&amp;\n'
    )


def test_a_terminal_gets_the_styles_and_their_end() -> None:
    spans = [Span(("bold", "bright-red", "on-blue"), "a\n\nb"), Span((), "c")]
    assert terminal_text(spans) == "\x1b[1;91;44ma\x1b[0m\n\n\x1b[1;91;44mb\x1b[0mc"


@settings(deadline=None)
@given(OUTPUT)
def test_a_terminal_gets_nothing_but_styles(data: bytes) -> None:
    """What is written for a terminal, read again, is the same: there is nothing else in it."""
    spans = spans_of(data)
    assert signs_of(spans_of(terminal_text(spans).encode())) == signs_of(spans)


def signs_of(spans: list[Span]) -> list[tuple[str, tuple[str, ...]]]:
    """Each sign in its style; the end of a line has none."""
    return [(sign, () if sign == "\n" else span.style) for span in spans for sign in span.text]


@settings(deadline=None)
@given(OUTPUT, st.integers(0, 200))
def test_whoever_goes_on_from_what_was_decided_misses_nothing(data: bytes, cut: int) -> None:
    """Apart from a style, or a string that had begun: those are forgotten."""
    output = BuildOutput()
    first = output.take(data[:cut])
    begun = min(cut, len(data)) - output.held_bytes
    if output._string_characters_left:
        return
    rest = BuildOutput()
    rest._is_line_begun = output._is_line_begun
    later = [*rest.take(data[begun:]), *rest.take(b"", is_last=True)]
    assert "".join(span.text for span in [*first, *later]) == text_of(data)
