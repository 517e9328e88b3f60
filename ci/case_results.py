"""The canonical report of a build's test cases: equal results have equal bytes on every replica.

Pure, and of the standard library alone: a process with narrow limits makes such reports.

The rule: a report is one line `id TAB outcome LF` for each case, sorted by bytes, each id once.
It holds no times, no messages and no order, since those differ between honest replicas. So its
SHA-256 stands for all of it, and the SHA-256 of the ids alone for which cases there were.
"""

import enum
import hashlib
import re
from collections.abc import Iterable, Mapping

CASES_MAX = 20_000
CASE_ID_CHARACTERS_MAX = 512
# what a report of CASES_MAX cases may have: four bytes a character, TAB, the outcome, LF
REPORT_BYTES_MAX = CASES_MAX * (4 * CASE_ID_CHARACTERS_MAX + 9)
# Control characters and what ends a line. Not `str.isprintable`: that depends on which version of
# Unicode a replica's Python knows, and replicas must refuse alike.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class MalformedReport(ValueError):
    """Bytes that are not the one encoding of a canonical report; the text says what was wrong."""


class CaseOutcome(enum.StrEnum):
    """How a test case ended. `warned`: it passed, but not at its first try in this run."""

    SKIPPED = "skipped"
    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"


# The worst last: of several results with one id, this order says which one counts.
_RANK = {outcome: rank for rank, outcome in enumerate(CaseOutcome)}


def worst(outcomes: Iterable[CaseOutcome]) -> CaseOutcome:
    """The worst of these, of which there is at least one: failed, warned, passed, skipped."""
    return max(outcomes, key=_RANK.__getitem__)


def id_problem(case: str) -> str | None:
    """Why this text cannot be a case's id; None: it can."""
    if not 1 <= len(case) <= CASE_ID_CHARACTERS_MAX:
        return f"a case's id has 1 to {CASE_ID_CHARACTERS_MAX} characters, and this has {len(case)}"
    if _FORBIDDEN.search(case):
        return "a case's id has a control character"
    return None


def encode_report(cases: Mapping[str, CaseOutcome]) -> bytes:
    """The canonical report of these cases by id."""
    return b"".join(sorted(f"{case}\t{outcome}\n".encode() for case, outcome in cases.items()))


def decode_report(data: bytes) -> dict[str, CaseOutcome]:
    """The inverse of encode_report. Raises MalformedReport."""
    if len(data) > REPORT_BYTES_MAX:
        raise MalformedReport(f"{len(data)} bytes; at most {REPORT_BYTES_MAX}")
    cases: dict[str, CaseOutcome] = {}
    try:
        lines = data.decode().split("\n")
        if lines.pop() != "":
            raise MalformedReport("the last line does not end")
        for number, line in enumerate(lines, 1):
            case, _, outcome = line.rpartition("\t")
            if problem := id_problem(case):
                raise MalformedReport(f"line {number}: {problem}")
            cases[case] = CaseOutcome(outcome)
    except UnicodeDecodeError as error:
        raise MalformedReport("not UTF-8") from error
    except ValueError as error:
        if isinstance(error, MalformedReport):
            raise
        raise MalformedReport(f"line {number}: {error}") from error
    if len(cases) > CASES_MAX:
        raise MalformedReport(f"{len(cases)} cases; at most {CASES_MAX}")
    if encode_report(cases) != data:
        raise MalformedReport("lines that are not sorted, or a case that is there twice")
    return cases


def report_sha256(data: bytes) -> str:
    """The SHA-256 (hex) of a canonical report."""
    return hashlib.sha256(data).hexdigest()


def set_sha256(cases: Iterable[str]) -> str:
    """The SHA-256 (hex) of the ids alone, a line each, sorted by bytes."""
    return hashlib.sha256(b"".join(sorted(f"{case}\n".encode() for case in cases))).hexdigest()


def case_sha256(case: str) -> str:
    """The SHA-256 (hex) of one id, by which addresses name a case."""
    return hashlib.sha256(case.encode()).hexdigest()
