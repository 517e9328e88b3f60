"""The statuses that are to be posted, in a database: one row per repository, commit and context.

The rule: a row holds the newest word on its commit, and a word never gives way to an older one. A
newer build is newer; of one build the verdict is newer than its beginning. What nobody may build
yet takes back no final word. So a crash between a post and its note makes the same post once more,
never another one.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from common.forges.shared.status import CommitStatus

# Words that nobody has heard yet; the oldest make room.
WAITING_MAX = 10_000
# What was posted is kept so that an older word does not come after it.
SETTLED_KEPT = 10_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS statuses (
    repository TEXT NOT NULL,
    commit_hex TEXT NOT NULL,
    context TEXT NOT NULL,
    build_number INTEGER NOT NULL,
    is_final INTEGER NOT NULL,
    status BLOB NOT NULL,
    since REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    is_settled INTEGER NOT NULL DEFAULT 0,
    given_up TEXT,
    PRIMARY KEY (repository, commit_hex, context)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS statuses_waiting
    ON statuses (repository, not_before) WHERE is_settled = 0;
CREATE INDEX IF NOT EXISTS statuses_age ON statuses (is_settled, since);
"""

_KEY = "repository = ? AND commit_hex = ? AND context = ?"


class Database(Protocol):
    """What the queue needs of a database; both shells have one."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, and on disk when the block is left."""

    def write(self, statement: str, values: Sequence[Any] = ()) -> int:
        """One changing statement, inside a transaction; how many rows it touched."""

    def row(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of one query, or None."""


class WaitingStatus(msgspec.Struct, frozen=True):
    """A status that is to be posted. Times are seconds since 1970."""

    repository: str
    # of the build; the status of a later build replaces that of an earlier one
    build_number: int
    # whether it is a verdict's
    is_final: bool
    status: CommitStatus
    since: float
    # how many were in vain
    attempts: int
    not_before: float


class StatusQueue:
    """The queue. Methods that change something must be called inside `database.transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        repository: str,
        build_number: int,
        status: CommitStatus,
        *,
        is_final: bool,
        now: float,
        is_waiting: bool = False,
    ) -> bool:
        """Have this said; False where something newer is said of that commit already.

        is_waiting: it is not built before an operator approves, and may never be.
        """
        touched = self._database.write(
            "INSERT INTO statuses (repository, commit_hex, context, build_number, is_final, "
            "status, since) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "build_number = excluded.build_number, is_final = excluded.is_final, "
            "status = excluded.status, since = excluded.since, attempts = 0, is_settled = 0, "
            "given_up = NULL WHERE (excluded.build_number, excluded.is_final) > "
            "(statuses.build_number, statuses.is_final) AND NOT (statuses.is_final AND ?)",
            (
                repository,
                status.commit,
                status.context,
                build_number,
                is_final,
                msgspec.msgpack.encode(status),
                now,
                is_waiting,
            ),
        )
        if touched:
            self._make_room(is_settled=False, kept=WAITING_MAX)
        return bool(touched)

    def next(self, repository: str) -> WaitingStatus | None:
        """What is due first of a repository, due or not."""
        found = self._database.row(
            "SELECT build_number, is_final, status, since, attempts, not_before FROM statuses "
            "WHERE repository = ? AND is_settled = 0 ORDER BY not_before, since LIMIT 1",
            (repository,),
        )
        if found is None:
            return None
        number, is_final, status, since, attempts, not_before = found
        decoded = msgspec.msgpack.decode(status, type=CommitStatus)
        return WaitingStatus(
            repository, number, bool(is_final), decoded, since, attempts, not_before
        )

    def count(self) -> int:
        """How many wait."""
        found = self._database.row("SELECT count(*) FROM statuses WHERE is_settled = 0")
        assert found is not None
        return int(found[0])

    def note_settled(self, waiting: WaitingStatus, given_up: str | None = None) -> None:
        """It is posted, or given up for this reason. Nothing happens to a newer word."""
        self._note(waiting, "is_settled = 1, given_up = ?", given_up)
        self._make_room(is_settled=True, kept=SETTLED_KEPT)

    def settle_all(self, given_up: str) -> None:
        """Post nothing that waits by now, for this reason."""
        self._database.write(
            "UPDATE statuses SET is_settled = 1, given_up = ? WHERE is_settled = 0", (given_up,)
        )
        self._make_room(is_settled=True, kept=SETTLED_KEPT)

    def note_later(self, waiting: WaitingStatus, not_before: float) -> None:
        """It was in vain; not again before then."""
        self._note(waiting, "attempts = attempts + 1, not_before = ?", not_before)

    def _note(self, waiting: WaitingStatus, change: str, value: object) -> None:
        self._database.write(
            f"UPDATE statuses SET {change} WHERE {_KEY} AND build_number = ? AND is_final = ?",  # noqa: S608 - constants only
            (
                value,
                waiting.repository,
                waiting.status.commit,
                waiting.status.context,
                waiting.build_number,
                waiting.is_final,
            ),
        )

    def _make_room(self, *, is_settled: bool, kept: int) -> None:
        self._database.write(
            "DELETE FROM statuses WHERE (repository, commit_hex, context) IN ("
            "SELECT repository, commit_hex, context FROM statuses WHERE is_settled = ? "
            "ORDER BY since DESC LIMIT -1 OFFSET ?)",
            (is_settled, kept),
        )
