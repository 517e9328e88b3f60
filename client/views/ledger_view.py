"""A ledger's entries as the page shows them: plain values, every text short and printable. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from ci.ledger import (
    AnyEntry,
    AppendEntry,
    ApproveEntry,
    CancelEntry,
    LateBallotEntry,
    LimitsEntry,
    MalformedEntry,
    MembersEntry,
    NoteEntry,
    SupersededEntry,
    VerdictEntry,
    by_whom,
    decode_entry,
)
from ci.operations import NOTE_CHARACTERS_MAX
from ci.statement import InvalidStatement, dissenters, parse_statement
from common.safe_text import log_text
from pbft.ports import Entry

TEXT_CHARACTERS_MAX = 300
# There are seventeen limits, and the name of each is in it.
LIMITS_CHARACTERS_MAX = 1000
_STANCES = {True: "agrees", False: "dissents", None: "counts for neither side"}


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One entry."""

    index: int
    # verdict, late ballot, cancel, approve, note, limits, members, superseded, append, or unknown
    kind: str
    # the head after this entry (hex)
    head: str
    # the head before it (hex)
    previous: str
    build: str | None = None
    repository: str | None = None
    branch: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    # of a verdict, as is dissenting: the replicas
    agreeing: tuple[str, ...] = ()
    dissenting: tuple[str, ...] = ()
    # the client that asked for it, or the replica whose ballot it is
    by: str | None = None
    # what else there is to say, in a line
    text: str = ""


def entry_views(entries: Iterable[Entry], head_before: bytes) -> Iterator[EntryView]:
    """The entries in their order. head_before: the head before the first of them."""
    for entry in entries:
        yield _entry_view(entry, head_before)
        head_before = entry.head


def _entry_view(entry: Entry, head_before: bytes) -> EntryView:
    bare = EntryView(
        index=entry.index, kind="unknown", head=entry.head.hex(), previous=head_before.hex()
    )
    try:
        return _told(bare, decode_entry(entry.body))
    except (MalformedEntry, InvalidStatement) as error:
        text = f"this version cannot read it: {error}"
        return msgspec.structs.replace(bare, text=log_text(text, TEXT_CHARACTERS_MAX))


def _told(bare: EntryView, body: AnyEntry) -> EntryView:
    fields: dict[str, object]
    match body:
        case VerdictEntry():
            verdict = parse_statement(bytes(body.statement)).verdict
            fields = {
                "kind": "verdict",
                "build": body.build,
                "repository": log_text(verdict.repository, TEXT_CHARACTERS_MAX),
                "branch": log_text(verdict.branch, TEXT_CHARACTERS_MAX),
                "outcome": str(verdict.outcome),
                "exit_code": verdict.exit_code,
                "agreeing": verdict.agreeing,
                "dissenting": tuple(sorted(dissenters(body))),
                "text": log_text(
                    "; ".join(
                        f"asked for by {by_whom(asker.client, asker.person)}"
                        for asker in body.askers
                        if asker.person is not None
                    ),
                    TEXT_CHARACTERS_MAX,
                ),
            }
        case LateBallotEntry():
            ballot = body.ballot
            code = "" if ballot.exit_code is None else f" {ballot.exit_code}"
            found = f"{ballot.outcome.replace('_', ' ')}{code}"
            fields = {
                "kind": "late ballot",
                "build": body.build,
                "by": log_text(ballot.replica),
                "text": f"{log_text(found)}: {_STANCES[body.agrees]}",
            }
        case CancelEntry():
            by = by_whom(body.client, body.person)
            fields = {"kind": "cancel", "build": body.build, "by": log_text(by)}
        case ApproveEntry():
            by = by_whom(body.client, body.person)
            fields = {"kind": "approve", "build": body.build, "by": log_text(by)}
        case NoteEntry():
            fields = {
                "kind": "note",
                "build": body.build,
                "by": log_text(by_whom(body.client, body.person)),
                "text": log_text(body.text, NOTE_CHARACTERS_MAX),
            }
        case LimitsEntry():
            by = ", ".join(approval.operator for approval in body.approvals)
            values = ", ".join(f"{name} {value}" for name, value in body.limits.items())
            text = f"change {body.serial}, for builds opened after {body.since}: {values}"
            fields = {
                "kind": "limits",
                "by": log_text(by, TEXT_CHARACTERS_MAX),
                "text": log_text(text, LIMITS_CHARACTERS_MAX),
            }
        case MembersEntry():
            names = ", ".join(member.name for member in body.replicas)
            text = f"epoch {body.epoch}, decided at {body.since}, has the replicas {names}"
            by = ", ".join(approval.operator for approval in body.approvals)
            fields = {
                "kind": "members",
                "by": log_text(by, TEXT_CHARACTERS_MAX),
                "text": log_text(text, LIMITS_CHARACTERS_MAX),
            }
        case SupersededEntry():
            text = "not decided before the epoch ended; it is asked for again in the next"
            fields = {"kind": "superseded", "build": body.build, "text": text}
        case AppendEntry():
            fields = {
                "kind": "append",
                "by": log_text(body.client),
                "text": log_text(body.text, TEXT_CHARACTERS_MAX),
            }
    return msgspec.structs.replace(bare, **fields)
