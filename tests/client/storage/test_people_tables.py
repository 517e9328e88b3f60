"""client.storage.sessions and client.storage.audit: what is kept of people, and how much."""

import pytest

from client.storage import audit as audit_module
from client.storage import sessions as sessions_module
from client.storage.audit import Actor, Audit
from client.storage.database import Database
from client.storage.sessions import SESSIONS_PER_PERSON_MAX, Sessions

ANA = Actor("ana", "gitea", "ana")


def begin(database: Database, session: bytes, subject: str = "1", now: float = 0.0) -> None:
    with database.transaction():
        Sessions(database).add(session, subject, b"person", now=now, seconds=100)


def test_a_session_ends_at_its_time(database: Database) -> None:
    begin(database, b"s")
    sessions = Sessions(database)
    assert sessions.person(b"s", 99.0) == b"person"
    assert sessions.person(b"s", 100.0) is None
    assert sessions.person(b"t", 1.0) is None
    begin(database, b"t", now=100.0)
    assert database.rows("SELECT count(*) FROM sessions") == [(1,)]


def test_a_person_has_so_many_sessions_and_the_oldest_ends(database: Database) -> None:
    for number in range(SESSIONS_PER_PERSON_MAX + 2):
        begin(database, bytes([number]), now=float(number))
    begin(database, b"other", "2", now=50.0)
    sessions = Sessions(database)
    held = [n for n in range(SESSIONS_PER_PERSON_MAX + 2) if sessions.person(bytes([n]), 60.0)]
    assert held == list(range(2, SESSIONS_PER_PERSON_MAX + 2))
    with database.transaction():
        assert sessions.end_all("1") == SESSIONS_PER_PERSON_MAX
    assert sessions.person(b"other", 60.0) is not None


def test_all_sessions_have_a_bound(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 3)
    for number in range(5):
        begin(database, bytes([number]), str(number), now=float(number))
    assert database.rows("SELECT count(*) FROM sessions") == [(3,)]
    assert Sessions(database).person(bytes([4]), 5.0) is not None


def test_events_are_read_from_the_newest_on_and_have_a_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "EVENTS_MAX", 4)
    audit = Audit(database)
    with database.transaction():
        for number in range(6):
            build = bytes([number % 2]) * 32
            audit.note("note", ANA, at=float(number), build=build, text="x" * 2000)
    events = audit.page(None, 2)
    assert [event.at for event in events] == [5.0, 4.0]
    assert len(events[0].text) == audit_module.TEXT_CHARACTERS_MAX
    assert [event.at for event in audit.page(events[-1].number, 9)] == [3.0, 2.0]
    assert [event.at for event in audit.page(None, 9, bytes(32))] == [4.0, 2.0]
