"""client.logs.log_pages: nothing of a log is missing from its pages, and each line is numbered."""

import html
import re
from pathlib import Path

import pytest

from client.logs import log_pages
from client.logs.log_pages import LogPage, log_page, page_table
from common.log_pieces import kept_sizes, marker

ANCHOR = re.compile(r'<a id="L(\d+)" href="#L\1" tabindex="-1">\1</a>')


def pages_of(file: Path) -> list[LogPage]:
    """All pages, in their order."""
    return [log_page(file, number + 1) for number in range(len(page_table(file).starts))]


def text_of(page: LogPage) -> str:
    """What is to be read on it, without the numbers."""
    return html.unescape(re.sub(r"<[^>]*>", "", ANCHOR.sub("", page.html)))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log_pages, "PAGE_BYTES_MAX", 100)
    monkeypatch.setattr(log_pages, "PAGE_LINES_MAX", 8)
    monkeypatch.setattr(log_pages, "_COUNTED_BYTES", 16)
    return tmp_path / "log"


@pytest.mark.parametrize(
    "data",
    [
        "",
        "one line",
        "one line\n",
        "".join(f"line {i} of some length\n" for i in range(1, 40)),
        "\n" * 100,
        "<b>&\n" * 33 + "the end",
        "x" * 99 + "\n" + "y" * 99 + "\n",
    ],
)
def test_all_lines_are_on_the_pages_once_and_in_order(file: Path, data: str) -> None:
    file.write_text(data)
    pages = pages_of(file)
    assert "".join(text_of(page) for page in pages) == data
    lines = len(data.splitlines())
    numbers = [int(number) for page in pages for number in ANCHOR.findall(page.html)]
    assert numbers == list(range(1, lines + 1))
    assert {page.lines for page in pages} == {lines}
    assert all(len(ANCHOR.findall(page.html)) <= log_pages.PAGE_LINES_MAX for page in pages)
    for page in pages[:-1]:
        assert page.last_line + 1 == pages[page.number].first_line
    table = page_table(file)
    for page in pages:
        for line in ANCHOR.findall(page.html):
            assert table.page_of_line(int(line)) == page.number


def test_a_line_longer_than_a_page_goes_on_and_both_pages_say_so(file: Path) -> None:
    file.write_text("short\n" + "é" * 120 + "\nafter\n")
    pages = pages_of(file)
    texts = [text_of(page) for page in pages]
    assert texts[1].endswith("[this line goes on on the next page]\n")
    assert texts[2].startswith("[line 2 began on the page before]\n")
    assert sum(text.count("é") for text in texts) == 120
    assert "\ufffd" not in "".join(texts)
    assert texts[-1].endswith("after\n")
    assert page_table(file).page_of_line(2) == 2
    assert ANCHOR.findall(pages[-1].html)[-1] == "3"


def test_what_was_cut_is_said_where_it_is_missing(file: Path) -> None:
    head, tail = kept_sizes(4096)
    file.write_bytes(b"a" * head + marker(12_345) + b"b" * tail)
    pages = pages_of(file)
    assert pages[0].cut_bytes == 12_345
    text = "".join(text_of(page) for page in pages)
    before, _, after = text.partition("[pbft-ci] ... 12345 bytes were cut here ...")
    assert before.count("a") >= head
    assert after.count("b") >= tail


def test_a_number_beyond_the_last_page_is_the_last_page(file: Path) -> None:
    file.write_text("line\n" * 30)
    assert log_page(file, 10**17).number == 4
    assert page_table(file).page_of_line(10**17) == 4


def test_colours_and_hostile_bytes(file: Path) -> None:
    file.write_bytes(b"\x1b[31mred <script>\x1b[0m\n\xff\x00\x1b]0;title\x07end\n")
    page = log_page(file, 1)
    assert '<span class="sgr-red">red &lt;script&gt;</span>' in page.html
    assert text_of(page) == "red <script>\n\ufffdend\n"
