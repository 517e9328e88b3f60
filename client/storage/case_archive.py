"""What builds saw of their test cases, by repository, and how each case stands (ci.flaky).

The rule: only what is not healthy costs rows. A build has a row for each case that did not pass
everywhere, and one row for all others together. A repository has rows of at most
OBSERVATIONS_MAX observations and CASES_MAX cases; what was seen longest ago goes first.

Every method that changes rows must be called inside `Database.transaction`.
"""

from collections.abc import Iterable, Mapping

import msgspec

from ci.case_results import case_sha256
from ci.flaky import (
    WINDOW_BUILDS_MAX,
    WINDOW_SECONDS,
    CaseObservation,
    CaseStanding,
    CaseState,
    SeenBuild,
    standings,
)
from client.storage.database import Database

CASES_MAX = 1000
OBSERVATIONS_MAX = 20_000

_seen_build = msgspec.msgpack.Decoder(SeenBuild)
_observation = msgspec.msgpack.Decoder(CaseObservation)
_standing = msgspec.msgpack.Decoder(CaseStanding)


class CaseRecord(msgspec.Struct, frozen=True):
    """A case of a repository, and how it stands. number: the order in which cases came."""

    number: int
    repository: str
    name: str
    standing: CaseStanding

    @property
    def sha256(self) -> str:
        """Of its id, by which addresses name it."""
        return case_sha256(self.name)


class CasePlace(msgspec.Struct, frozen=True):
    """Where a page of cases ended."""

    score: float
    number: int


class SeenCase(msgspec.Struct, frozen=True):
    """What one build saw of one case. number: of the build. None: it says nothing of it."""

    number: int
    build: SeenBuild
    observation: CaseObservation | None


class CaseArchive:
    """Observations of the newest builds of each repository, and what follows from them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, number: int, repository: str, build: SeenBuild) -> None:
        """Keep what the build of that number saw, in place of what is kept of it."""
        bare = msgspec.structs.replace(build, seen=msgspec.structs.replace(build.seen, cases={}))
        self._database.write(
            "INSERT OR REPLACE INTO test_builds VALUES (?, ?, ?)",
            (number, repository, msgspec.msgpack.encode(bare)),
        )
        self._database.write("DELETE FROM test_observations WHERE build = ?", (number,))
        for case, observation in build.seen.cases.items():
            self._database.write(
                "INSERT OR REPLACE INTO test_observations VALUES (?, ?, ?)",
                (self._case_number(repository, case), number, msgspec.msgpack.encode(observation)),
            )

    def update(self, repository: str, faults_max: int, now: float) -> None:
        """Forget what is too old or too much, and say anew how each case stands.

        faults_max: of the cluster. now: seconds since 1970.
        """
        self._forget_builds(repository, now)
        builds = self._builds(repository)
        found = standings(builds, faults_max, now)
        newest_first = sorted(found, key=lambda case: -found[case].last_at)
        kept = {case: found[case] for case in newest_first[:CASES_MAX]}
        for number, name, old in self._database.rows(
            "SELECT number, name, standing FROM test_cases WHERE repository = ?", (repository,)
        ):
            standing = kept.get(name)
            if standing is None:
                self._database.write("DELETE FROM test_observations WHERE test_case = ?", (number,))
                self._database.write("DELETE FROM test_cases WHERE number = ?", (number,))
            elif (new := msgspec.msgpack.encode(standing)) != old:
                self._database.write(
                    "UPDATE test_cases SET state = ?, score = ?, standing = ? WHERE number = ?",
                    (standing.state, standing.score, new, number),
                )

    def remove(self, number: int) -> None:
        """Forget what the build of that number saw; `update` says later what follows from it."""
        self._database.write("DELETE FROM test_observations WHERE build = ?", (number,))
        self._database.write("DELETE FROM test_builds WHERE number = ?", (number,))

    def repositories(self, repositories_max: int) -> list[str]:
        """The repositories with builds that saw cases, in the order of their names."""
        # One look into the index per repository, however many builds each has.
        rows = self._database.rows(
            "WITH RECURSIVE found (name) AS (SELECT min(repository) FROM test_builds UNION ALL "
            "SELECT (SELECT min(repository) FROM test_builds WHERE repository > name) FROM found "
            "WHERE name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL LIMIT ?",
            (repositories_max,),
        )
        return [str(row[0]) for row in rows]

    def page(
        self,
        repository: str,
        state: CaseState | None,
        *,
        after: CasePlace | None,
        cases_max: int,
    ) -> list[CaseRecord]:
        """The cases with the highest scores. state: None for all that are not healthy."""
        condition, values = "WHERE repository = ? AND ", [repository]
        if state is None:
            condition += "state <> 'healthy'"
        else:
            condition += "state = ?"
            values.append(state)
        if after is not None:
            condition += " AND (score, number) < (?, ?)"
        return self._select(
            f"{condition} ORDER BY score DESC, number DESC LIMIT ?",
            (*values, *(() if after is None else (after.score, after.number)), cases_max),
        )

    def find(self, sha256: str, repository: str | None = None) -> list[CaseRecord]:
        """The cases whose id has this SHA-256 (hex): one of each repository that has it."""
        condition = "WHERE sha256 = ?" + ("" if repository is None else " AND repository = ?")
        values = (bytes.fromhex(sha256), *(() if repository is None else (repository,)))
        return self._select(f"{condition} ORDER BY number DESC", values)

    def standings_of(self, repository: str, cases: Iterable[str]) -> dict[str, CaseStanding]:
        """How these cases stand, as far as they are known."""
        found = {}
        for case in cases:
            for record in self.find(case_sha256(case), repository):
                found[case] = record.standing
        return found

    def seen(self, record: CaseRecord) -> list[SeenCase]:
        """What the builds of its repository saw of a case, the newest first."""
        rows = self._database.rows(
            "SELECT build, seen FROM test_observations WHERE test_case = ?", (record.number,)
        )
        observations = {int(build): _observation.decode(seen) for build, seen in rows}
        builds = {
            int(number): _seen_build.decode(seen)
            for number, seen in self._database.rows(
                "SELECT number, seen FROM test_builds WHERE repository = ? ORDER BY number DESC "
                "LIMIT ?",
                (record.repository, WINDOW_BUILDS_MAX),
            )
        }
        sets = {builds[number].seen.set_sha256 for number in observations if number in builds}
        return [
            SeenCase(number, build, observations.get(number) or _passed(build, sets))
            for number, build in builds.items()
        ]

    def newest_build(self, repository: str) -> int | None:
        """The number of the newest build of a repository that reported tests, or None."""
        found = self._database.row(
            "SELECT max(number) FROM test_builds WHERE repository = ?", (repository,)
        )
        return None if found is None or found[0] is None else int(found[0])

    def counts(self) -> Mapping[str, int]:
        """How many cases are in each state, of all that are kept."""
        rows = self._database.rows("SELECT state, count FROM test_counts")
        return {**dict.fromkeys(CaseState, 0), **{str(state): int(n) for state, n in rows}}

    def _case_number(self, repository: str, case: str) -> int:
        key = (bytes.fromhex(case_sha256(case)), repository)
        found = self._database.row(
            "SELECT number FROM test_cases WHERE sha256 = ? AND repository = ?", key
        )
        if found is None:
            self._database.write(
                "INSERT INTO test_cases (sha256, repository, name, state, score, standing) "
                "VALUES (?, ?, ?, ?, 0, x'')",
                (*key, case, CaseState.HEALTHY),
            )
            found = self._database.row("SELECT last_insert_rowid()")
        assert found is not None
        return int(found[0])

    def _forget_builds(self, repository: str, now: float) -> None:
        rows = self._database.rows(
            "SELECT number, seen, (SELECT count(*) FROM test_observations WHERE build = number) "
            "FROM test_builds WHERE repository = ? ORDER BY number DESC",
            (repository,),
        )
        observations = 0
        for index, (number, seen, count) in enumerate(rows):
            observations += int(count)
            is_too_old = now - _seen_build.decode(seen).at > WINDOW_SECONDS
            is_too_much = index >= WINDOW_BUILDS_MAX or (index and observations > OBSERVATIONS_MAX)
            if is_too_old or is_too_much:
                self.remove(number)

    def _builds(self, repository: str) -> list[SeenBuild]:
        """All that is kept of a repository, oldest first."""
        cases: dict[int, dict[str, CaseObservation]] = {}
        for name, build_number, data in self._database.rows(
            "SELECT name, build, seen FROM test_cases JOIN test_observations "
            "ON test_case = test_cases.number WHERE repository = ?",
            (repository,),
        ):
            cases.setdefault(int(build_number), {})[str(name)] = _observation.decode(data)
        builds = []
        for number, data in self._database.rows(
            "SELECT number, seen FROM test_builds WHERE repository = ? ORDER BY number",
            (repository,),
        ):
            build = _seen_build.decode(data)
            seen = msgspec.structs.replace(build.seen, cases=cases.get(int(number), {}))
            builds.append(msgspec.structs.replace(build, seen=seen))
        return builds

    def _select(self, condition: str, values: tuple[object, ...]) -> list[CaseRecord]:
        # A case that was added and not judged yet (the rest of its transaction failed) has no
        # standing; it cannot be read before that transaction is over.
        rows = self._database.rows(
            f"SELECT number, repository, name, standing FROM test_cases {condition}",  # noqa: S608 - constants only
            values,
        )
        return [
            CaseRecord(int(number), repository, name, _standing.decode(standing))
            for number, repository, name, standing in rows
        ]


def _passed(build: SeenBuild, sets: set[str | None]) -> CaseObservation | None:
    """What a build saw of a case that it does not name, and that is in these sets of cases."""
    seen = build.seen
    if seen.set_sha256 is None or seen.set_sha256 not in sets:
        return None
    return CaseObservation((), (), seen.uncut)
