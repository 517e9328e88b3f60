"""Who changed what, and when: the newest events, in the gateway's database.

It is this gateway's own record. What changes a build is in the ledger, too, with the person's name
(`ci.ledger`): there nobody can remove it.
"""

import msgspec

from client.storage.database import Database

EVENTS_MAX = 20_000
TEXT_CHARACTERS_MAX = 1000


class Actor(msgspec.Struct, frozen=True):
    """Who asks for a change.

    name: of the person, or what there is in place of one; vouched: by whose word it is so.
    person: whom the ordered operation names; None: nobody is known by name.
    """

    name: str
    vouched: str
    person: str | None = None


class AuditEvent(msgspec.Struct, frozen=True):
    """One event. at: seconds since 1970, UTC, by this machine. build: of a change of one."""

    number: int
    at: float
    what: str
    who: str
    vouched: str
    build: bytes | None
    text: str


class Audit:
    """The events of one gateway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self, what: str, actor: Actor, *, at: float, build: bytes | None = None, text: str = ""
    ) -> None:
        """Keep one event; the oldest beyond the most go. Inside `Database.transaction`."""
        self._database.write(
            "INSERT INTO audit (at, what, who, vouched, build, text) VALUES (?, ?, ?, ?, ?, ?)",
            (at, what, actor.name, actor.vouched, build, text[:TEXT_CHARACTERS_MAX]),
            build=build,
        )
        self._database.write(
            "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", (EVENTS_MAX,)
        )

    def page(
        self, before: int | None, events_max: int, build: bytes | None = None
    ) -> list[AuditEvent]:
        """The newest events with a number below `before` (None: of all). Raises StorageFailed.

        build: those about it alone.
        """
        rows = self._database.rows(
            "SELECT number, at, what, who, vouched, build, text FROM audit "
            "WHERE (?1 IS NULL OR number < ?1) AND (?2 IS NULL OR build = ?2) "
            "ORDER BY number DESC LIMIT ?3",
            (before, build, events_max),
        )
        return [AuditEvent(*row) for row in rows]
