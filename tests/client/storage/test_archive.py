"""client.storage.archive: what is recorded comes back, and logs are complete or absent."""

from pathlib import Path

import pytest

from ci.operations import Event
from client.storage.archive import Archive, ReplyRecord
from client.storage.build_request import BuildRequest
from client.storage.database import Database

COMMIT = "c" * 40


def build_id(index: int) -> bytes:
    return index.to_bytes(32, "big")


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Archive:
    archive = Archive(database, tmp_path)
    with database.transaction():
        for index in range(5):
            archive.add(build_id(index), BuildRequest("r", f"branch {index}"), 100.0 + index)
    return archive


def test_pages_are_newest_first_and_do_not_overlap(archive: Archive) -> None:
    first = archive.page(None, 2)
    second = archive.page(first[-1].number, 2)
    third = archive.page(second[-1].number, 2)
    branches = [record.branch for record in (*first, *second, *third)]
    assert branches == [f"branch {index}" for index in (4, 3, 2, 1, 0)]


def test_a_builds_life(archive: Archive, database: Database) -> None:
    build = build_id(1)
    with database.transaction():
        archive.note_detail(build, "waiting")
    record = archive.get(build)
    assert record is not None
    assert (record.detail, record.commit, record.resolved_at) == ("waiting", None, None)
    with database.transaction():
        archive.note_resolved(build, BuildRequest("r", "b", COMMIT), 1.0)
        archive.note_signed(build, b"request", 2.0)
        archive.note_opened(build, 3.0)
        archive.note_opened(build, 9.0)
        archive.note_decided(build, b"statement", 4.0)
        archive.note_decided(build, b"another", 9.0)
    record = archive.get(build)
    assert record is not None
    assert (record.commit, record.detail, record.request) == (COMMIT, None, b"request")
    assert (record.statement, record.collected) == (b"statement", False)
    times = (record.received_at, record.resolved_at, record.signed_at)
    assert times == (101.0, 1.0, 2.0)
    assert (record.opened_at, record.decided_at) == (3.0, 4.0)
    assert [record.build for record in archive.to_collect()] == [build]
    with database.transaction():
        archive.note_collected(build)
    assert archive.to_collect() == []


def test_what_ended_before_the_network_was_asked_is_no_verdict(
    archive: Archive, database: Database
) -> None:
    """The metrics would count it as a fast one."""
    with database.transaction():
        archive.note_withdrawn(build_id(1), "not wanted")
        archive.note_never_asked(build_id(1), 500.0)
        archive.note_decided(build_id(2), b"{}", 501.0)
    assert [record.build for record in archive.decided_after(0.0)] == [build_id(2)]


def test_a_branch_is_what_was_pushed_to_it(archive: Archive, database: Database) -> None:
    """Its badge shows nothing else, and is not for ever yellow for what is never built."""

    def add(index: int, event: Event, ref: str | None = None) -> bytes:
        archive.add(build_id(index), BuildRequest("r", "main", COMMIT, event, ref), 200.0)
        return build_id(index)

    with database.transaction():
        for index, event in enumerate((Event.PULL_REQUEST, Event.TAG), 10):
            build = add(index, event, "refs/tags/main")
            assert not archive.has_open("r", "main")
            archive.note_decided(build, b"{}", 201.0)
        archive.note_skipped(add(12, Event.PUSH), "[skip ci]")
        archive.note_refused(add(13, Event.PUSH), "no")
        archive.note_never_asked(add(14, Event.PUSH), 202.0)
        assert not archive.has_open("r", "main")
        assert archive.newest_decided("r", "main") is None
        pushed = add(15, Event.PUSH)
        assert archive.has_open("r", "main")
        archive.note_opened(pushed, 203.0)
        assert archive.has_open("r", "main")
        archive.note_decided(pushed, b"{}", 204.0)
        add(16, Event.PULL_REQUEST, "refs/pull/1/head")
        archive.note_decided(build_id(16), b"{}", 205.0)
    assert not archive.has_open("r", "main")
    newest = archive.newest_decided("r", "main")
    assert newest is not None
    assert newest.build == pushed


def test_an_unknown_build_is_none(archive: Archive) -> None:
    assert archive.get(bytes(31) + b"x") is None


def test_a_commit_given_with_a_build_is_a_resolved_one(
    archive: Archive, database: Database
) -> None:
    with database.transaction():
        archive.add(build_id(9), BuildRequest("r", "b", COMMIT), 7.0)
    record = archive.get(build_id(9))
    assert record is not None
    assert (record.commit, record.resolved_at) == (COMMIT, 7.0)


def test_a_signature_is_never_replaced_by_less(archive: Archive, database: Database) -> None:
    build = build_id(1)
    with database.transaction():
        archive.put_reply(build, ReplyRecord("b", False, None))
        archive.put_reply(build, ReplyRecord("a", True, None))
        archive.put_reply(build, ReplyRecord("a", True, b"signature"))
        archive.put_reply(build, ReplyRecord("a", False, None))
    assert archive.replies(build) == [
        ReplyRecord("a", True, b"signature"),
        ReplyRecord("b", False, None),
    ]


def test_the_first_ballot_stays(archive: Archive, database: Database) -> None:
    build = build_id(1)
    with database.transaction():
        archive.put_ballot(build, "a", b"first")
        archive.note_log(build, "a")
        archive.put_ballot(build, "a", b"second")
    (ballot,) = archive.ballots(build)
    assert (ballot.signed, ballot.log_archived) == (b"first", True)


def test_a_log_is_written_whole(archive: Archive, tmp_path: Path) -> None:
    archive.write_logs(build_id(1), {"node0": b"one"})
    archive.write_logs(build_id(1), {"node0": b"two"})
    file = archive.log_file(build_id(1), "node0")
    assert file.read_bytes() == b"two"
    assert [path.name for path in file.parent.iterdir()] == ["node0.log"]
    archive.write_logs(build_id(1), {"node1": b"three", "node2": b"four"})
    assert archive.log_file(build_id(1), "node1").read_bytes() == b"three"
    assert archive.log_file(build_id(1), "node2").read_bytes() == b"four"
    assert file.is_relative_to(tmp_path)


def test_a_log_that_cannot_be_written_leaves_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("client.storage.archive.os.fsync", failing)
    with pytest.raises(OSError, match="no space"):
        archive.write_logs(build_id(1), {"node0": b"log"})
    assert list(archive.log_file(build_id(1), "node0").parent.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", ".hidden", "a\n"])
def test_a_name_that_is_a_path_is_a_fault_of_ours(archive: Archive, name: str) -> None:
    with pytest.raises(AssertionError):
        archive.log_file(build_id(1), name)
