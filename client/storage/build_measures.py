"""What the plots need of each finished build, in one small row, so that nobody decodes ballots
for them.

A row says nothing that the build's record and ballots do not say. It is written when nothing more
is waited for, and is made again where it is missing (client.gateway.measuring).

Every method that changes rows must be called inside `Database.transaction`.
"""

from typing import Any

import msgspec

from client.storage.database import Database

_COLUMNS = (
    "number, repository, outcome, decided_at, queued_seconds, built_seconds, "
    "agreeing, dissenting, abstained"
)
# Places for values: one for each column.
_PLACES = ", ".join("?" * len(_COLUMNS.split(", ")))


class BuildMeasure(msgspec.Struct, frozen=True, array_like=True):
    """One finished build. decided_at: seconds since 1970.

    queued_seconds: from the webhook until the replicas had agreed to build. built_seconds: checkout
    and steps on the slowest replica that agrees; None: none agrees. Then how many replicas stood
    to the verdict in which way.
    """

    number: int
    repository: str
    outcome: str
    decided_at: float
    queued_seconds: float
    built_seconds: float | None
    agreeing: int
    dissenting: int
    abstained: int


class BuildMeasures:
    """The rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, measure: BuildMeasure) -> None:
        """Keep a build's row; it replaces an earlier one."""
        self._database.write(
            f"INSERT OR REPLACE INTO build_measures ({_COLUMNS}) VALUES ({_PLACES})",  # noqa: S608 - constants only
            msgspec.structs.astuple(measure),
        )

    def remove(self, number: int) -> None:
        """Forget a build's row."""
        self._database.write("DELETE FROM build_measures WHERE number = ?", (number,))

    def newest(
        self, measures_max: int, *, since: float = 0.0, repository: str | None = None
    ) -> list[BuildMeasure]:
        """Of the builds decided since then (of that repository alone), the newest first."""
        condition, values = "decided_at >= ?", [since]
        of_one: tuple[Any, ...] = () if repository is None else (repository,)
        if of_one:
            condition += " AND repository = ?"
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM build_measures WHERE {condition} "  # noqa: S608 - constants only
            "ORDER BY number DESC LIMIT ?",
            (*values, *of_one, measures_max),
        )
        return [BuildMeasure(*row) for row in rows]

    def missing(self) -> list[int]:
        """The numbers of the finished builds that have a verdict and no row, the newest first."""
        # `state` and `number` are in an index: no look at a row for those that are measured.
        rows = self._database.rows(
            "SELECT builds.number FROM builds LEFT JOIN build_measures USING (number) "
            "WHERE build_measures.number IS NULL AND state NOT IN ('queued', 'building', 'refused')"
            " ORDER BY builds.number DESC"
        )
        return [int(row[0]) for row in rows]
