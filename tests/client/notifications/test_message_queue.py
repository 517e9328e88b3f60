"""client.notifications.message_queue: a row for a target and build, until it is sent."""

import msgspec

from client.notifications.message_queue import MessageQueue
from client.storage.database import Database
from tests.client.notifications.test_message import message


def test_a_target_is_told_once_of_a_build(database: Database) -> None:
    queue = MessageQueue(database)
    with database.transaction():
        assert queue.put("a", message(), 1.0)
        assert not queue.put("a", message("other"), 2.0)
        assert queue.put("b", message(), 2.0)
    waiting = queue.next("a")
    assert waiting is not None
    assert (waiting.message, waiting.since, waiting.attempts) == (message(), 1.0, 0)
    other = queue.next("b")
    assert other is not None
    assert other.identity != waiting.identity
    with database.transaction():
        queue.note_settled(waiting)
        assert not queue.put("a", message(), 3.0)
    assert queue.next("a") is None
    assert queue.count() == 1


def test_what_fails_gives_way_and_keeps_its_identity(database: Database) -> None:
    queue = MessageQueue(database)
    second = msgspec.structs.replace(message(), build="d" * 64)
    with database.transaction():
        queue.put("a", message(), 1.0)
        queue.put("a", second, 2.0)
        first = queue.next("a")
        assert first is not None
        queue.note_later(first, 50.0)
    following = queue.next("a")
    assert following is not None
    assert following.message == second
    with database.transaction():
        queue.note_settled(following, "given up")
    again = queue.next("a")
    assert again is not None
    assert (again.identity, again.attempts, again.not_before) == (first.identity, 1, 50.0)
    with database.transaction():
        queue.settle_all("restored")
    assert queue.next("a") is None
