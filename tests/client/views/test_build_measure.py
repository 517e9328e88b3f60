"""client.views.build_measure, .storage.build_measures and .gateway.measuring: the rows of plots."""

from pathlib import Path

import msgspec
import pytest

from ci.operations import Ballot
from client.gateway.measuring import MissingMeasures, measure
from client.storage.archive import Archive
from client.storage.build_measures import BuildMeasure
from client.storage.build_request import BuildRequest
from client.storage.database import Database
from client.views.build_measure import measure_of
from tests.ci.builders import ABSTAIN, COMMIT, FAILED, PASSED
from tests.client.views.test_build_view import decided, record

MEASURE = BuildMeasure(1, "r", "passed", 20.0, 2.0, 0.357, 3, 1, 0)


@pytest.mark.parametrize(
    ("ballots", "expected"),
    [
        ([PASSED, PASSED, PASSED, FAILED], MEASURE),
        (
            [PASSED, PASSED, PASSED, ABSTAIN],
            msgspec.structs.replace(MEASURE, dissenting=0, abstained=1),
        ),
        (
            [PASSED, FAILED, ABSTAIN, ABSTAIN],
            msgspec.structs.replace(
                MEASURE, outcome="disputed", built_seconds=None, agreeing=0, dissenting=0,
                abstained=2,
            ),
        ),
    ],
)  # fmt: skip
def test_a_build_in_numbers(ballots: list[Ballot], expected: BuildMeasure) -> None:
    _, _, statement, records = decided(ballots)
    one = record(statement=statement, received_at=10.0, opened_at=12.0, decided_at=20.0)
    assert measure_of(one, records) == msgspec.structs.replace(expected, repository=one.repository)


def test_what_has_no_verdict_has_no_measure() -> None:
    assert measure_of(record(refused="no", decided_at=1.0), []) is None


class TestRows:
    @pytest.fixture(autouse=True)
    def _archive(self, database: Database, tmp_path: Path) -> None:
        self.database = database
        self.archive = Archive(database, tmp_path)
        _, _, statement, _ = decided([PASSED] * 4)
        with database.transaction():
            for number in range(1, 5):
                build = number.to_bytes(32, "big")
                wanted = BuildRequest(f"r{number % 2}", "b", COMMIT)
                self.archive.add(build, wanted, 10.0 * number)
                if number != 3:
                    self.archive.note_decided(build, statement, 10.0 * number + 1)
                if number < 3:
                    self.archive.note_collected(build)
            self.archive.note_skipped((3).to_bytes(32, "big"), "[skip ci]")

    def numbers(self, **asked: object) -> list[int]:
        found = self.archive.measures.newest(9, **asked)  # type: ignore[arg-type]
        return [measure.number for measure in found]

    async def test_what_is_missing_is_made_once(self) -> None:
        assert self.archive.measures.missing() == [4, 3, 2, 1]
        await MissingMeasures(self.database, self.archive).make()
        assert self.numbers() == [2, 1]
        # one is not collected yet, and one has no verdict: both are looked at again
        assert self.archive.measures.missing() == [4, 3]
        with self.database.transaction():
            self.archive.note_collected((4).to_bytes(32, "big"))
            measure(self.archive, (4).to_bytes(32, "big"))
        assert self.numbers() == [4, 2, 1]
        assert self.numbers(repository="r1") == [1]
        assert self.numbers(since=21.0) == [4, 2]
        assert [one.number for one in self.archive.measures.newest(1)] == [4]

    async def test_a_row_goes_with_its_build(self) -> None:
        await MissingMeasures(self.database, self.archive).make()
        with self.database.transaction():
            self.archive.remove((2).to_bytes(32, "big"))
        assert self.numbers() == [1]
