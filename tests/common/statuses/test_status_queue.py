"""common.statuses.status_queue: the newest word stays, whatever the order in which words come."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.storage.database import Database
from common.forges.shared.status import CommitStatus, State
from common.statuses import status_queue as queue_module
from common.statuses.status_queue import StatusQueue, WaitingStatus

COMMIT = "a" * 40


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path, bytes(32), "client")
    yield database
    database.close()


def status(text: str = "text", commit: str = COMMIT, context: str = "pbft-ci") -> CommitStatus:
    return CommitStatus(commit, context, State.PENDING, text)


def put(
    database: Database, number: int, is_final: bool, text: str = "text", now: float = 1.0
) -> bool:
    with database.transaction():
        return StatusQueue(database).put("r", number, status(text), is_final=is_final, now=now)


def next_of(database: Database, repository: str = "r") -> WaitingStatus:
    waiting = StatusQueue(database).next(repository)
    assert waiting is not None
    return waiting


words = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(said=words, are_posted=st.lists(st.booleans(), min_size=12, max_size=12))
def test_what_is_posted_never_goes_back(
    tmp_path_factory: pytest.TempPathFactory,
    said: list[tuple[int, bool]],
    are_posted: list[bool],
) -> None:
    database = Database(tmp_path_factory.mktemp("queue"), bytes(32), "client")
    queue = StatusQueue(database)
    posted: list[tuple[int, bool]] = []
    for (number, is_final), is_posted in zip(said, are_posted, strict=False):
        put(database, number, is_final)
        waiting = queue.next("r")
        if is_posted and waiting is not None:
            posted.append((waiting.build_number, waiting.is_final))
            with database.transaction():
                queue.note_settled(waiting)
    while (waiting := queue.next("r")) is not None:
        posted.append((waiting.build_number, waiting.is_final))
        with database.transaction():
            queue.note_settled(waiting)
    database.close()
    assert posted == sorted(set(posted)), "each word once, in their order"
    assert posted[-1] == max(said)


def test_a_newer_word_that_comes_during_a_post_is_not_settled_by_it(database: Database) -> None:
    put(database, 1, is_final=False, text="pending")
    under_way = next_of(database)
    put(database, 1, is_final=True, text="final")
    with database.transaction():
        StatusQueue(database).note_settled(under_way)
    assert next_of(database).status.description == "final"


def test_a_failure_of_an_older_word_does_not_delay_a_newer_one(database: Database) -> None:
    put(database, 1, is_final=False)
    under_way = next_of(database)
    put(database, 1, is_final=True)
    with database.transaction():
        StatusQueue(database).note_later(under_way, 1e9)
    assert next_of(database).not_before == 0.0


def test_attempts_are_counted_and_start_anew_with_a_new_word(database: Database) -> None:
    put(database, 1, is_final=False)
    for _ in range(3):
        with database.transaction():
            StatusQueue(database).note_later(next_of(database), 5.0)
    assert (next_of(database).attempts, next_of(database).not_before) == (3, 5.0)
    put(database, 1, is_final=True)
    assert next_of(database).attempts == 0


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path, bytes(32), "client")
    put(database, 1, is_final=True, text="kept")
    database.close()
    database = Database(tmp_path, bytes(32), "client")
    assert next_of(database).status == status("kept")
    database.close()


def test_what_waits_for_approval_takes_back_no_final_word(database: Database) -> None:
    """Anybody can ask for that: a required check would be open again, for as long as they like."""
    queue = StatusQueue(database)

    def put_waiting(number: int) -> bool:
        said = status("waits for approval")
        with database.transaction():
            return queue.put("r", number, said, is_final=False, now=1.0, is_waiting=True)

    assert put_waiting(1)
    assert put_waiting(2)
    put(database, 2, is_final=True, text="green")
    assert not put_waiting(3)
    assert next_of(database).status.description == "green"
    put(database, 3, is_final=True, text="red")
    assert next_of(database).status.description == "red", "its verdict is a newer word"


def test_repositories_and_contexts_are_apart(database: Database) -> None:
    queue = StatusQueue(database)
    with database.transaction():
        queue.put("a", 1, status(), is_final=True, now=1.0)
        queue.put("b", 1, status(), is_final=True, now=1.0)
        queue.put("b", 1, status(context="pbft-ci/node0"), is_final=True, now=1.0)
    assert queue.count() == 3
    assert next_of(database, "a").repository == "a"
    assert queue.next("c") is None


def test_the_queue_is_bounded_and_keeps_the_newest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "WAITING_MAX", 3)
    monkeypatch.setattr(queue_module, "SETTLED_KEPT", 2)
    queue = StatusQueue(database)
    for number in range(6):
        with database.transaction():
            queue.put("r", number, status(commit=f"{number:040x}"), is_final=True, now=number)
    assert queue.count() == 3
    left = []
    while (waiting := queue.next("r")) is not None:
        left.append(waiting.build_number)
        with database.transaction():
            queue.note_settled(waiting)
    assert left == [3, 4, 5]
    assert database.row("SELECT count(*) FROM statuses") == (2,)
