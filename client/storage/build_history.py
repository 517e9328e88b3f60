"""Which builds of the same branch came before one, and which are of the same commit."""

import msgspec

from ci.operations import Outcome
from client.storage.archive import Archive, BuildRecord
from client.storage.database import Database

# Of what was built and did not pass. Nobody learns of a commit from one that was cancelled or
# skipped.
RED = tuple(
    outcome
    for outcome in Outcome
    if outcome not in (Outcome.PASSED, Outcome.SKIPPED, Outcome.CANCELLED)
)
_OF_BRANCH = "repository = ? AND branch = ? AND event = ? AND ref IS ?"
_IS_RED = f"state IN ({', '.join('?' * len(RED))})"


class Since(msgspec.Struct, frozen=True):
    """What came before a build, of the same branch, request or schedule.

    green: the last one that passed; red: the first after that which did not, the build itself
    included; reds: how many of them there are up to the build.
    """

    green: BuildRecord | None
    red: BuildRecord | None
    reds: int


class BuildHistory:
    """Looks builds up beside each other; nothing of it is written."""

    def __init__(self, database: Database, archive: Archive) -> None:
        self._database = database
        self._archive = archive

    def since(self, record: BuildRecord) -> Since:
        """What came before that build. Raises StorageFailed."""
        of_branch = (record.repository, record.branch, record.event, record.ref)
        row = self._database.row(
            f"SELECT max(number) FROM builds WHERE {_OF_BRANCH} AND state = ? AND number < ?",  # noqa: S608 - constants only
            (*of_branch, Outcome.PASSED, record.number),
        )
        green = None if row is None or row[0] is None else int(row[0])
        row = self._database.row(
            f"SELECT min(number), count(*) FROM builds WHERE {_OF_BRANCH} AND {_IS_RED} "  # noqa: S608 - constants only
            "AND number > ? AND number <= ?",
            (*of_branch, *RED, green or 0, record.number),
        )
        red, reds = (None, 0) if row is None else row
        return Since(self._by_number(green), self._by_number(red), reds)

    def of_commit(self, repository: str, commit: str) -> dict[str, int]:
        """How many builds of that commit are listed under each outcome. Raises StorageFailed."""
        rows = self._database.rows(
            "SELECT state, count(*) FROM builds INDEXED BY builds_of_commit WHERE commit_hex = ? "
            "AND repository = ? GROUP BY state ORDER BY count(*) DESC, state",
            (commit, repository),
        )
        return {str(state): int(count) for state, count in rows}

    def _by_number(self, number: int | None) -> BuildRecord | None:
        return None if number is None else self._archive.by_number(number)
