"""Random reports: equal results in pieces of any size and in any process, and as another reader
says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.case_results import CaseOutcome, decode_report
from common.junit import junit_report
from common.junit.junit_report import FoundCases
from tests.common.junit.random_reports import digest_of, outcome_of, random_report
from tests.thoroughness import times

ROOT = Path(__file__).resolve().parents[3]
SEEDS = 3_000


def _each_case(element: ET.Element, suites: tuple[str, ...]) -> Iterator[tuple[str, CaseOutcome]]:
    """As the docstring of common.junit.junit_report says it, over a tree."""
    for child in element:
        if child.tag == "testsuite":
            yield from _each_case(child, (*suites, child.get("name", "")))
        elif child.tag == "testcase":
            parts = [
                " ".join(part.split())
                for part in (*suites, child.get("classname", ""), child.get("name", ""))
            ]
            named = [part for part in parts if part]
            kept = [p for n, p in enumerate(named) if n == 0 or p != named[n - 1]]
            tags = {inner.tag for inner in child}
            if tags & {"failure", "error"}:
                outcome = CaseOutcome.FAILED
            elif tags & {"flakyFailure", "flakyError"}:
                outcome = CaseOutcome.WARNED
            else:
                outcome = CaseOutcome.SKIPPED if "skipped" in tags else CaseOutcome.PASSED
            yield "::".join(kept) or "(unnamed)", outcome


names = st.text("ab é\u0301<&\"'>\n", max_size=4)
outcome_tags = st.lists(
    st.sampled_from(["failure", "error", "skipped", "flakyFailure", "flakyError", "system-out"]),
    max_size=3,
)


@st.composite
def suites(draw: st.DrawFn, depth: int = 3) -> str:
    cases = [
        f"<testcase name={quoteattr(name)} classname={quoteattr(of)}>"
        + "".join(f"<{tag}>text</{tag}>" for tag in tags)
        + "</testcase>"
        for name, of, tags in draw(st.lists(st.tuples(names, names, outcome_tags), max_size=4))
    ]
    inner = draw(st.lists(suites(depth - 1), max_size=2)) if depth else []
    return f"<testsuite name={quoteattr(draw(names))}>{''.join(cases + inner)}</testsuite>"


@given(suites())
def test_what_is_well_formed_is_read_as_a_tree_would_say(suite: str) -> None:
    data = f"<testsuites>{suite}</testsuites>"
    expected: dict[str, CaseOutcome] = {}
    order = ["skipped", "passed", "warned", "failed"]
    for case, outcome in _each_case(ET.fromstring(data), ()):
        expected[case] = max(outcome, expected.get(case, outcome), key=order.index)
    found = FoundCases("/workspace")
    found.add("x", data.encode())
    assert {case: one.outcome for case, one in found.cases.items()} == expected


@pytest.mark.parametrize("bytes_of_a_piece", [1, 2, 7])
def test_pieces_of_any_size_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, bytes_of_a_piece: int
) -> None:
    reports = [random_report(seed) for seed in range(SEEDS // 3)]
    whole = [outcome_of(data) for data in reports]
    assert len({outcome for outcome in whole if not outcome.startswith(b"refused")}) > 20
    monkeypatch.setattr(junit_report, "_PIECE_BYTES", bytes_of_a_piece)
    for data, outcome in zip(reports, whole, strict=True):
        assert outcome_of(data) == outcome, data


def _try(first: int, count: int) -> None:
    """Each result is canonical, and another process has the same ones."""
    program = f"from tests.common.junit.random_reports import *; print(digest_of({first}, {count}))"
    with subprocess.Popen(
        (sys.executable, "-c", program), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        here = digest_of(first, count)
        assert process.stdout is not None
        assert process.stdout.read().strip() == here


@pytest.mark.short
def test_another_process_has_the_same_results() -> None:
    for seed in range(SEEDS):
        if not (outcome := outcome_of(random_report(seed))).startswith(b"refused"):
            decode_report(outcome)
    _try(0, SEEDS)


@pytest.mark.long
def test_another_process_has_the_same_results_of_very_many() -> None:
    _try(SEEDS, times(100_000))
