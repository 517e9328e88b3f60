"""The table and the JSON of a run."""

import json

import pytest

from bench.figures import Spread
from bench.machine import Machine, file_system, read_machine
from bench.report import Report, as_json, as_table, from_json, in_words, number
from bench.rows import Row, State, Target
from scripts.folders import ROOT

MEASURED = Row(
    bench="noop",
    what="operations",
    against="the bound",
    target=Target(0.6, is_floor=True),
    ratio=Spread(0.7, 0.65, 0.812345, 5),
    figures={"operations/s": 4321.0, "p50 ms": 3.14159},
)
MISSED = Row(
    bench="accept", what="a | b", against="x", target=Target(2), ratio=Spread(2.5, 2.0, 3.0, 3)
)
LATER = Row(bench="verdict", what="minimal", against="c", state=State.NOT_THERE_YET)


def test_the_table_has_a_line_for_each_row_all_of_one_width() -> None:
    lines = as_table([MEASURED, MISSED, LATER]).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert "| >= 0.6 | 0.7 (0.65 - 0.812, 5)" in lines[2]
    assert "| yes | operations/s 4,321, p50 ms 3.14 |" in lines[2]
    assert "| NO " in lines[3]


def test_a_stroke_in_a_text_does_not_make_a_column() -> None:
    assert all(line.count("|") == 7 for line in as_table([MISSED]).splitlines())


def test_what_was_not_measured_has_no_number() -> None:
    line = as_table([LATER]).splitlines()[2]
    assert "not there yet" in line
    assert LATER.is_met is None


@pytest.mark.parametrize(
    ("target", "value", "is_met"),
    [
        (Target(2.0), 2.0, True),
        (Target(2.0), 2.01, False),
        (Target(0.9, is_floor=True), 0.9, True),
        (Target(0.9, is_floor=True), 0.89, False),
    ],
)
def test_a_target_is_a_ceiling_or_a_floor(target: Target, value: float, is_met: bool) -> None:
    assert target.is_met(value) is is_met


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.012345, "0.0123"), (3.14159, "3.14"), (999.4, "999"), (123456.0, "123,456")],
)
def test_numbers_have_at_least_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_progress_says_whether_the_target_is_met() -> None:
    assert "(target >= 0.6: yes)" in in_words(MEASURED)
    assert "(target <= 2: NO)" in in_words(MISSED)


def test_a_report_comes_back_from_its_json() -> None:
    report = Report(
        command="python -m bench all",
        began_at="2026-01-01T00:00:00+00:00",
        seconds=1.5,
        is_quick=True,
        machine=read_machine(ROOT),
        rows=[MEASURED, MISSED, LATER],
    )
    data = as_json(report)
    assert from_json(data) == report
    assert json.loads(data)["rows"][0]["ratio"]["median"] == 0.7


def test_the_machine_is_described() -> None:
    machine: Machine = read_machine(ROOT)
    assert machine.cores >= 1
    assert machine.memory_mib > 100
    assert machine.file_system != "unknown"


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    mounts = (
        "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/with\\040space xfs rw 0 0\n"
    )
    assert file_system(ROOT.parent / "anything", "/dev/vda / ext4 rw 0 0\n") == "ext4"
    for folder, kind in {"/tmp/x": "tmpfs", "/tmpx": "ext4", "/tmp/with space/y": "xfs"}.items():
        assert file_system(ROOT / folder, mounts) == kind
