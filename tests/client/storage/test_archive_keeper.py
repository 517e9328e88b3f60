"""archive_keeper: finished builds go by age and number, with a clock of the test's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.flaky import BuildObservation, CaseObservation, SeenBuild
from client.storage.archive import Archive, ReplyRecord, StateRecord
from client.storage.archive_keeper import ArchiveKeeper
from client.storage.build_request import BuildRequest
from client.storage.case_extract import CaseExtract
from client.storage.database import Database
from client.storage.outbox import Outbox
from common.retention import DAY_SECONDS, KeepRules
from tests.waiting import wait_until

CLUSTER = bytes(range(32))
NOW = 1_700_000_000.0
WANTED = BuildRequest("https://example.org/r.git", "main", "c" * 40)


class Shelf:
    """An archive, and builds of the ages that a test says."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.archive = Archive(database, folder)
        self.now = NOW

    def add(self, number: int, days_ago: float, *, is_finished: bool = True) -> bytes:
        """A build with a reply, a ballot, a state and a log."""
        build = bytes([number]) * 32
        with self.database.transaction():
            self.archive.add(build, WANTED, NOW - days_ago * DAY_SECONDS)
            self.archive.put_reply(build, ReplyRecord("node0", True, None))
            self.archive.put_ballot(build, "node0", b"signed")
            self.archive.put_state(build, StateRecord("node1", "building", NOW, None))
            if is_finished:
                self.archive.note_collected(build)
            else:
                Outbox(self.database).add_build(bytes([number]) * 32, build, WANTED)
        self.archive.write_logs(build, {"node0": b"log"})
        return build

    async def sweep(self, rules: KeepRules | None = None) -> int:
        """Sweep; how many were removed."""
        keeper = ArchiveKeeper(
            self.database,
            self.archive,
            rules or KeepRules(),
            faults_max=1,
            clock=lambda: self.now,
        )
        await keeper.sweep()
        return keeper.removed_count

    def left(self) -> list[int]:
        """The builds that are left."""
        return sorted(record.build[0] for record in self.archive.page(None, 1000))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    database = Database(tmp_path, CLUSTER, "client")
    yield Shelf(tmp_path, database)
    database.close()


async def test_old_builds_go_with_all_that_belongs_to_them(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    old = shelf.add(1, 10)
    shelf.add(2, 5)
    assert await shelf.sweep(KeepRules(seconds_max=7 * DAY_SECONDS)) == 1
    assert shelf.left() == [2]
    assert "removed 1 finished builds: 1 too old" in caplog.text
    assert shelf.archive.replies(old) == []
    assert shelf.archive.ballots(old) == []
    assert shelf.archive.states(old) == []
    assert not shelf.archive.log_file(old, "node0").parent.exists()
    shelf.now += 3 * DAY_SECONDS
    assert await shelf.sweep(KeepRules(seconds_max=7 * DAY_SECONDS)) == 1
    assert shelf.left() == []


async def test_the_oldest_make_room(shelf: Shelf) -> None:
    for number in range(1, 6):
        shelf.add(number, 10 - number)
    assert await shelf.sweep(KeepRules(items_max=2)) == 3
    assert shelf.left() == [4, 5]


async def test_what_is_unfinished_is_never_removed(shelf: Shelf) -> None:
    shelf.add(1, 1000, is_finished=False)
    shelf.add(2, 1000)
    assert await shelf.sweep(KeepRules(items_max=0, seconds_max=1)) == 1
    assert shelf.left() == [1]
    assert shelf.archive.log_file(bytes([1]) * 32, "node0").exists()


async def test_many_go_in_several_commits(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.storage.archive_keeper.REMOVED_AT_ONCE_MAX", 2)
    for number in range(1, 8):
        shelf.add(number, 1)
    assert await shelf.sweep(KeepRules(items_max=1)) == 6
    assert shelf.left() == [7]


async def test_a_sweep_reads_no_more_of_a_long_history(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its steps reads a few rows, however many builds there are."""
    monkeypatch.setattr("client.storage.archive_keeper.REMOVED_AT_ONCE_MAX", 3)
    monkeypatch.setattr("client.storage.archive_keeper.LOOKED_AT_ONCE_MAX", 3)
    for number in range(1, 10):
        shelf.add(number, 1, is_finished=number != 1)
    read: list[int] = []
    rows = shelf.database.rows

    def counted(*arguments: Any) -> list[tuple[Any, ...]]:
        found = rows(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(shelf.database, "rows", counted)
    assert shelf.archive.count_finished() == 8
    assert await shelf.sweep(KeepRules(items_max=100, seconds_max=2 * DAY_SECONDS)) == 0
    assert max(read) == 3
    assert await shelf.sweep(KeepRules(items_max=4)) == 4
    assert shelf.archive.count_finished() == 4
    assert await shelf.sweep(KeepRules(seconds_max=1)) == 4
    assert shelf.left() == [1]
    assert max(read) == 3


async def test_sweeps_go_on_after_any_fault(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client.storage.archive_keeper.SWEEP_SECONDS", 0.01)
    shelf.add(1, 10)
    count, faults = shelf.archive.count_finished, [ZeroDivisionError()]

    def count_or_fault() -> int:
        if faults:
            raise faults.pop()
        return count()

    monkeypatch.setattr(shelf.archive, "count_finished", count_or_fault)
    keeper = ArchiveKeeper(
        shelf.database,
        shelf.archive,
        KeepRules(items_max=0),
        faults_max=1,
        clock=lambda: shelf.now,
    )
    keeper.start()
    await wait_until(lambda: keeper.removed_count == 1, "a sweep after the fault")
    await keeper.close()
    assert "ZeroDivisionError" in caplog.text


async def test_logs_that_a_crash_left_without_their_build_go(shelf: Shelf) -> None:
    kept = shelf.add(1, 1)
    orphan = bytes([9]) * 32
    shelf.archive.write_logs(orphan, {"node0": b"log"})
    (shelf.folder / "logs" / "something else").mkdir()
    assert await shelf.sweep() == 0
    assert not shelf.archive.log_file(orphan, "node0").exists()
    assert shelf.archive.log_file(kept, "node0").exists()
    assert (shelf.folder / "logs" / "something else").exists()


async def test_what_is_known_of_test_cases_ages_without_builds(shelf: Shelf) -> None:
    observed = CaseObservation(("node3",), (), ("node0", "node1", "node2"))
    seen = BuildObservation("set", ("node0",), (), ("node0",), {"x": observed})
    cases = shelf.archive.cases
    with shelf.database.transaction():
        cases.put(1, "r", SeenBuild(NOW, "c", None, False, seen))
        cases.update("r", 1, NOW)
    await shelf.sweep()
    assert cases.counts()["suspect"] == 1
    shelf.now = NOW + 31 * DAY_SECONDS
    await shelf.sweep()
    assert (cases.counts()["suspect"], cases.repositories(1)) == (0, [])


async def test_a_removed_build_takes_its_observations_with_it(shelf: Shelf) -> None:
    build = shelf.add(1, days_ago=1)
    record = shelf.archive.get(build)
    assert record is not None
    with shelf.database.transaction():
        shelf.archive.cases.put(
            record.number, "r", SeenBuild(NOW, "c", None, False, BuildObservation("set"))
        )
    shelf.archive.write_extracts(build, {"node0": CaseExtract({"x": "why"}, (("y", 1.5),))})
    assert shelf.archive.read_extracts(build, ["node0", "node1"]) == {
        "node0": CaseExtract({"x": "why"}, (("y", 1.5),))
    }
    await shelf.sweep(KeepRules(items_max=0))
    assert shelf.archive.cases.repositories(1) == []
    assert shelf.archive.read_extracts(build, ["node0"]) == {}
