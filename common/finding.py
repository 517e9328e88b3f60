"""What `check` found before a start: a table for the operator. Pure."""

import enum
from collections.abc import Sequence

import msgspec

from common.safe_text import log_text


class State(enum.StrEnum):
    """How far what was found keeps the program from its work."""

    OK = "ok"
    # it works now, or for some; the text says what to do
    WARNING = "warning"
    # it does not work
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One line of the table."""

    # what was looked at, in a few words
    subject: str
    state: State
    # what was seen and, where it is not right, what to do
    text: str


def table(findings: Sequence[Finding]) -> str:
    """The findings as lines of three columns. What strangers wrote has no line breaks in it."""
    subjects = max(len(finding.subject) for finding in findings)
    states = max(len(state) for state in State)
    return "\n".join(
        f"{finding.subject:{subjects}}  {finding.state:{states}}  {log_text(finding.text)}"
        for finding in findings
    )


def are_right(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong; warnings keep nobody from a start."""
    return all(finding.state is not State.WRONG for finding in findings)
