"""The page about scale: its tables and plots are those of the report beside it."""

import xml.etree.ElementTree as ElementTree

import msgspec
import pytest

from bench.report import Report, from_json
from bench.scale import MEMBERS_PLOT, PAGE, REPORT, filled, measured, open_builds_most, plots


@pytest.fixture(scope="module")
def report() -> Report:
    return from_json(REPORT.read_bytes())


def test_the_page_has_the_tables_of_its_report(report: Report) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, report) == page


def test_the_plots_are_those_of_its_report(report: Report) -> None:
    for file, drawn in plots(report).items():
        assert file.read_text(encoding="utf-8") == drawn
        ElementTree.fromstring(drawn)


def test_another_report_gives_other_tables_and_another_plot(report: Report) -> None:
    page = PAGE.read_text(encoding="utf-8")
    halved = [
        msgspec.structs.replace(
            row,
            ratio=row.ratio and msgspec.structs.replace(row.ratio, median=row.ratio.median / 2),
        )
        for row in report.rows
    ]
    other = msgspec.structs.replace(report, rows=halved)
    assert filled(page, other) != page
    assert plots(other)[MEMBERS_PLOT] != plots(report)[MEMBERS_PLOT]


def test_a_report_that_lacks_a_bench_is_refused(report: Report) -> None:
    rows = [row for row in report.rows if row.bench != "links"]
    with pytest.raises(KeyError, match="links"):
        filled(PAGE.read_text(encoding="utf-8"), msgspec.structs.replace(report, rows=rows))


def test_a_page_without_a_place_for_a_table_is_refused(report: Report) -> None:
    page = PAGE.read_text(encoding="utf-8").replace("<!-- bounds: end -->", "")
    with pytest.raises(KeyError, match="bounds"):
        filled(page, report)


def test_what_a_report_says_of_four_replicas(report: Report) -> None:
    found = measured(report, 4)
    assert found.replicas == 4
    assert found.orders_per_second > 0
    assert found.node_bytes > 1000


def test_more_replicas_leave_room_for_fewer_open_builds() -> None:
    four, thirteen = open_builds_most(4, gateways=1), open_builds_most(13, gateways=1)
    assert four > thirteen > 256
    assert open_builds_most(4, gateways=4) < four
