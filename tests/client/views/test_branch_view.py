"""client.views.branch_view: since when a branch passes or does not, how often, and how long."""

from pathlib import Path

import pytest

from ci.operations import Ballot, Event
from client.gateway.measuring import MissingMeasures
from client.storage.archive import Archive, BuildRecord
from client.storage.build_request import BuildRequest
from client.storage.database import Database
from client.views.branch_view import NEWEST_MAX, branch_view
from client.views.build_view import iso_time
from client.views.plots import run
from tests.ci.builders import COMMIT, FAILED, PASSED
from tests.client.views.test_build_view import decided

OUTCOMES: dict[str, list[Ballot]] = {"passed": [PASSED] * 4, "failed": [FAILED] * 4}


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Archive:
    return Archive(database, tmp_path)


def fill(archive: Archive, database: Database, outcomes: str, event: Event = Event.PUSH) -> None:
    """A build for each letter, the oldest first: p passed, f failed, q waits still."""
    first = archive.page(None, 1)[0].number if archive.page(None, 1) else 0
    with database.transaction():
        for number, letter in enumerate(outcomes, first + 1):
            build, at = number.to_bytes(32, "big"), 100.0 * number
            archive.add(build, BuildRequest("r", "b", COMMIT, event=event), at)
            if letter == "q":
                continue
            name = next(name for name in OUTCOMES if name.startswith(letter))
            _, _, statement, ballots = decided(OUTCOMES[name])
            archive.note_decided(build, statement, at + 5)
            for ballot in ballots:
                archive.put_ballot(build, ballot.replica, ballot.signed)
            archive.note_collected(build)


def newest(archive: Archive) -> BuildRecord:
    found = archive.newest_decided("r", "b")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("outcomes", "outcome", "first", "before"),
    [
        ("pppffq", "failed", 4, 3),
        ("fp", "passed", 2, 1),
        ("ff", "failed", 1, None),
        ("pfp", "passed", 3, 2),
    ],
)
def test_since_when(
    archive: Archive, database: Database, outcomes: str, outcome: str, first: int, before: int
) -> None:
    fill(archive, database, outcomes)
    since = branch_view(archive, newest(archive), outcome).since
    assert since is not None
    assert bytes.fromhex(since.build) == first.to_bytes(32, "big")
    assert since.at == iso_time(100.0 * first)
    assert since.before == (None if before is None else before.to_bytes(32, "big").hex())


def test_requests_into_the_branch_say_nothing_of_it(archive: Archive, database: Database) -> None:
    fill(archive, database, "p")
    fill(archive, database, "ff", Event.PULL_REQUEST)
    view = branch_view(archive, newest(archive), "passed")
    assert (view.builds, view.passed) == (1, 1)
    assert view.since is not None
    assert view.since.before is None


def test_what_was_cancelled_has_no_since(archive: Archive, database: Database) -> None:
    fill(archive, database, "p")
    assert branch_view(archive, newest(archive), "cancelled").since is None


async def test_the_newest_builds_with_their_times(archive: Archive, database: Database) -> None:
    fill(archive, database, "f" * 3 + "p" * NEWEST_MAX + "fq")
    before = branch_view(archive, newest(archive), "failed")
    assert (before.took, before.line) == (None, None), "nothing was measured"
    await MissingMeasures(database, archive).make()
    view = branch_view(archive, newest(archive), "failed")
    assert (view.builds, view.passed) == (NEWEST_MAX, NEWEST_MAX - 1)
    assert view.run == run([True] * (NEWEST_MAX - 1) + [False])
    assert view.took == "357 ms"
    assert view.line is not None
    assert view.line.text.startswith(f"{NEWEST_MAX} builds, all 357 ms")
