"""The gateway's SQLite file: one connection, one writer, every commit on disk when it returns.

What was committed survives kill -9 and a power cut: WAL with synchronous=FULL (without FULL
acknowledged rows were lost in measurements: docs/FACTS.md). A lock beside the file keeps a
second gateway away from the same data: two of them would give one request number to two
requests.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.configuration.config import ConfigError
from common.statuses.status_queue import SCHEMA as STATUSES_SCHEMA

FORMAT_VERSION = 7
FIRST_FORMAT_VERSION = 4
# "PBFT" in ASCII: says in the file's header whose format the version counts.
APPLICATION_ID = 0x50424654
FILE_NAME = "gateway.sqlite"
LOCK_NAME = "gateway.lock"
# A person with an sqlite3 shell may hold the file for a moment.
BUSY_TIMEOUT_SECONDS = 5.0

# The first format that is read; MIGRATIONS make of it what this version has.
SCHEMA = """
CREATE TABLE owner (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    cluster BLOB NOT NULL,
    name TEXT NOT NULL
);
CREATE TABLE counter (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    next_timestamp INTEGER NOT NULL
);
INSERT INTO counter VALUES (1, 1);
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    build BLOB NOT NULL,
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    commit_hex TEXT,
    text TEXT NOT NULL,
    state TEXT NOT NULL,
    timestamp INTEGER UNIQUE,
    signed BLOB,
    wanted BLOB NOT NULL DEFAULT x'',
    waits_for_approval INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX outbox_state ON outbox (kind, state, number);
CREATE INDEX outbox_repository ON outbox (kind, repository, waits_for_approval, state, number);
CREATE TABLE builds (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    build BLOB NOT NULL UNIQUE,
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    commit_hex TEXT,
    detail TEXT,
    refused TEXT,
    request BLOB,
    statement BLOB,
    received_at REAL NOT NULL,
    resolved_at REAL,
    signed_at REAL,
    opened_at REAL,
    decided_at REAL,
    collected INTEGER NOT NULL DEFAULT 0,
    event TEXT NOT NULL DEFAULT 'push',
    ref TEXT,
    skipped TEXT,
    withdrawn TEXT,
    never_asked INTEGER NOT NULL DEFAULT 0,
    rebuild_of BLOB
);
CREATE INDEX builds_rebuilt ON builds (rebuild_of) WHERE rebuild_of IS NOT NULL;
CREATE INDEX builds_to_collect ON builds (number) WHERE statement IS NOT NULL AND collected = 0;
CREATE INDEX builds_of_branch ON builds (repository, branch, number);
CREATE INDEX builds_decided ON builds (decided_at) WHERE decided_at IS NOT NULL;
CREATE TABLE replies (
    build BLOB NOT NULL,
    replica TEXT NOT NULL,
    agrees INTEGER NOT NULL,
    attestation BLOB,
    PRIMARY KEY (build, replica)
) WITHOUT ROWID;
CREATE TABLE ballots (
    build BLOB NOT NULL,
    replica TEXT NOT NULL,
    signed BLOB NOT NULL,
    log_archived INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (build, replica)
) WITHOUT ROWID;
CREATE TABLE replica_states (
    build BLOB NOT NULL,
    replica TEXT NOT NULL,
    state TEXT,
    seen_at REAL,
    problem TEXT,
    PRIMARY KEY (build, replica)
) WITHOUT ROWID;
CREATE TABLE results (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    build BLOB NOT NULL UNIQUE,
    line BLOB NOT NULL
);
"""
# Made in a file of any format that lacks it: a version that does not know it leaves it alone.
# `due`: the last time at which a schedule was due and that was dealt with, in minutes since 1970.
SCHEDULES_SCHEMA = """
CREATE TABLE IF NOT EXISTS schedules (
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    name TEXT NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (repository, branch, name)
) WITHOUT ROWID;
"""
# Likewise: sessions of people who logged in, by the SHA-256 of what their browser shows, and who
# changed what (client.storage.sessions, client.storage.audit).
PEOPLE_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    digest BLOB PRIMARY KEY,
    subject TEXT NOT NULL,
    person BLOB NOT NULL,
    began_at REAL NOT NULL,
    ends_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_of_subject ON sessions (subject, began_at);
CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (ends_at);
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    what TEXT NOT NULL,
    who TEXT NOT NULL,
    vouched TEXT NOT NULL,
    build BLOB,
    text TEXT NOT NULL
);
"""
# Likewise. `commits.build`: the number of the newest build whose history names that commit
# (client.storage.commit_archive).
COMMITS_SCHEMA = """
CREATE TABLE IF NOT EXISTS commits (
    id TEXT PRIMARY KEY,
    build INTEGER NOT NULL,
    parents TEXT NOT NULL,
    subject TEXT NOT NULL,
    author TEXT NOT NULL,
    authored INTEGER NOT NULL,
    committed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commits_of_build ON commits (build);
CREATE TABLE IF NOT EXISTS forge_words (
    build BLOB PRIMARY KEY,
    sender TEXT,
    request INTEGER,
    title TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS builds_of_commit ON builds (commit_hex, repository);
"""
# Likewise: nothing in it is not in the other tables (client.storage.build_measures), and the index
# is of what was pushed to a branch, whose history pages show.
MEASURES_SCHEMA = """
CREATE TABLE IF NOT EXISTS build_measures (
    number INTEGER PRIMARY KEY,
    repository TEXT NOT NULL,
    outcome TEXT NOT NULL,
    decided_at REAL NOT NULL,
    queued_seconds REAL NOT NULL,
    built_seconds REAL,
    agreeing INTEGER NOT NULL,
    dissenting INTEGER NOT NULL,
    abstained INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS builds_pushed ON builds (repository, branch, number, state)
    WHERE event = 'push';
"""
# As above. What people are told of builds (client.notifications.message_queue).
MESSAGES_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    target TEXT NOT NULL,
    build BLOB NOT NULL,
    message BLOB NOT NULL,
    since REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    is_settled INTEGER NOT NULL DEFAULT 0,
    given_up TEXT,
    PRIMARY KEY (target, build)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_waiting
    ON messages (target, not_before) WHERE is_settled = 0;
CREATE INDEX IF NOT EXISTS messages_age ON messages (is_settled, since);
"""
# What a build is listed as (client.storage.build_filter.OUTCOMES): the rule of
# client.views.build_view, which a test holds against it. It is computed from the other columns, so
# nobody has to keep it up.
_STATE = """
ALTER TABLE builds ADD COLUMN state TEXT GENERATED ALWAYS AS (CASE
    WHEN statement IS NOT NULL THEN CASE WHEN json_valid(CAST(statement AS TEXT))
        THEN json_extract(CAST(statement AS TEXT), '$.predicate.pbftci_verdict.outcome') END
    WHEN refused IS NOT NULL THEN 'refused'
    WHEN skipped IS NOT NULL THEN 'skipped'
    WHEN never_asked THEN 'cancelled'
    WHEN opened_at IS NULL THEN 'queued'
    ELSE 'building'
END) VIRTUAL;
"""
# Each list of builds is read in the order of one of these, and no further than it is long. That
# `state` comes last lets a rare outcome be looked for without a look at the rows.
_LISTS = """
DROP INDEX builds_of_branch;
CREATE INDEX builds_of_branch ON builds (repository, branch, number, state);
CREATE INDEX builds_of_repository ON builds (repository, number, state, branch);
CREATE INDEX builds_of_any_branch ON builds (branch, number, state);
CREATE INDEX builds_of_state ON builds (state, number);
"""
# What builds saw of their test cases (client.storage.case_archive). `test_builds.number` and
# `test_observations.build` are numbers of builds.
_TESTS = """
CREATE TABLE test_builds (
    number INTEGER PRIMARY KEY,
    repository TEXT NOT NULL,
    seen BLOB NOT NULL
);
CREATE INDEX test_builds_of_repository ON test_builds (repository, number);
CREATE TABLE test_cases (
    number INTEGER PRIMARY KEY,
    sha256 BLOB NOT NULL,
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    score REAL NOT NULL,
    standing BLOB NOT NULL,
    UNIQUE (sha256, repository)
);
CREATE INDEX test_cases_of_state ON test_cases (repository, state, score);
CREATE INDEX test_cases_to_list ON test_cases (repository, score) WHERE state <> 'healthy';
CREATE TABLE test_observations (
    test_case INTEGER NOT NULL,
    build INTEGER NOT NULL,
    seen BLOB NOT NULL,
    PRIMARY KEY (test_case, build)
) WITHOUT ROWID;
CREATE INDEX test_observations_of_build ON test_observations (build);
ALTER TABLE ballots ADD COLUMN tests_archived INTEGER NOT NULL DEFAULT 0;
"""
# From which format -> what makes the next one of it.
MIGRATIONS = {
    4: _STATE + _LISTS,
    5: "ALTER TABLE builds ADD COLUMN author TEXT;",
    6: _TESTS,
}

# How many rows there are of each sort, and where those of a branch and of a build are, so that
# nobody has to look through a queue or a history, which may be long. Made anew by each process and
# kept up by SQLite itself, within the same transaction; it is in memory, nothing of it is in the
# file, and so its format says nothing of it.
_COUNTS = """
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE outbox_counts (
    kind TEXT, state TEXT, repository TEXT, waits_for_approval INTEGER, count INTEGER NOT NULL,
    PRIMARY KEY (kind, state, repository, waits_for_approval)
) WITHOUT ROWID;
INSERT INTO outbox_counts SELECT kind, state, repository, waits_for_approval, count(*)
    FROM outbox GROUP BY kind, repository, waits_for_approval, state;
CREATE TEMP TABLE outbox_places (
    number INTEGER PRIMARY KEY, repository TEXT, branch TEXT, build BLOB
);
CREATE INDEX temp.outbox_branch ON outbox_places (repository, branch);
CREATE INDEX temp.outbox_build ON outbox_places (build);
INSERT INTO outbox_places SELECT number, repository, branch, build FROM outbox;
CREATE TEMP TRIGGER outbox_added AFTER INSERT ON main.outbox BEGIN
    INSERT INTO outbox_places VALUES (NEW.number, NEW.repository, NEW.branch, NEW.build);
    INSERT INTO outbox_counts
    VALUES (NEW.kind, NEW.state, NEW.repository, NEW.waits_for_approval, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TEMP TRIGGER outbox_removed AFTER DELETE ON main.outbox BEGIN
    DELETE FROM outbox_places WHERE number = OLD.number;
    UPDATE outbox_counts SET count = count - 1 WHERE kind = OLD.kind AND state = OLD.state
        AND repository = OLD.repository AND waits_for_approval = OLD.waits_for_approval;
    DELETE FROM outbox_counts WHERE kind = OLD.kind AND state = OLD.state
        AND repository = OLD.repository AND waits_for_approval = OLD.waits_for_approval
        AND count = 0;
END;
CREATE TEMP TRIGGER outbox_changed AFTER UPDATE ON main.outbox
WHEN OLD.state <> NEW.state OR OLD.waits_for_approval <> NEW.waits_for_approval BEGIN
    INSERT INTO outbox_counts
    VALUES (NEW.kind, NEW.state, NEW.repository, NEW.waits_for_approval, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
    UPDATE outbox_counts SET count = count - 1 WHERE kind = OLD.kind AND state = OLD.state
        AND repository = OLD.repository AND waits_for_approval = OLD.waits_for_approval;
    DELETE FROM outbox_counts WHERE kind = OLD.kind AND state = OLD.state
        AND repository = OLD.repository AND waits_for_approval = OLD.waits_for_approval
        AND count = 0;
END;
CREATE TEMP TABLE build_counts (state TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO build_counts SELECT ifnull(state, ''), count(*) FROM builds WHERE TRUE GROUP BY state
    ON CONFLICT DO UPDATE SET count = count + excluded.count;
CREATE TEMP TRIGGER build_added AFTER INSERT ON main.builds BEGIN
    INSERT INTO build_counts VALUES (ifnull(NEW.state, ''), 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TEMP TRIGGER build_removed AFTER DELETE ON main.builds BEGIN
    UPDATE build_counts SET count = count - 1 WHERE state = ifnull(OLD.state, '');
END;
CREATE TEMP TRIGGER build_changed AFTER UPDATE ON main.builds
WHEN OLD.state IS NOT NEW.state BEGIN
    INSERT INTO build_counts VALUES (ifnull(NEW.state, ''), 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
    UPDATE build_counts SET count = count - 1 WHERE state = ifnull(OLD.state, '');
END;
CREATE TEMP TABLE test_counts (state TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO test_counts SELECT state, count(*) FROM test_cases GROUP BY state;
CREATE TEMP TRIGGER test_added AFTER INSERT ON main.test_cases BEGIN
    INSERT INTO test_counts VALUES (NEW.state, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TEMP TRIGGER test_removed AFTER DELETE ON main.test_cases BEGIN
    UPDATE test_counts SET count = count - 1 WHERE state = OLD.state;
END;
CREATE TEMP TRIGGER test_changed AFTER UPDATE ON main.test_cases
WHEN OLD.state <> NEW.state BEGIN
    INSERT INTO test_counts VALUES (NEW.state, 1) ON CONFLICT DO UPDATE SET count = count + 1;
    UPDATE test_counts SET count = count - 1 WHERE state = OLD.state;
END;
"""


class StorageFailed(Exception):
    """The disk did not take it (full, gone, read-only); nothing of the transaction happened."""


class Database:
    """The open file. One process, one thread; nothing is written outside `transaction`."""

    def __init__(
        self, data_directory: Path, cluster_id: bytes, name: str, *, ancestors: Sequence[bytes] = ()
    ) -> None:
        """Open or make the file of this client of this cluster in that folder.

        ancestors: ids of clusters that this one continues. A file of one of them is taken over:
        what was asked and has no answer is asked again, with the numbers 1, 2, 3 ... anew.
        Raises ConfigError: the folder cannot be written, another gateway uses it, or the file is
        damaged, of another cluster or client, not a gateway's, or of a newer format.
        """
        self.file = data_directory / FILE_NAME
        self._owner = (cluster_id, name)
        self._ancestors = ancestors
        self._listeners: list[Callable[[frozenset[bytes]], None]] = []
        # the builds that the transaction has changed so far
        self._changed: set[bytes] = set()
        self._lock = _lock(data_directory)
        try:
            self._connection = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._connection.close()
        os.close(self._lock)

    def listen(self, listener: Callable[[frozenset[bytes]], None]) -> None:
        """Tell this one of each commit that changed builds, and which. It must not raise."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when the block is left. Raises StorageFailed."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StorageFailed(f"{self.file}: {error}") from error
        try:
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise StorageFailed(f"{self.file}: {error}") from error
        except BaseException:
            self._roll_back()
            raise
        changed, self._changed = frozenset(self._changed), set()
        if changed:
            for listener in self._listeners:
                listener(changed)

    def write(
        self, statement: str, values: Sequence[Any] = (), *, build: bytes | None = None
    ) -> int:
        """One changing statement, inside a transaction. Gives back how many rows it touched.

        build: whose record it changes; those who listen are told, once it is on disk.
        """
        assert self._connection.in_transaction, "a write outside a transaction"
        if build is not None:
            self._changed.add(build)
        return self._connection.execute(statement, values).rowcount

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises StorageFailed."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StorageFailed(f"{self.file}: {error}") from error

    def row(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of one query, or None. Raises StorageFailed."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.file, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                self._check_format(connection)
                self._check_owner(connection)
                later = (SCHEDULES_SCHEMA, PEOPLE_SCHEMA, COMMITS_SCHEMA, MEASURES_SCHEMA)
                connection.executescript("".join((*later, MESSAGES_SCHEMA, _COUNTS)))
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise ConfigError.at(
                self.file, "", f"cannot be used: {error}", "restore it, or move it away"
            ) from error
        return connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        script = None
        if version == 0 and application == 0 and tables == 0:
            version = FIRST_FORMAT_VERSION
            script = f"{SCHEMA}{STATUSES_SCHEMA}PRAGMA application_id={APPLICATION_ID};"
        elif application != APPLICATION_ID:
            raise ConfigError.at(
                self.file, "", "is not a gateway's database", "choose another data_directory"
            )
        elif not FIRST_FORMAT_VERSION <= version <= FORMAT_VERSION:
            raise ConfigError.at(
                self.file,
                "",
                f"has format {version}, this version reads {FIRST_FORMAT_VERSION} to "
                f"{FORMAT_VERSION}",
                "use the version of PBFT/CI that wrote it, or a newer one",
            )
        if script is None and version == FORMAT_VERSION:
            return
        steps = "".join(MIGRATIONS[step] for step in range(version, FORMAT_VERSION))
        connection.executescript(
            f"BEGIN;{script or ''}{steps}PRAGMA user_version={FORMAT_VERSION};COMMIT;"
        )

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        """Numbers and signed requests of one cluster mean nothing to another."""
        connection.execute("INSERT OR IGNORE INTO owner VALUES (1, ?, ?)", self._owner)
        owner = connection.execute("SELECT cluster, name FROM owner").fetchone()
        if owner[0] in self._ancestors and owner[1] == self._owner[1]:
            self._take_over(connection)
            return
        if owner != self._owner:
            raise ConfigError.at(
                self.file,
                "",
                f"belongs to {owner[1]} in cluster {owner[0].hex()[:12]}, this is "
                f"{self._owner[1]} in {self._owner[0].hex()[:12]}",
                "choose another data_directory, or move this one away",
            )

    def _take_over(self, connection: sqlite3.Connection) -> None:
        """What was signed for the epoch before means nothing in this one."""
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE owner SET cluster = ?", (self._owner[0],))
        connection.execute("UPDATE counter SET next_timestamp = 1")
        connection.execute(
            "UPDATE outbox SET state = 'resolved', timestamp = NULL, signed = NULL"
            " WHERE timestamp IS NOT NULL"
        )
        connection.execute("COMMIT")

    def _roll_back(self) -> None:
        self._changed.clear()
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def _lock(data_directory: Path) -> int:
    try:
        data_directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError.at(
            data_directory,
            "",
            f"cannot be used as data_directory ({error.strerror})",
            "a folder that can be written to",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError.at(
            data_directory,
            "",
            "another gateway is using this data_directory",
            "stop it, or give this one a folder of its own",
        ) from error
    return lock
