"""What clients ordered about builds, as the checked ledger has it: approvals, cancels, notes. Pure.

Each was signed by a client and ordered by the replicas. Whom a client names is its own word.
"""

from collections import OrderedDict
from typing import Annotated

import msgspec

from ci.ledger import (
    AnyEntry,
    ApproveEntry,
    CancelEntry,
    LimitsEntry,
    MembersEntry,
    NoteEntry,
    VerdictEntry,
    by_whom,
)

# Of the builds that were changed last; each takes a few hundred bytes, or some notes.
BUILDS_MAX = 5000
CHANGES_PER_BUILD_MAX = 100


def is_change(body: AnyEntry) -> bool:
    """Whether an entry tells what a client changed; of a verdict: on whose behalf."""
    if isinstance(body, VerdictEntry):
        return any(asker.person is not None for asker in body.askers)
    return isinstance(body, CancelEntry | ApproveEntry | NoteEntry | LimitsEntry | MembersEntry)


class SignedChange(msgspec.Struct, frozen=True):
    """One change of a build, or a note on it."""

    kind: Annotated[str, msgspec.Meta(description="`rebuild`, `approve`, `cancel` or `note`")]
    client: Annotated[str, msgspec.Meta(description="the member whose key signed it")]
    person: Annotated[
        str | None, msgspec.Meta(description="whom that member says that it acts for")
    ]
    text: Annotated[str, msgspec.Meta(description="of a note")]
    ledger_index: int

    @property
    def by(self) -> str:
        """Who did it, in words."""
        return by_whom(self.client, self.person)


class SignedChanges:
    """The changes of the builds that were changed last."""

    def __init__(self) -> None:
        self._of_build: OrderedDict[str, list[SignedChange]] = OrderedDict()

    def of(self, build: str) -> tuple[SignedChange, ...]:
        """Those of a build (hexadecimal), in the order of the ledger."""
        return tuple(self._of_build.get(build, ()))

    def feed(self, index: int, body: AnyEntry) -> None:
        """Take in the next entry of the ledger."""
        match body:
            case CancelEntry():
                self._add(body.build, SignedChange("cancel", body.client, body.person, "", index))
            case ApproveEntry():
                self._add(body.build, SignedChange("approve", body.client, body.person, "", index))
            case NoteEntry():
                told = SignedChange("note", body.client, body.person, body.text, index)
                self._add(body.build, told)
            case VerdictEntry():
                for asker in body.askers:
                    if asker.person is not None:
                        told = SignedChange("rebuild", asker.client, asker.person, "", index)
                        self._add(body.build, told)
            case _:
                pass

    def _add(self, build: str, change: SignedChange) -> None:
        changes = self._of_build.setdefault(build, [])
        self._of_build.move_to_end(build)
        changes.append(change)
        del changes[:-CHANGES_PER_BUILD_MAX]
        if len(self._of_build) > BUILDS_MAX:
            self._of_build.popitem(last=False)
