"""The lasting record of every accepted build: times, verdict, replies, ballots, logs.

Rows are in the gateway's database, logs are files beside it, complete or absent. Every method
that changes rows must be called inside `Database.transaction`.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ci.operations import Event
from client.storage.audit import Audit
from client.storage.build_filter import ALL, BuildFilter, condition_of
from client.storage.build_history import BuildHistory, Line
from client.storage.build_measures import BuildMeasures
from client.storage.build_request import BuildRequest
from client.storage.case_archive import CaseArchive
from client.storage.case_extract import CaseExtract, decode_extract, encode_extract
from client.storage.commit_archive import CommitArchive
from client.storage.database import Database
from common.log_times import Entry, read_times
from common.new_file import sync_folder

LOG_FOLDER = "logs"
LOG_SUFFIX = ".log"
TESTS_SUFFIX = ".tests.json"
TIMES_SUFFIX = ".times"
# Anybody who may rebuild may do so for ever.
REBUILDS_SHOWN_MAX = 20
# Replicas' names are checked when the configuration is read; a path is worth a second look.
_BUILD_NAME = re.compile(r"[0-9a-f]{64}")
_REPLICA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class BuildRecord(msgspec.Struct, frozen=True, array_like=True):
    """One build as the gateway knows it.

    Times are seconds since 1970, UTC, by this machine; None: not yet.
    """

    # counts this gateway's builds, from 1
    number: int
    # its id, 32 bytes
    build: bytes
    repository: str
    # of a tag: the tag's name; of a pull request: the branch that it is to be merged into
    branch: str
    # None: not resolved yet, or there is no such ref
    commit: str | None
    # one line on what it waits for; None: nothing to say
    detail: str | None
    # why the network will not build it
    refused: str | None
    # the Signed Request that the statement's subject digest covers
    request: bytes | None
    # the accepted verdict's bytes
    statement: bytes | None
    received_at: float
    # when its commit was known
    resolved_at: float | None
    # when its request was signed
    signed_at: float | None
    # when the network had it
    opened_at: float | None
    # when its verdict was archived
    decided_at: float | None
    # whether ballots and logs of all replicas are here, or no longer waited for
    collected: bool
    # as in the request
    event: Event = Event.PUSH
    # as in the request; None for a branch
    ref: str | None = None
    # why it was never requested; None: it was not skipped
    skipped: str | None = None
    # why this gateway withdrew its request; None: it did not
    withdrawn: str | None = None
    # it was withdrawn before the network was asked
    is_never_asked: bool = False
    # the build that this one does again
    rebuild_of: bytes | None = None
    # whose pull request it is, as the forge says; None: it does not say, or it is none
    author: str | None = None

    @property
    def line(self) -> Line:
        """What it has in common with the builds before it and after it."""
        return Line(self.repository, self.branch, self.event, self.ref)


class PushedBuild(msgspec.Struct, frozen=True):
    """A build of what was pushed to a branch, in short.

    outcome: what it is listed as. built_seconds: as in its measure; None: not known (yet).
    """

    number: int
    outcome: str
    built_seconds: float | None


class ReplyRecord(msgspec.Struct, frozen=True):
    """What one replica answered: the accepted verdict or not, and its signature over it.

    attestation: the DSSE signature (64 bytes), checked before it was kept; None: none that holds.
    """

    replica: str
    agrees: bool
    attestation: bytes | None


class BallotRecord(msgspec.Struct, frozen=True):
    """A replica's ballot: its own Signed Request CastBallot, checked before it was kept."""

    replica: str
    signed: bytes
    log_archived: bool
    # whether the extract of its test report is here (client.storage.case_extract)
    tests_archived: bool = False


class StateRecord(msgspec.Struct, frozen=True):
    """What a replica said last of a build that it has cast no ballot on.

    state: its own words, None: it never said any. seen_at: when, seconds since 1970.
    problem: why its last answer was none; None: it answers.
    """

    replica: str
    state: str | None
    seen_at: float | None
    problem: str | None


_COLUMNS = (
    "number, build, repository, branch, commit_hex, detail, refused, request, statement, "
    "received_at, resolved_at, signed_at, opened_at, decided_at, collected, "
    "event, ref, skipped, withdrawn, never_asked, rebuild_of, author"
)


# The event is no parameter: SQLite then sees that the index of what was pushed will do.
_PUSHED = "event = 'push' AND repository = ? AND branch = ?"


class Archive:
    """Builds' records, newest first, and their logs."""

    def __init__(self, database: Database, data_directory: Path) -> None:
        self._database = database
        self._logs = data_directory / LOG_FOLDER
        self.cases = CaseArchive(database)
        self.audit = Audit(database)
        self.commits = CommitArchive(database)
        self.history = BuildHistory(database)
        self.measures = BuildMeasures(database)

    def listen(self, listener: Callable[[frozenset[bytes]], None]) -> None:
        """Tell this one which builds changed, once that is on disk. It must not raise."""
        self._database.listen(listener)

    def add(self, build: bytes, request: BuildRequest, at: float) -> bool:
        """A build was accepted. A commit given with it is a resolved one. False: it is here."""
        commit = request.commit
        resolved_at = None if commit is None else at
        touched = self._database.write(
            "INSERT INTO builds (build, repository, branch, commit_hex, received_at, resolved_at, "
            "event, ref, author) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                build,
                request.repository,
                request.branch,
                commit,
                at,
                resolved_at,
                request.event,
                request.ref,
                request.author,
            ),
            build=build,
        )
        if touched == 1:
            self.commits.note_words(build, request.words)
        return touched == 1

    def note_skipped(self, build: bytes, reason: str) -> None:
        """The build is never asked for, as whoever pushed wished."""
        self._database.write(
            "UPDATE builds SET skipped = ?, collected = 1 WHERE build = ?",
            (reason, build),
            build=build,
        )

    def note_withdrawn(self, build: bytes, reason: str) -> None:
        """This gateway withdraws its request, whether the network has it or not."""
        self._database.write(
            "UPDATE builds SET withdrawn = ? WHERE build = ?", (reason, build), build=build
        )

    def note_never_asked(self, build: bytes, at: float) -> None:
        """It was withdrawn before the network had it: that is its end."""
        self._database.write(
            "UPDATE builds SET never_asked = 1, detail = NULL, collected = 1, decided_at = ? "
            "WHERE build = ?",
            (at, build),
            build=build,
        )

    def note_rebuild(self, build: bytes, rebuild_of: bytes) -> None:
        """This build does that one again."""
        self._database.write(
            "UPDATE builds SET rebuild_of = ? WHERE build = ?",
            (rebuild_of, build),
            build=build,
        )

    def decided_like(
        self, record: BuildRecord, without: Iterable[str], count: int
    ) -> list[BuildRecord]:
        """The newest decided builds of a build's repository, branch, event and ref.

        without: outcomes that do not count. count: at most so many.
        """
        unwanted = tuple(without)
        marks = ", ".join("?" * len(unwanted))
        return self._select(
            "WHERE repository = ? AND branch = ? AND +event = ? AND ref IS ? "
            f"AND statement IS NOT NULL AND +state NOT IN ({marks}) ORDER BY number DESC LIMIT ?",
            (record.repository, record.branch, record.event, record.ref, *unwanted, count),
        )

    def rebuilds(self, build: bytes) -> list[bytes]:
        """The builds that did this one again, oldest first."""
        rows = self._database.rows(
            "SELECT build FROM builds WHERE rebuild_of = ? ORDER BY number LIMIT ?",
            (build, REBUILDS_SHOWN_MAX),
        )
        return [bytes(row[0]) for row in rows]

    def note_resolved(self, build: bytes, request: BuildRequest, at: float) -> None:
        """The ref points at its commit, or (None) does not exist; it may be a tag by now."""
        self._database.write(
            "UPDATE builds SET commit_hex = ?, event = ?, ref = ?, resolved_at = ?, "
            "detail = NULL WHERE build = ?",
            (request.commit, request.event, request.ref, at, build),
            build=build,
        )

    def note_signed(self, build: bytes, request: bytes, at: float) -> None:
        """The request for it has its number."""
        self._database.write(
            "UPDATE builds SET request = ?, signed_at = ?, detail = NULL WHERE build = ?",
            (request, at, build),
            build=build,
        )

    def note_opened(self, build: bytes, at: float) -> None:
        """The network has it open."""
        self._database.write(
            "UPDATE builds SET opened_at = coalesce(opened_at, ?), detail = NULL WHERE build = ?",
            (at, build),
            build=build,
        )

    def note_detail(self, build: bytes, detail: str) -> None:
        """What it waits for, in one line."""
        self._database.write(
            "UPDATE builds SET detail = ? WHERE build = ? AND statement IS NULL",
            (detail, build),
            build=build,
        )

    def clear_detail(self, build: bytes) -> None:
        """It waits for nothing but its verdict."""
        self._database.write(
            "UPDATE builds SET detail = NULL WHERE build = ?", (build,), build=build
        )

    def note_refused(self, build: bytes, reason: str) -> None:
        """The network will not build it."""
        self._database.write(
            "UPDATE builds SET refused = ?, detail = NULL, collected = 1 WHERE build = ?",
            (reason, build),
            build=build,
        )

    def note_decided(self, build: bytes, statement: bytes, at: float) -> None:
        """The verdict was accepted. The first one stays."""
        self._database.write(
            "UPDATE builds SET statement = ?, decided_at = ?, detail = NULL, "
            "opened_at = coalesce(opened_at, ?) WHERE build = ? AND statement IS NULL",
            (statement, at, at, build),
            build=build,
        )

    def note_collected(self, build: bytes) -> None:
        """Nothing more is waited for."""
        self._database.write(
            "UPDATE builds SET collected = 1 WHERE build = ? AND NOT collected",
            (build,),
            build=build,
        )

    def put_reply(self, build: bytes, reply: ReplyRecord) -> None:
        """Keep a replica's reply; an agreeing one with a signature is not replaced by less."""
        self._database.write(
            "INSERT INTO replies VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "agrees = excluded.agrees, attestation = excluded.attestation "
            "WHERE replies.attestation IS NULL",
            (build, reply.replica, reply.agrees, reply.attestation),
            build=build,
        )

    def put_ballot(self, build: bytes, replica: str, signed: bytes) -> None:
        """Keep a replica's ballot; the first one stays."""
        self._database.write(
            "INSERT INTO ballots (build, replica, signed) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (build, replica, signed),
            build=build,
        )

    def note_log(self, build: bytes, replica: str) -> None:
        """The log that this ballot names is in its file."""
        self._database.write(
            "UPDATE ballots SET log_archived = 1 WHERE build = ? AND replica = ?",
            (build, replica),
            build=build,
        )

    def note_tests(self, build: bytes, replica: str) -> None:
        """The extract of the test report that this ballot names is in its file."""
        self._database.write(
            "UPDATE ballots SET tests_archived = 1 WHERE build = ? AND replica = ?",
            (build, replica),
            build=build,
        )

    def put_state(self, build: bytes, state: StateRecord) -> None:
        """Keep what a replica said last; a later one replaces it."""
        self._database.write(
            "INSERT OR REPLACE INTO replica_states VALUES (?, ?, ?, ?, ?)",
            (build, state.replica, state.state, state.seen_at, state.problem),
            build=build,
        )

    def states(self, build: bytes) -> list[StateRecord]:
        """What is kept of what replicas without a ballot said, by replica."""
        rows = self._database.rows(
            "SELECT replica, state, seen_at, problem FROM replica_states WHERE build = ? "
            "ORDER BY replica",
            (build,),
        )
        return [StateRecord(*row) for row in rows]

    def has(self, build: bytes) -> bool:
        """Is there a record of it?"""
        return bool(self._database.rows("SELECT 1 FROM builds WHERE build = ?", (build,)))

    def newest_of_commit(self, request: BuildRequest, commit: str) -> int | None:
        """The number of the newest build of that commit on the same ref, or None."""
        rows = self._database.rows(
            "SELECT max(number) FROM builds WHERE repository = ? AND branch = ? AND event = ? "
            "AND ref IS ? AND commit_hex = ?",
            (request.repository, request.branch, request.event, request.ref, commit),
        )
        return None if rows[0][0] is None else int(rows[0][0])

    def get(self, build: bytes) -> BuildRecord | None:
        """The record of a build, or None."""
        rows = self._select("WHERE build = ?", (build,))
        return rows[0] if rows else None

    def ids_beginning(self, digits: str, ids_max: int) -> list[bytes]:
        """The ids of builds that begin with these hexadecimal digits (at most 64)."""
        low, high = (bytes.fromhex(digits.ljust(64, pad)) for pad in "0f")
        rows = self._database.rows(
            "SELECT build FROM builds WHERE build BETWEEN ? AND ? LIMIT ?", (low, high, ids_max)
        )
        return [bytes(row[0]) for row in rows]

    def page(
        self, before: int | None, records_max: int, only: BuildFilter = ALL
    ) -> list[BuildRecord]:
        """The newest records of a list with a number below `before` (None: of all)."""
        condition, values = condition_of(before, only)
        return self._select(f"{condition}ORDER BY number DESC LIMIT ?", (*values, records_max))

    def repositories(self, repositories_max: int) -> list[str]:
        """The repositories that there are builds of, in the order of their names."""
        # One look into the index per repository, however many builds each has.
        rows = self._database.rows(
            "WITH RECURSIVE found (name) AS (SELECT min(repository) FROM builds UNION ALL "
            "SELECT (SELECT min(repository) FROM builds WHERE repository > name) FROM found "
            "WHERE name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL LIMIT ?",
            (repositories_max,),
        )
        return [str(row[0]) for row in rows]

    def newest_branches(self, repository: str | None, builds_max: int) -> list[str]:
        """The branches of the newest builds, without doubles, the newest first."""
        condition, values = condition_of(None, BuildFilter(repository=repository))
        rows = self._database.rows(
            f"SELECT branch FROM builds {condition}ORDER BY number DESC LIMIT ?",  # noqa: S608 - constants only
            (*values, builds_max),
        )
        return list(dict.fromkeys(str(row[0]) for row in rows))

    def count(self, outcome: str) -> int:
        """How many builds are listed under this outcome."""
        rows = self._database.rows("SELECT count FROM build_counts WHERE state = ?", (outcome,))
        return int(rows[0][0]) if rows else 0

    def newest_decided(
        self, repository: str, branch: str, before: int | None = None
    ) -> BuildRecord | None:
        """The newest build of what was pushed to that branch with a verdict, or None.

        before: only of those with a lower number. A request into the branch and a tag of its name
        say nothing of it.
        """
        is_below = "" if before is None else "AND number < ? "
        rows = self._select(
            "WHERE repository = ? AND branch = ? AND event = ? AND statement IS NOT NULL "
            f"{is_below}ORDER BY number DESC LIMIT 1",
            (repository, branch, Event.PUSH, *(() if before is None else (before,))),
        )
        return rows[0] if rows else None

    def built_branches(self, branches_max: int) -> list[tuple[str, str]]:
        """Repositories and branches that there are builds of, those of the newest builds first."""
        rows = self._database.rows(
            "SELECT repository, branch FROM builds GROUP BY repository, branch "
            "ORDER BY max(number) DESC LIMIT ?",
            (branches_max,),
        )
        return [(str(repository), str(branch)) for repository, branch in rows]

    def pushed(
        self, repository: str, branch: str, *, outcomes: Sequence[str], builds_max: int
    ) -> list[PushedBuild]:
        """The newest builds of what was pushed to that branch with such an outcome."""
        rows = self._database.rows(
            "SELECT number, state, (SELECT built_seconds FROM build_measures "  # noqa: S608 - constants only
            "WHERE build_measures.number = builds.number) FROM builds "
            f"WHERE {_PUSHED} AND state IN ({_places(outcomes)}) "
            "ORDER BY number DESC LIMIT ?",
            (repository, branch, *outcomes, builds_max),
        )
        return [PushedBuild(*row) for row in rows]

    def first_since(
        self, repository: str, branch: str, *, outcomes: Sequence[str], others: Sequence[str]
    ) -> tuple[BuildRecord | None, BuildRecord | None]:
        """Of what was pushed to that branch: the first build with one of `outcomes` after the
        newest with one of `others`, and that newest one. None: there is none."""
        before = self._select(
            f"WHERE {_PUSHED} AND state IN ({_places(others)}) ORDER BY number DESC LIMIT 1",
            (repository, branch, *others),
        )
        after = before[0].number if before else 0
        first = self._select(
            f"WHERE {_PUSHED} AND state IN ({_places(outcomes)}) AND number > ? "
            "ORDER BY number LIMIT 1",
            (repository, branch, *outcomes, after),
        )
        return first[0] if first else None, before[0] if before else None

    def by_number(self, number: int) -> BuildRecord | None:
        """The record of the build with that number, or None."""
        rows = self._select("WHERE number = ?", (number,))
        return rows[0] if rows else None

    def has_open(self, repository: str, branch: str) -> bool:
        """Whether a build of what was pushed to that branch waits for its verdict."""
        rows = self._database.rows(
            "SELECT 1 FROM builds WHERE repository = ? AND branch = ? AND event = ? "
            "AND state IN ('queued', 'building') LIMIT 1",
            (repository, branch, Event.PUSH),
        )
        return bool(rows)

    def counts(self) -> dict[str, int]:
        """How many builds there are: open, refused, skipped (by its author or by the replicas),
        and with another outcome (decided)."""
        rows = self._database.rows("SELECT state, count FROM build_counts")
        states = {str(state): int(count) for state, count in rows}
        counts = {
            "open": states.pop("queued", 0) + states.pop("building", 0),
            "refused": states.pop("refused", 0),
            "skipped": states.pop("skipped", 0),
        }
        return {"decided": sum(states.values()), **counts}

    def decided_after(self, decided_at: float) -> list[BuildRecord]:
        """Builds whose verdict was accepted after that time, oldest first."""
        # What ended before the network was asked has such a time too, and no verdict.
        return self._select(
            "WHERE decided_at > ? AND statement IS NOT NULL ORDER BY decided_at", (decided_at,)
        )

    def to_collect(self) -> list[BuildRecord]:
        """Decided builds whose ballots and logs are still waited for, oldest first."""
        return self._select("WHERE statement IS NOT NULL AND collected = 0 ORDER BY number")

    def replies(self, build: bytes) -> list[ReplyRecord]:
        """The replies kept for a build, by replica."""
        rows = self._database.rows(
            "SELECT replica, agrees, attestation FROM replies WHERE build = ? ORDER BY replica",
            (build,),
        )
        return [
            ReplyRecord(replica, bool(agrees), signature) for replica, agrees, signature in rows
        ]

    def ballots(self, build: bytes) -> list[BallotRecord]:
        """The ballots kept for a build, by replica."""
        rows = self._database.rows(
            "SELECT replica, signed, log_archived, tests_archived FROM ballots WHERE build = ? "
            "ORDER BY replica",
            (build,),
        )
        return [
            BallotRecord(replica, signed, bool(has_log), bool(has_tests))
            for replica, signed, has_log, has_tests in rows
        ]

    def count_finished(self) -> int:
        """How many builds there are for which nothing more is waited for."""
        rows = self._database.rows(
            "SELECT (SELECT total(count) FROM build_counts) "
            "- (SELECT total(count) FROM outbox_counts WHERE kind = 'build') "
            "- (SELECT count(*) FROM builds WHERE statement IS NOT NULL AND collected = 0)"
        )
        return int(rows[0][0])

    def oldest_finished(self, builds_max: int) -> list[tuple[bytes, float]]:
        """(build, when it was received) of the oldest for which nothing more is waited for."""
        rows = self._database.rows(
            "SELECT build, received_at FROM builds WHERE collected = 1 AND NOT EXISTS "
            "(SELECT 1 FROM outbox_places WHERE outbox_places.build = builds.build) "
            "ORDER BY number LIMIT ?",
            (builds_max,),
        )
        return [(bytes(build), float(at)) for build, at in rows]

    def remove(self, build: bytes) -> None:
        """Forget a finished build; `remove_logs` is for its files."""
        record = self.get(build)
        if record is not None:
            self.cases.remove(record.number)
            self.commits.remove(build, record.number)
            self.measures.remove(record.number)
        for table in ("builds", "replies", "ballots", "replica_states"):
            self._database.write(f"DELETE FROM {table} WHERE build = ?", (build,), build=build)  # noqa: S608 - constants only

    def remove_logs(self, builds: Iterable[bytes]) -> None:
        """Remove the archived logs of builds that are no longer here. Blocking."""
        for build in builds:
            shutil.rmtree(self._logs / build.hex(), ignore_errors=True)

    def logged_builds(self) -> list[bytes]:
        """The builds whose logs are here, though their records may not be. Blocking."""
        if not self._logs.is_dir():
            return []
        names = os.listdir(self._logs)
        return [bytes.fromhex(name) for name in names if _BUILD_NAME.fullmatch(name)]

    def log_file(self, build: bytes, replica: str) -> Path:
        """Where the archived log of that replica is, if it is."""
        assert _REPLICA_NAME.fullmatch(replica), "a replica's name is checked before it is a path"
        return self._logs / build.hex() / (replica + LOG_SUFFIX)

    def write_times(self, build: bytes, replica: str, times: bytes) -> None:
        """Keep a replica's account of when its log came (common.log_times). Blocking.

        What a power cut takes of it is no loss. Raises OSError.
        """
        file = self._times_file(build, replica)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(times)

    def read_times(self, build: bytes, replica: str) -> tuple[Entry, ...]:
        """When that replica's log came, by its own account; empty: it does not say. Blocking."""
        try:
            return read_times(self._times_file(build, replica).read_bytes())
        except OSError:
            return ()

    def _times_file(self, build: bytes, replica: str) -> Path:
        return self.log_file(build, replica).with_name(replica + TIMES_SUFFIX)

    def write_extracts(self, build: bytes, extracts: Mapping[str, CaseExtract]) -> None:
        """Put what is kept of test details, by replica, into files; as `write_logs`. Blocking."""
        for replica, extract in extracts.items():
            self._write_log(self._extract_file(build, replica), encode_extract(extract))
        sync_folder(self._logs / build.hex())
        sync_folder(self._logs)

    def read_extracts(self, build: bytes, replicas: Iterable[str]) -> dict[str, CaseExtract]:
        """What is kept of the test details of these replicas. Blocking.

        One that cannot be read is left out: nothing follows from it but what people are shown.
        """
        extracts = {}
        for replica in replicas:
            with contextlib.suppress(OSError, ValueError):
                data = self._extract_file(build, replica).read_bytes()
                extracts[replica] = decode_extract(data)
        return extracts

    def _extract_file(self, build: bytes, replica: str) -> Path:
        return self.log_file(build, replica).with_name(replica + TESTS_SUFFIX)

    def write_logs(self, build: bytes, logs: Mapping[str, bytes]) -> None:
        """Put logs, by replica, into their files: each complete or absent, also after a crash.

        Raises OSError; then the caller writes all of them again. Blocking.
        """
        for replica, log in logs.items():
            self._write_log(self.log_file(build, replica), log)
        sync_folder(self._logs / build.hex())
        sync_folder(self._logs)

    def _write_log(self, file: Path, log: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(log)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise

    def _select(self, condition: str, values: tuple[Any, ...] = ()) -> list[BuildRecord]:
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM builds {condition}", values)  # noqa: S608 - constants only
        return [msgspec.convert(row, BuildRecord, strict=False) for row in rows]


def _places(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
