"""client.network.case_details, and what the gateway keeps of them."""

import msgspec
import pytest

from ci.case_results import CaseOutcome, encode_report, report_sha256
from client.gateway.collector import (
    MESSAGE_CHARACTERS_MAX,
    MESSAGES_CHARACTERS_MAX,
    MESSAGES_MAX,
    SLOWEST_MAX,
    extract_of,
)
from client.network.case_details import ServedCase, WrongDetails, checked_cases

FAILED, PASSED, WARNED = CaseOutcome.FAILED, CaseOutcome.PASSED, CaseOutcome.WARNED
REPORT = encode_report({"a": FAILED, "b": PASSED})
DIGEST = report_sha256(REPORT)
ROWS = [["a", "failed", 1.5, "why", "report.xml"], ["b", "passed", None, None, "report.xml"]]


def served(rows: object, **more: object) -> bytes:
    return msgspec.json.encode({"report_sha256": DIGEST, "cases": rows, **more})


def test_cases_are_believed_for_their_digest() -> None:
    found = checked_cases(served(ROWS, problem=None, later="field"), DIGEST)
    assert found.report == REPORT
    assert [case.message for case in found.cases] == ["why", None]
    assert checked_cases(served([*ROWS[::-1]]), DIGEST).report == REPORT


@pytest.mark.parametrize(
    "data",
    [
        served([ROWS[0], ["b", "failed", None, None, ""]]),
        served(ROWS[:1]),
        served([ROWS[0], ["b", "odd", None, None, ""]]),
        served([ROWS[0], ["b", "passed", -1, None, ""]]),
        served([["a"]]),
        served(None),
        b"[]",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_other_bytes_are_wrong(data: bytes) -> None:
    with pytest.raises(WrongDetails) as wrong:
        checked_cases(data, DIGEST)
    assert "\n" not in str(wrong.value)


def test_messages_of_what_did_not_pass_are_kept() -> None:
    cases = [
        ServedCase("a", FAILED, 0.5, "x" * (MESSAGE_CHARACTERS_MAX + 1)),
        ServedCase("b", WARNED, None, "again"),
        ServedCase("c", PASSED, 2.0, "nobody asks"),
        ServedCase("d", FAILED),
    ]
    extract = extract_of(cases)
    assert extract.messages == {"a": "x" * MESSAGE_CHARACTERS_MAX, "b": "again"}
    assert extract.slowest == (("c", 2.0), ("a", 0.5))


@pytest.mark.parametrize("length", [1, MESSAGE_CHARACTERS_MAX])
def test_an_extract_is_bounded(length: int) -> None:
    cases = [ServedCase(f"{n:05}", FAILED, n / 7, "x" * length) for n in range(2 * MESSAGES_MAX)]
    extract = extract_of(cases)
    assert len(extract.messages) == min(MESSAGES_MAX, MESSAGES_CHARACTERS_MAX // length)
    assert len(extract.slowest) == SLOWEST_MAX
    assert extract.slowest[0][0] == cases[-1].id
