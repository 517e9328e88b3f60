"""Up to when each schedule is dealt with, in minutes since 1970."""

from client.storage.database import Database

# repository, branch, name
Key = tuple[str, str, str]


class DueTimes:
    """The table of one gateway. A schedule that is no longer configured stays: it is one row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self, key: Key) -> int | None:
        """The last time that was dealt with; None: the schedule is new. Raises StorageFailed."""
        found = self._database.row(
            "SELECT due FROM schedules WHERE repository = ? AND branch = ? AND name = ?", key
        )
        return None if found is None else int(found[0])

    def note(self, key: Key, minute: int) -> None:
        """That time is dealt with. Call it inside a transaction."""
        self._database.write(
            "INSERT INTO schedules VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET due = excluded.due",
            (*key, minute),
        )
