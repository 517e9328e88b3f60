"""client.network.signed_changes: what the ledger says clients did to a build."""

import pytest

from ci.ledger import (
    AnyEntry,
    AppendEntry,
    ApproveEntry,
    CancelEntry,
    NoteEntry,
    RecordedAsker,
    VerdictEntry,
)
from client.network import signed_changes
from client.network.signed_changes import SignedChanges, is_change


def verdict(person: str | None) -> VerdictEntry:
    asker = RecordedAsker("gateway", 1, "", person)
    return VerdictEntry("b", 1, (asker,), (), (), b"{}")  # type: ignore[arg-type]


def test_changes_of_a_build_are_told_in_their_order_with_whose_word_it_is() -> None:
    changes = SignedChanges()
    entries: tuple[AnyEntry, ...] = (
        ApproveEntry("b", 1, "operator"),
        NoteEntry("b", "gateway", "text", "ana"),
        NoteEntry("c", "gateway", "another build"),
        CancelEntry("b", 1, "gateway", "bo"),
        AppendEntry("gateway", "text", 1, ""),
        verdict("ana"),
        verdict(None),
    )
    for index, entry in enumerate(entries, 1):
        changes.feed(index, entry)
    told = [
        (change.kind, change.by, change.text, change.ledger_index) for change in changes.of("b")
    ]
    assert told == [
        ("approve", "operator", "", 1),
        ("note", "ana, says gateway", "text", 2),
        ("cancel", "bo, says gateway", "", 4),
        ("rebuild", "ana, says gateway", "", 6),
    ]
    assert changes.of("d") == ()
    assert [is_change(entry) for entry in entries] == [True] * 4 + [False, True, False]


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_changes, "BUILDS_MAX", 2)
    changes = SignedChanges()
    for index, build in enumerate("abac", 1):
        changes.feed(index, CancelEntry(build, 1, "gateway"))
    assert [len(changes.of(build)) for build in "abc"] == [2, 0, 1]
