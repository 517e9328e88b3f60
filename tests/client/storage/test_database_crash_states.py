"""The gateway's database after every kind of crash: an accepted webhook is never lost.

Below SQLite each write is recorded, and the real code opens the file again in every state that a
power cut may leave it in; and with a disk that refuses single writes.
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.storage.build_request import BuildRequest
from client.storage.database import Database, StorageFailed
from client.storage.outbox import Outbox
from tests.node.crash_states import crash_states
from tests.node.recording_disk import Acknowledged, Operation, recording
from tests.thoroughness import times

CLUSTER = bytes(32)
TABLES = ("owner", "counter", "outbox", "builds", "replies", "ballots", "results")
REQUESTS = 12
TRIES_MAX = 20

Contents = dict[str, list[tuple[Any, ...]]]


def _contents(database: Database) -> Contents:
    return {table: database.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


def _open(folder: Path) -> Database:
    return Database(folder, CLUSTER, "client")


def _steps(outbox: Outbox, database: Database) -> list[Callable[[], object]]:
    """The life of some requests, interleaved; each step is one transaction."""

    def name(number: int) -> bytes:
        return bytes([number]) * 32

    def take_timestamp(number: int) -> None:
        (row,) = [row for row in outbox.unfinished() if row.identity == name(number)]
        outbox.take_timestamp(row, lambda timestamp, row: b"signed %d" % timestamp + bytes(300))

    def add(number: int) -> None:
        wanted = BuildRequest("https://example.org/r.git", "main")
        outbox.add_build(name(number), name(number), wanted)
        database.write(
            "INSERT INTO builds (build, repository, branch, received_at) VALUES (?, 'r', 'b', 0)",
            (name(number),),
        )

    steps: list[Callable[[], object]] = []
    for number in range(REQUESTS + 4):
        for behind, step in enumerate(
            (
                add,
                lambda n: outbox.resolve(name(n), BuildRequest("r", "b", "ab" * 20)),
                take_timestamp,
                lambda n: outbox.open(name(n)),
                lambda n: outbox.finish(name(n)),
            )
        ):
            if 0 <= number - behind < REQUESTS:
                steps.append(lambda step=step, n=number - behind: step(n))  # type: ignore[misc]
    return steps


def _record(
    folder: Path, first: int, count: int, error_number: int
) -> tuple[list[Operation], list[Contents], int]:
    """Do all steps while the disk refuses some writes; what was done, promised, and refused."""
    promised: list[Contents] = []
    with recording(folder) as recorder:
        database = _open(folder)
        database.rows("PRAGMA wal_autocheckpoint = 10")
        recorder.fail(first, count, error_number)
        for step in [lambda: None, *_steps(Outbox(database), database)]:
            _do(database, step)
            promised.append(_contents(database))
            recorder.note(Acknowledged(len(promised) - 1))
        refused = recorder.failed
        database.close()
        return recorder.operations, promised, refused


def _do(database: Database, step: Callable[[], object]) -> None:
    for _ in range(TRIES_MAX):
        before = _contents(database)
        try:
            with database.transaction():
                step()
        except StorageFailed:
            assert _contents(database) == before, "half of a transaction stayed"
        else:
            return
    raise AssertionError("the disk takes writes again, and the database does not")


def _check(folder: Path, operations: list[Operation], promised: list[Contents], rate: float) -> int:
    count = 0
    for state in crash_states(operations, random.Random(count), rate):
        where = folder / f"state-{count}"
        state.write(where)
        database = _open(where)
        allowed = promised[max(0, state.promise) : state.promise + 2]
        assert _contents(database) in allowed, f"after {state.operations} operations"
        database.close()
        count += 1
        for file in where.iterdir():
            file.unlink()
    return count


@pytest.mark.short
def test_no_crash_loses_what_was_committed(tmp_path: Path) -> None:
    operations, promised, _ = _record(tmp_path / "gateway", 0, 0, errno.EIO)
    assert promised[-1]["counter"] == [(1, REQUESTS + 1)]
    assert _check(tmp_path, operations, promised, 0.4) > 200


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_crash_of_thousands_loses_what_was_committed(tmp_path: Path) -> None:
    operations, promised, _ = _record(tmp_path / "gateway", 0, 0, errno.EIO)
    assert promised[-1]["counter"] == [(1, REQUESTS + 1)]
    assert _check(tmp_path, operations, promised, times(1)) > times(1_000)


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_is_refused_is_no_commit(tmp_path: Path, error_number: int) -> None:
    for first in range(0, 120, 11):
        folder = tmp_path / f"{first}"
        operations, promised, refused = _record(folder / "gateway", first, 2, error_number)
        assert refused == 2
        assert promised[-1]["counter"] == [(1, REQUESTS + 1)]
        _check(folder, operations, promised, 0.02)
