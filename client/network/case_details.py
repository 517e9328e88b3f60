"""The details of a build's test cases, as a replica serves them, checked against its ballot. Pure.

The rule: ids and outcomes are believed for the digest of the canonical report that the replica's
ballot names. Seconds, messages and quarantine are its own account, which no digest covers.
"""

from typing import Annotated

import msgspec

from ci.case_results import CASES_MAX, CaseOutcome, encode_report, report_sha256
from ci.operations import CaseId
from client.storage.case_extract import QuarantinedCase

# as many as a pipeline file has at most
QUARANTINED_MAX = 50


class WrongDetails(Exception):
    """Bytes that are not the details of that report; one line why."""


class ServedCase(msgspec.Struct, frozen=True, array_like=True):
    """One case. file: the report of the build that names it. More fields are skipped."""

    id: CaseId
    outcome: CaseOutcome
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    message: str | None = None
    file: str = ""


class CheckedCases(msgspec.Struct, frozen=True):
    """The canonical report, and its cases with what the replica says beside."""

    report: bytes
    cases: tuple[ServedCase, ...]
    quarantine: tuple[QuarantinedCase, ...] = ()


class _ServedCases(msgspec.Struct, frozen=True):
    cases: Annotated[tuple[ServedCase, ...], msgspec.Meta(max_length=CASES_MAX)]
    quarantine: Annotated[
        tuple[QuarantinedCase, ...], msgspec.Meta(max_length=QUARANTINED_MAX)
    ] = ()


_decoder = msgspec.json.Decoder(_ServedCases)


def checked_cases(data: bytes, digest: str) -> CheckedCases:
    """The cases in a replica's answer. digest: of the report that its ballot names (hex).

    Takes a moment for many cases. Raises WrongDetails.
    """
    try:
        served = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WrongDetails(f"its test cases cannot be read: {error}") from error
    cases = served.cases
    report = encode_report({case.id: case.outcome for case in cases})
    found = report_sha256(report)
    if found != digest:
        raise WrongDetails(f"its test cases have SHA-256 {found}, its ballot names {digest}")
    return CheckedCases(report, cases, served.quarantine)
