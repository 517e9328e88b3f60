"""What was accepted and is not finished: every request from its 202 to the network's answer.

A row's life: received -> resolved -> signed -> opened -> (decided: the row is gone, the archive
has it). One that is about a build, to cancel or approve it, is `received` until that build is
open. A row is never skipped or lost: whatever state a crash leaves it in, it goes on from there.
The number of a request (`timestamp` in the paper) is taken in the same commit as the signed bytes
that carry it, so no number is ever used for two requests, and none is left out.

Every method that changes something must be called inside `Database.transaction`.
"""

import enum
from collections.abc import Callable
from typing import Any

import msgspec

from client.database import Database
from client.wanted import WantedBuild


class State(enum.StrEnum):
    """How far a request has come."""

    RECEIVED = "received"
    RESOLVED = "resolved"
    SIGNED = "signed"
    OPENED = "opened"


class Kind(enum.StrEnum):
    """What is asked for."""

    BUILD = "build"
    APPEND = "append"
    CANCEL = "cancel"
    APPROVE = "approve"


# What is asked about a build that the network has; it is not asked before it has it.
CHANGES = (Kind.CANCEL, Kind.APPROVE)


class OutboxRow(msgspec.Struct, frozen=True, array_like=True):
    """One unfinished request.

    identity: 32 random bytes, drawn before the first commit, so that a build's id is known at
        once. build: that id, or the build that is to be changed; empty for an append.
    text: of an append.
    timestamp, signed: None until the number is taken; then the bytes of the Signed Request.
    wanted: a WantedBuild as it was accepted (MessagePack); empty for all but a build.
    """

    number: int
    identity: bytes
    kind: Kind
    build: bytes
    repository: str
    branch: str
    commit: str | None
    text: str
    state: State
    timestamp: int | None
    signed: bytes | None
    wanted: bytes = b""

    @property
    def build_wanted(self) -> WantedBuild:
        """What is asked for, with the commit that was found since."""
        assert self.kind is Kind.BUILD, "only a build's row says what is wanted"
        wanted = msgspec.msgpack.decode(self.wanted, type=WantedBuild)
        return msgspec.structs.replace(wanted, commit=self.commit)


# (timestamp, row) -> the encoded Signed Request with that number
SignRequest = Callable[[int, OutboxRow], bytes]

_COLUMNS = (
    "number, identity, kind, build, repository, branch, commit_hex, text, state, timestamp, "
    "signed, wanted"
)


class Outbox:
    """The unfinished requests, in the order in which they came."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_build(self, identity: bytes, build: bytes, wanted: WantedBuild) -> None:
        """Keep a build. With a commit there is nothing to resolve."""
        state = State.RECEIVED if wanted.commit is None else State.RESOLVED
        what = (wanted.repository, wanted.branch, wanted.commit, "")
        encoded = msgspec.msgpack.encode(wanted)
        self._add(identity, Kind.BUILD, build, what, state, encoded, wanted.needs_approval)

    def add_append(self, identity: bytes, text: str) -> None:
        """Keep a string for the journal."""
        self._add(identity, Kind.APPEND, b"", ("", "", None, text), State.RESOLVED)

    def add_change(self, identity: bytes, kind: Kind, build: OutboxRow, state: State) -> None:
        """Keep a request about that build; RECEIVED: until the network has the build."""
        assert kind in CHANGES
        what = (build.repository, build.branch, build.commit, "")
        self._add(identity, kind, build.build, what, state)

    def release(self, build: bytes) -> None:
        """received -> resolved: the network has the build that is to be changed."""
        self._database.write(
            "UPDATE outbox SET state = ? WHERE build = ? AND kind IN (?, ?) AND state = ?",
            (State.RESOLVED, build, *CHANGES, State.RECEIVED),
        )

    def note_approved(self, build: bytes) -> None:
        """A build that waited for approval is one of those that are built."""
        self._database.write(
            "UPDATE outbox SET waits_for_approval = 0 WHERE kind = ? AND build = ?",
            (Kind.BUILD, build),
        )

    def drop_waiting(self, build: bytes) -> None:
        """Forget what was to be changed about a build and has no number yet."""
        self._database.write(
            "DELETE FROM outbox WHERE build = ? AND kind IN (?, ?) AND timestamp IS NULL",
            (build, *CHANGES),
        )

    def resolve(self, identity: bytes, commit: str | None) -> None:
        """received -> resolved: the branch points at this commit, or (None) there is no branch."""
        self._database.write(
            "UPDATE outbox SET state = ?, commit_hex = ? WHERE identity = ? AND state = ?",
            (State.RESOLVED, commit, identity, State.RECEIVED),
        )

    def take_number(self, row: OutboxRow, sign: SignRequest) -> OutboxRow:
        """resolved -> signed, with the next number of this gateway. Gives back the new row."""
        found = self._database.row("SELECT next_timestamp FROM counter")
        assert found is not None
        timestamp = int(found[0])
        signed = sign(timestamp, row)
        self._database.write("UPDATE counter SET next_timestamp = ?", (timestamp + 1,))
        touched = self._database.write(
            "UPDATE outbox SET state = ?, timestamp = ?, signed = ? WHERE identity = ? "
            "AND state = ?",
            (State.SIGNED, timestamp, signed, row.identity, State.RESOLVED),
        )
        assert touched == 1, "a number was taken for a row that is not waiting for one"
        return msgspec.structs.replace(row, state=State.SIGNED, timestamp=timestamp, signed=signed)

    def continue_above(self, floor: int) -> None:
        """All numbers up to `floor` are used, by an earlier life whose counter was lost."""
        self._database.write(
            "UPDATE counter SET next_timestamp = max(next_timestamp, ?)", (floor + 1,)
        )

    def open(self, identity: bytes) -> None:
        """signed -> opened: the network has the build."""
        self._database.write(
            "UPDATE outbox SET state = ? WHERE identity = ? AND state = ?",
            (State.OPENED, identity, State.SIGNED),
        )

    def take_back(self, identity: bytes) -> None:
        """signed -> resolved: the network refused this number; the request gets another one."""
        self._database.write(
            "UPDATE outbox SET state = ?, timestamp = NULL, signed = NULL WHERE identity = ?",
            (State.RESOLVED, identity),
        )

    def finish(self, identity: bytes) -> None:
        """The answer is kept elsewhere: the row goes."""
        self._database.write("DELETE FROM outbox WHERE identity = ?", (identity,))

    def unfinished(self) -> list[OutboxRow]:
        """Every row, oldest first."""
        return self._select("ORDER BY number")

    def waiting_for_number(self, kind: Kind, rows_max: int) -> list[OutboxRow]:
        """The oldest resolved rows of a kind."""
        return self._select(
            "WHERE kind = ? AND state = ? ORDER BY number LIMIT ?", (kind, State.RESOLVED, rows_max)
        )

    def waiting_builds_of(self, repository: str, rows_max: int) -> list[OutboxRow]:
        """The oldest resolved builds of a repository that need no approval."""
        return self._select(
            "WHERE kind = ? AND state = ? AND repository = ? AND NOT waits_for_approval "
            "ORDER BY number LIMIT ?",
            (Kind.BUILD, State.RESOLVED, repository, rows_max),
        )

    def waiting_for_approval(self, rows_max: int) -> list[OutboxRow]:
        """The oldest resolved builds that the network is to hold until they are approved."""
        return self._select(
            "WHERE kind = ? AND state = ? AND waits_for_approval ORDER BY number LIMIT ?",
            (Kind.BUILD, State.RESOLVED, rows_max),
        )

    def builds_of(self, repository: str) -> list[OutboxRow]:
        """All unfinished builds of a repository, oldest first."""
        return self._select(
            "WHERE kind = ? AND repository = ? ORDER BY number", (Kind.BUILD, repository)
        )

    def build_row(self, build: bytes) -> OutboxRow | None:
        """The row that asks for a build, or None when that is finished."""
        rows = self._select("WHERE kind = ? AND build = ?", (Kind.BUILD, build))
        return rows[0] if rows else None

    def waits_for_approval(self, build: bytes) -> bool:
        """Must an operator still let this build begin?"""
        query = "SELECT count(*) FROM outbox WHERE kind = ? AND build = ? AND waits_for_approval"
        return bool(self._count(query, (Kind.BUILD, build)))

    def is_asked(self, kind: Kind, build: bytes) -> bool:
        """Is this change of a build under way already?"""
        return bool(self._select("WHERE kind = ? AND build = ?", (kind, build)))

    def with_number(self, timestamp: int) -> OutboxRow | None:
        """The row that holds this number, or None when it is finished or took another one."""
        rows = self._select("WHERE timestamp = ?", (timestamp,))
        return rows[0] if rows else None

    def count(self) -> int:
        """All unfinished rows."""
        return self._count("SELECT count(*) FROM outbox", ())

    def count_undecided_builds(self, *, waits_for_approval: bool = False) -> int:
        """Builds that the network may hold open for this gateway: signed or opened.

        Those that wait for approval are counted apart, as the network does.
        """
        return self._count(
            "SELECT count(*) FROM outbox WHERE kind = ? AND state IN (?, ?) "
            "AND waits_for_approval = ?",
            (Kind.BUILD, State.SIGNED, State.OPENED, waits_for_approval),
        )

    def waiting_by_repository(self) -> dict[str, int]:
        """How many resolved builds wait for their number, by repository, the oldest first.

        Without those that need approval.
        """
        return self._count_builds((State.RESOLVED,), "AND waits_for_approval = 0 ")

    def undecided_by_repository(self) -> dict[str, int]:
        """The same of those that the network may hold open."""
        return self._count_builds((State.SIGNED, State.OPENED), "AND waits_for_approval = 0 ")

    def unfinished_by_repository(self) -> tuple[dict[str, int], dict[str, int]]:
        """The same of all, in no order: those that wait for no approval, and those that do."""
        rows = self._database.rows(
            "SELECT waits_for_approval, repository, count(*) FROM outbox WHERE kind = ? "
            "GROUP BY repository, waits_for_approval",
            (Kind.BUILD,),
        )
        counts: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for waits_for_approval, repository, count in rows:
            counts[waits_for_approval][repository] = count
        return counts

    def _count_builds(self, states: tuple[State, ...], condition: str = "") -> dict[str, int]:
        marks = ", ".join("?" * len(states))
        rows = self._database.rows(
            f"SELECT repository, count(*) FROM outbox WHERE kind = ? AND state IN ({marks}) "  # noqa: S608 - constants only
            f"{condition}GROUP BY repository ORDER BY min(number)",
            (Kind.BUILD, *states),
        )
        return dict(rows)

    def _add(
        self,
        identity: bytes,
        kind: Kind,
        build: bytes,
        what: tuple[str, str, str | None, str],
        state: State,
        wanted: bytes = b"",
        waits_for_approval: bool = False,
    ) -> None:
        self._database.write(
            "INSERT INTO outbox (identity, kind, build, repository, branch, commit_hex, text, "
            "state, wanted, waits_for_approval) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (identity, kind, build, *what, state, wanted, waits_for_approval),
        )

    def _count(self, query: str, values: tuple[Any, ...]) -> int:
        found = self._database.row(query, values)
        assert found is not None
        return int(found[0])

    def _select(self, condition: str, values: tuple[Any, ...] = ()) -> list[OutboxRow]:
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM outbox {condition}", values)  # noqa: S608 - constants only
        return [msgspec.convert(row, OutboxRow) for row in rows]
