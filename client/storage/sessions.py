"""Sessions of people who logged in, which survive a restart.

A session's id is 32 random bytes that the browser alone keeps; here is their SHA-256. So whoever
reads this file, or a backup of it, cannot pose as anybody.
"""

import hashlib

from client.storage.database import Database

SESSIONS_MAX = 10_000
# Of one person: the oldest ends when there is one more.
SESSIONS_PER_PERSON_MAX = 20


class Sessions:
    """Those of one gateway. All methods but `person` are called inside `Database.transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, session: bytes, subject: str, person: bytes, *, now: float, seconds: float
    ) -> None:
        """Begin one. person: as client.login.people encodes them; subject: whose it is."""
        write = self._database.write
        write("DELETE FROM sessions WHERE ends_at <= ?", (now,))
        # the newest stay, one fewer than there may be
        write(
            "DELETE FROM sessions WHERE digest IN (SELECT digest FROM sessions WHERE subject = ? "
            "ORDER BY began_at DESC LIMIT -1 OFFSET ?)",
            (subject, SESSIONS_PER_PERSON_MAX - 1),
        )
        write(
            "DELETE FROM sessions WHERE digest IN (SELECT digest FROM sessions "
            "ORDER BY ends_at DESC LIMIT -1 OFFSET ?)",
            (SESSIONS_MAX - 1,),
        )
        write(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
            (_digest(session), subject, person, now, now + seconds),
        )

    def person(self, session: bytes, now: float) -> bytes | None:
        """Whose session that is; None: it is none, or it has ended. Raises StorageFailed."""
        row = self._database.row(
            "SELECT person FROM sessions WHERE digest = ? AND ends_at > ?", (_digest(session), now)
        )
        return None if row is None else bytes(row[0])

    def end(self, session: bytes) -> None:
        """End that session."""
        self._database.write("DELETE FROM sessions WHERE digest = ?", (_digest(session),))

    def end_all(self, subject: str) -> int:
        """End all sessions of that person; how many there were."""
        return self._database.write("DELETE FROM sessions WHERE subject = ?", (subject,))


def _digest(session: bytes) -> bytes:
    return hashlib.sha256(session).digest()
