"""Which builds of the same branch came before one, and which are of the same commit."""

import msgspec

from ci.operations import Event, Outcome
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


class Line(msgspec.Struct, frozen=True):
    """What builds have in common that follow each other: a branch, a request, a schedule, a tag."""

    repository: str
    branch: str
    event: Event
    ref: str | None


class Since(msgspec.Struct, frozen=True):
    """What came before a build on its line, as the numbers of builds; None: there is none.

    green: the last one that passed; red: the first after that which did not, the build itself
    included; reds: how many of them there are up to the build.
    """

    green: int | None
    red: int | None
    reds: int


class BuildHistory:
    """Looks builds up beside each other; nothing of it is written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def since(self, line: Line, number: int) -> Since:
        """What came before the build of that number. Raises StorageFailed."""
        of_branch = msgspec.structs.astuple(line)
        row = self._database.row(
            f"SELECT max(number) FROM builds WHERE {_OF_BRANCH} AND state = ? AND number < ?",  # noqa: S608 - constants only
            (*of_branch, Outcome.PASSED, number),
        )
        green = None if row is None or row[0] is None else int(row[0])
        row = self._database.row(
            f"SELECT min(number), count(*) FROM builds WHERE {_OF_BRANCH} AND {_IS_RED} "  # noqa: S608 - constants only
            "AND number > ? AND number <= ?",
            (*of_branch, *RED, green or 0, number),
        )
        red, reds = (None, 0) if row is None else row
        return Since(green, red, reds)

    def of_commit(self, repository: str, commit: str) -> dict[str, int]:
        """How many builds of that commit are listed under each outcome. Raises StorageFailed."""
        rows = self._database.rows(
            "SELECT state, count(*) FROM builds INDEXED BY builds_of_commit WHERE commit_hex = ? "
            "AND repository = ? GROUP BY state ORDER BY count(*) DESC, state",
            (commit, repository),
        )
        return {str(state): int(count) for state, count in rows}
