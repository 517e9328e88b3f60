"""What was accepted and is not finished: every request from its 202 to the network's answer.

A row's life: received -> resolved -> signed -> opened -> (decided: the row is gone, the archive
has it). One that is about a build, to cancel or approve it, is `received` until that build is
open. A row is never skipped or lost: whatever state a crash leaves it in, it goes on from there.
The timestamp of a request is taken in the same commit as the signed bytes that carry it, so
no timestamp is ever used for two requests, and none is left out.

Every method that changes something must be called inside `Database.transaction`.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from client.storage.build_request import BuildRequest, ChangeDetails
from client.storage.database import Database


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
    NOTE = "note"


# The columns that not every kind of request fills.
_EMPTY: dict[str, str | bytes | bool | None] = {
    "build": b"",
    "repository": "",
    "branch": "",
    "commit_hex": None,
    "text": "",
    "wanted": b"",
    "waits_for_approval": False,
}
# What is asked about a build that the network has; it is not asked before it has it.
CHANGES = (Kind.CANCEL, Kind.APPROVE)


class OutboxRow(msgspec.Struct, frozen=True, array_like=True):
    """One unfinished request."""

    # the order in which requests came
    number: int
    # 32 random bytes, drawn before the first commit, so that a build's id is known at once
    identity: bytes
    kind: Kind
    # the build's id, or that of the build to be changed; empty for an append
    build: bytes
    repository: str
    branch: str
    # None: not resolved yet, or there is no such ref
    commit: str | None
    # of an append
    text: str
    state: State
    # the request's; None until it is allocated
    timestamp: int | None
    # the bytes of the Signed Request; None until there is a timestamp
    signed: bytes | None
    # the BuildRequest as it was accepted (MessagePack); of a change or a note its ChangeDetails,
    # and empty if there are none; empty for an append
    wanted: bytes = b""

    @property
    def build_request(self) -> BuildRequest:
        """What is asked for, with the commit that was found since."""
        assert self.kind is Kind.BUILD, "only a build's row says what is wanted"
        wanted = msgspec.msgpack.decode(self.wanted, type=BuildRequest)
        return msgspec.structs.replace(wanted, commit=self.commit)

    @property
    def details(self) -> ChangeDetails:
        """Of a change or a note: who asks for it, and a note's text."""
        assert self.kind is Kind.NOTE or self.kind in CHANGES, "no other has details"
        if not self.wanted:
            return ChangeDetails()
        return msgspec.msgpack.decode(self.wanted, type=ChangeDetails)


class Tally(msgspec.Struct, frozen=True):
    """How many unfinished rows there are of each sort, however many that is.

    counts: kind, state, repository, whether they wait for approval, and how many there are.
    """

    counts: tuple[tuple[str, str, str, int, int], ...]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(counted[-1] for counted in self.counts)

    def has(self, kind: Kind, state: State) -> bool:
        """Is there any of that kind in that state?"""
        return any(counted[:2] == (kind, state) for counted in self.counts)

    def builds(self, *states: State, waits_for_approval: bool = False) -> Counter[str]:
        """How many builds are in one of these states (none named: in any), by repository.

        Those that wait for approval are counted apart, as the network does.
        """
        found: Counter[str] = Counter()
        for kind, state, repository, waits, count in self.counts:
            is_wanted = kind == Kind.BUILD and waits == waits_for_approval
            if is_wanted and (not states or state in states):
                found[repository] += count
        return found


# (timestamp, row) -> the encoded Signed Request with that timestamp
SignRequest = Callable[[int, OutboxRow], bytes]

# The plus keeps SQLite from reading all of a kind instead.
_OF_BUILD = "number IN (SELECT number FROM outbox_places WHERE build = ?)"
_WAITING = "WHERE kind = ? AND state = ? AND repository = ? AND waits_for_approval = ?"

_COLUMNS = (
    "number, identity, kind, build, repository, branch, commit_hex, text, state, timestamp, "
    "signed, wanted"
)


class Outbox:
    """The unfinished requests, in the order in which they came."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_build(self, identity: bytes, build: bytes, wanted: BuildRequest) -> None:
        """Keep a build. With a commit there is nothing to resolve."""
        self._add(
            identity=identity,
            kind=Kind.BUILD,
            build=build,
            repository=wanted.repository,
            branch=wanted.branch,
            commit_hex=wanted.commit,
            state=State.RECEIVED if wanted.commit is None else State.RESOLVED,
            wanted=msgspec.msgpack.encode(wanted),
            waits_for_approval=wanted.needs_approval,
        )

    def add_append(self, identity: bytes, text: str) -> None:
        """Keep a string for the journal."""
        self._add(identity=identity, kind=Kind.APPEND, text=text, state=State.RESOLVED)

    def add_change(
        self,
        identity: bytes,
        kind: Kind,
        build: OutboxRow,
        *,
        state: State,
        person: str | None = None,
    ) -> None:
        """Keep a request about that build; RECEIVED: until the network has the build.

        person: who asks for it here.
        """
        assert kind in CHANGES
        self._add(
            identity=identity,
            kind=kind,
            build=build.build,
            repository=build.repository,
            branch=build.branch,
            commit_hex=build.commit,
            state=state,
            wanted=b"" if person is None else msgspec.msgpack.encode(ChangeDetails(person)),
        )

    def add_note(self, identity: bytes, build: bytes, details: ChangeDetails) -> None:
        """Keep a note on a build that the network has."""
        self._add(
            identity=identity,
            kind=Kind.NOTE,
            build=build,
            state=State.RESOLVED,
            wanted=msgspec.msgpack.encode(details),
        )

    def notes(self, build: bytes) -> list[OutboxRow]:
        """The notes on a build that are not ordered yet, oldest first."""
        return self._select(f"WHERE {_OF_BUILD} AND +kind = ? ORDER BY number", (build, Kind.NOTE))

    def release(self, build: bytes) -> None:
        """received -> resolved: the network has the build that is to be changed."""
        self._database.write(
            f"UPDATE outbox SET state = ? WHERE {_OF_BUILD} AND +kind IN (?, ?) AND state = ?",  # noqa: S608 - constants only
            (State.RESOLVED, build, *CHANGES, State.RECEIVED),
        )

    def note_approved(self, build: bytes) -> None:
        """A build that waited for approval is one of those that are built."""
        self._database.write(
            f"UPDATE outbox SET waits_for_approval = 0 WHERE {_OF_BUILD} AND +kind = ?",  # noqa: S608 - constants only
            (build, Kind.BUILD),
        )

    def drop_waiting(self, build: bytes) -> None:
        """Forget what was to be changed about a build and has no timestamp yet."""
        self._database.write(
            f"DELETE FROM outbox WHERE {_OF_BUILD} AND +kind IN (?, ?) AND timestamp IS NULL",  # noqa: S608 - constants only
            (build, *CHANGES),
        )

    def resolve(self, identity: bytes, wanted: BuildRequest) -> None:
        """received -> resolved: the ref points at its commit, or (None) there is no such ref."""
        encoded = msgspec.msgpack.encode(wanted)
        self._database.write(
            "UPDATE outbox SET state = ?, commit_hex = ?, wanted = ? WHERE identity = ? "
            "AND state = ?",
            (State.RESOLVED, wanted.commit, encoded, identity, State.RECEIVED),
        )

    def take_timestamp(self, row: OutboxRow, sign: SignRequest) -> OutboxRow:
        """resolved -> signed, with the next timestamp of this gateway. Gives back the new row."""
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
        assert touched == 1, "a timestamp was taken for a row that is not waiting for one"
        return msgspec.structs.replace(row, state=State.SIGNED, timestamp=timestamp, signed=signed)

    def continue_above(self, timestamp: int) -> None:
        """All timestamps up to `timestamp` are used, by an earlier life whose counter was lost."""
        self._database.write(
            "UPDATE counter SET next_timestamp = max(next_timestamp, ?)", (timestamp + 1,)
        )

    def open(self, identity: bytes) -> None:
        """signed -> opened: the network has the build."""
        self._database.write(
            "UPDATE outbox SET state = ? WHERE identity = ? AND state = ?",
            (State.OPENED, identity, State.SIGNED),
        )

    def take_back(self, identity: bytes) -> None:
        """signed -> resolved: the network refused this timestamp; the request gets another one."""
        self._database.write(
            "UPDATE outbox SET state = ?, timestamp = NULL, signed = NULL WHERE identity = ?",
            (State.RESOLVED, identity),
        )

    def drop_texts(self) -> None:
        """Forget appends and notes: they may be in the ledger already, and must not be twice."""
        self._database.write("DELETE FROM outbox WHERE kind IN (?, ?)", (Kind.APPEND, Kind.NOTE))

    def finish(self, identity: bytes) -> None:
        """The answer is kept elsewhere: the row goes."""
        self._database.write("DELETE FROM outbox WHERE identity = ?", (identity,))

    def unfinished(self) -> list[OutboxRow]:
        """Every row, oldest first."""
        return self._select("ORDER BY number")

    def unresolved_builds(self) -> list[OutboxRow]:
        """The builds whose commit is not known yet, oldest first."""
        return self._select(
            "WHERE kind = ? AND state = ? ORDER BY number", (Kind.BUILD, State.RECEIVED)
        )

    def oldest_builds(
        self, state: State, rows_max: int, *, waits_for_approval: bool
    ) -> list[OutboxRow]:
        """The oldest builds in that state, of those that wait for approval or of the others."""
        return self._select(
            "WHERE kind = ? AND state = ? AND waits_for_approval = ? ORDER BY number LIMIT ?",
            (Kind.BUILD, state, waits_for_approval, rows_max),
        )

    def asked(self, rows_max: int = -1) -> list[OutboxRow]:
        """What the network was asked for, in the order of its timestamps; -1: all of it."""
        return self._select("WHERE timestamp IS NOT NULL ORDER BY timestamp LIMIT ?", (rows_max,))

    def waiting_for_timestamp(self, kind: Kind, rows_max: int) -> list[OutboxRow]:
        """The oldest resolved rows of a kind."""
        return self._select(
            "WHERE kind = ? AND state = ? ORDER BY number LIMIT ?", (kind, State.RESOLVED, rows_max)
        )

    def waiting_builds_of(self, repository: str, rows_max: int) -> list[OutboxRow]:
        """The oldest resolved builds of a repository that need no approval."""
        return self._select(
            f"{_WAITING} ORDER BY number LIMIT ?", (*_waiting_key(repository, False), rows_max)
        )

    def waiting_for_approval(self, repositories: Iterable[str], rows_max: int) -> list[OutboxRow]:
        """The oldest resolved builds that the network is to hold until they are approved."""
        rows = [
            row
            for repository in repositories
            for row in self._select(
                f"{_WAITING} ORDER BY number LIMIT ?",
                (*_waiting_key(repository, True), rows_max),
            )
        ]
        return sorted(rows, key=lambda row: row.number)[:rows_max]

    def oldest_first(self, repositories: Iterable[str]) -> list[str]:
        """Repositories with resolved builds, in the order of their oldest ones."""

        def oldest(repository: str) -> int:
            query = f"SELECT min(number) FROM outbox {_WAITING}"  # noqa: S608 - constants only
            return self._count(query, _waiting_key(repository, False))

        named = list(repositories)
        return sorted(named, key=oldest) if len(named) > 1 else named

    def builds_of_branch(self, repository: str, branch: str) -> list[OutboxRow]:
        """All unfinished builds of a branch, oldest first."""
        return self._select(
            "WHERE number IN (SELECT number FROM outbox_places WHERE repository = ? "
            "AND branch = ?) AND +kind = ? ORDER BY number",
            (repository, branch, Kind.BUILD),
        )

    def build_row(self, build: bytes) -> OutboxRow | None:
        """The row that asks for a build, or None when that is finished."""
        rows = self._select(f"WHERE {_OF_BUILD} AND +kind = ?", (build, Kind.BUILD))
        return rows[0] if rows else None

    def waits_for_approval(self, build: bytes) -> bool:
        """Must an operator still let this build begin?"""
        query = (
            f"SELECT count(*) FROM outbox WHERE {_OF_BUILD} AND +kind = ? AND waits_for_approval"  # noqa: S608 - constants only
        )
        return bool(self._count(query, (build, Kind.BUILD)))

    def is_asked(self, kind: Kind, build: bytes) -> bool:
        """Is this change of a build under way already?"""
        return bool(self._select(f"WHERE {_OF_BUILD} AND +kind = ?", (build, kind)))

    def with_timestamp(self, timestamp: int) -> OutboxRow | None:
        """The row that holds this timestamp, or None when it is finished or took another one."""
        rows = self._select("WHERE timestamp = ?", (timestamp,))
        return rows[0] if rows else None

    def tally(self) -> Tally:
        """How many rows there are of each sort; it costs the same however many that is."""
        return Tally(tuple(self._database.rows("SELECT * FROM outbox_counts")))

    def _add(self, **columns: str | bytes | bool | None) -> None:
        """A row of these columns; the others are empty."""
        row = {**_EMPTY, **columns}
        self._database.write(
            f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608 - constants only
            tuple(row.values()),
        )

    def _count(self, query: str, values: tuple[Any, ...]) -> int:
        found = self._database.row(query, values)
        assert found is not None
        return int(found[0])

    def _select(self, condition: str, values: tuple[Any, ...] = ()) -> list[OutboxRow]:
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM outbox {condition}", values)  # noqa: S608 - constants only
        return [msgspec.convert(row, OutboxRow) for row in rows]


def _waiting_key(repository: str, waits_for_approval: bool) -> tuple[Any, ...]:
    """The values for _WAITING."""
    return (Kind.BUILD, State.RESOLVED, repository, waits_for_approval)
