"""client.logs.log_sections and log_search: steps as sections, folded but for what failed."""

import re
from pathlib import Path

import pytest

from client.logs import log_pages, log_search
from client.logs.log_pages import Reading, log_page, page_table
from client.logs.log_search import MATCHES_MAX, find_lines
from client.logs.log_sections import FAILED, IGNORED, PASSED, SECTIONS_MAX, UNKNOWN
from common.log_pieces import kept_sizes, marker

LOG = """\
[pbft-ci] https://example.org/r.git branch main commit abc
[pbft-ci] step lint (1 of 4)
+ make lint
[pbft-ci] step lint did not pass: exit code 2 after 0.1 s; ignored (failure: ignore)
[pbft-ci] step test (2 of 4)
+ make test
1 failed
[pbft-ci] step tell (4 of 4)
told
[pbft-ci] step test did not pass: exit code 1 after 2.0 s
[pbft-ci] failed, exit code 1
"""


def states_of(file: Path) -> list[tuple[str, str, int]]:
    return [(found.name, found.state, found.line) for found in page_table(file).sections]


def folded(html: str) -> list[tuple[str, bool]]:
    """The names of the sections on a page, and whether each is open."""
    found = re.findall(r'<details class="step"( open)?>.*?<strong>(.*?)</strong>', html)
    return [(name, bool(is_open)) for is_open, name in found]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text(LOG)
    return tmp_path / "log"


def test_each_step_has_its_state_and_its_first_line(file: Path) -> None:
    assert states_of(file) == [("lint", IGNORED, 2), ("test", FAILED, 5), ("tell", PASSED, 8)]


def test_only_what_failed_is_unfolded_and_the_line_that_is_asked_for(file: Path) -> None:
    page = log_page(file, 1)
    assert folded(page.html) == [("lint", False), ("test", True), ("tell", False)]
    assert page.html.count("<details") == page.html.count("</details>") == 3
    assert page.html.count("<span") == page.html.count("</span>")
    asked = log_page(file, 1, Reading(line=9))
    assert folded(asked.html) == [("lint", False), ("test", True), ("tell", True)]


def test_where_nothing_failed_nothing_is_folded(file: Path) -> None:
    file.write_text("[pbft-ci] step a (1 of 2)\nx\n[pbft-ci] step b (2 of 2)\n[pbft-ci] passed\n")
    assert states_of(file) == [("a", PASSED, 1), ("b", PASSED, 3)]
    assert folded(log_page(file, 1).html) == [("a", True), ("b", True)]


def test_a_log_that_breaks_off_does_not_say_how_its_last_step_ended(file: Path) -> None:
    file.write_text("[pbft-ci] step a (1 of 2)\nx\n[pbft-ci] step b (2 of 2)\ny\n")
    assert states_of(file) == [("a", PASSED, 1), ("b", UNKNOWN, 3)]


def test_cells_are_sections_too(file: Path) -> None:
    file.write_text(
        "[pbft-ci] cell py=3.11 (1 of 2)\n[pbft-ci] step t (1 of 1)\n"
        "[pbft-ci] cell py=3.11: passed, exit code 0\n"
        "[pbft-ci] cell py=3.12 (2 of 2)\n[pbft-ci] step t (1 of 1)\n"
        "[pbft-ci] step t did not pass: exit code 1 after 0.1 s\n"
        "[pbft-ci] cell py=3.12: failed, exit code 1\n[pbft-ci] failed, exit code 1\n"
    )
    assert states_of(file) == [
        *(("py=3.11", PASSED, 1), ("t", PASSED, 2)),
        *(("py=3.12", FAILED, 4), ("t", FAILED, 5)),
    ]


def test_a_section_that_goes_on_on_the_next_page_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_pages, "PAGE_LINES_MAX", 6)
    log_pages._table.cache_clear()
    first, second = (log_page(file, number) for number in (1, 2))
    assert folded(first.html) == [("lint", False), ("test", True)]
    assert folded(second.html) == [("test", True), ("tell", False)]
    assert "2 of 4, goes on" in second.html
    for page in (first, second):
        assert page.html.count("<details") == page.html.count("</details>")
        assert page.html.count("<span") == page.html.count("</span>")
    log_pages._table.cache_clear()


def test_a_build_may_write_such_lines_and_gets_so_many_sections(file: Path) -> None:
    file.write_text("[pbft-ci] step <b>x</b> (1 of 1)\n" * (SECTIONS_MAX + 5))
    assert len(page_table(file).sections) == SECTIONS_MAX
    assert "<b>" not in log_page(file, 1).html


def test_steps_and_lines_have_times(file: Path) -> None:
    place = {line: LOG.encode().index(line.encode()) for line in LOG.splitlines()}
    times = (
        *((0, 0), (place["[pbft-ci] step lint (1 of 4)"], 100)),
        *((place["[pbft-ci] step test (2 of 4)"], 1_300), (place["1 failed"], 61_500)),
        (place["[pbft-ci] step tell (4 of 4)"], 62_000),
    )
    page = log_page(file, 1, Reading(times, are_times_shown=True))
    assert [shown.took for shown in page.sections] == ["1.2 s", "1 min 00 s", "0 ms"]
    shown = re.findall(r'<span class="at">(.*?)</span>', page.html)
    assert shown[:2] == ["0:00.0", "0:00.1"]
    assert shown[6] == "1:01.5"
    assert '<span class="at">' not in log_page(file, 1, Reading(times)).html
    assert log_page(file, 1, Reading(times)).has_times
    assert [shown.took for shown in log_page(file, 1).sections] == ["", "", ""]


def test_times_count_what_was_cut(file: Path) -> None:
    head, tail = kept_sizes(4096)
    file.write_bytes(b"a" * head + marker(1000) + b"\n" + b"b" * (tail - 1))
    table = page_table(file)
    assert table.output_offset(head - 1) == head - 1
    assert table.output_offset(head + len(marker(1000))) == head + 1000
    assert table.output_offset(table.size) == head + 1000 + tail


def test_a_text_is_found_in_any_case_and_colour(file: Path) -> None:
    file.write_bytes(b"one\n\x1b[31mF\x1b[0mailed <x>\nTwo FAILED\n" + b"x" * 500 + b"failed")
    found = find_lines(file, "failed")
    assert [match.line for match in found.matches] == [2, 3, 4]
    assert (found.matches[0].found, found.matches[0].after) == ("Failed", " <x>")
    assert found.matches[2].before.startswith("\u2026")
    assert found.is_all
    assert find_lines(file, "nowhere").matches == ()


def test_only_so_many_lines_are_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("x\n" * (MATCHES_MAX + 1))
    found = find_lines(file, "x")
    assert (len(found.matches), found.is_all) == (MATCHES_MAX, False)
    monkeypatch.setattr(log_search, "LINE_BYTES_MAX", 10)
    file.write_text("y" * 25 + "x\n" + "x")
    assert [match.line for match in find_lines(file, "x").matches] == [1, 2]
