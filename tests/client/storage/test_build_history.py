"""client.storage.build_history and commit_archive: builds beside each other, and their commits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.operations import Event
from client.storage.archive import Archive
from client.storage.build_request import BuildRequest
from client.storage.database import Database
from common.forge_words import ForgeWords
from common.git_commits import CommitFacts

URL = "https://example.org/r.git"


class Kept:
    """A gateway's archive with builds of given outcomes."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder, bytes(32), "gateway")
        self.archive = Archive(self.database, folder)
        self.history = self.archive.history
        self._count = 0

    def add(self, outcome: str, request: BuildRequest | None = None) -> bytes:
        """The id of a new build with that outcome."""
        self._count += 1
        build = self._count.to_bytes(32)
        statement = b'{"predicate":{"pbftci_verdict":{"outcome":"%s"}}}' % outcome.encode()
        with self.database.transaction():
            request = request or BuildRequest(URL, "main", commit="a" * 40)
            self.archive.add(build, request, float(self._count))
            if outcome != "queued":
                self.archive.note_decided(build, statement, float(self._count))
        return build

    def since(self, build: bytes) -> tuple[int | None, int | None, int]:
        """The numbers of the last green build and the first red one; how many are red."""
        record = self.archive.get(build)
        assert record is not None
        found = self.history.since(record.line, record.number)
        return found.green, found.red, found.reds


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.database.close()


def test_the_last_green_and_the_first_red_since(kept: Kept) -> None:
    green = kept.add("passed")
    assert kept.since(green) == (None, None, 0)
    first = kept.add("failed")
    assert kept.since(first) == (1, 2, 1)
    for outcome in ("cancelled", "skipped", "disputed", "queued"):
        kept.add(outcome)
    last = kept.add("timed_out")
    assert kept.since(last) == (1, 2, 3)
    # what came later changes nothing
    again = kept.add("passed")
    assert kept.since(last) == (1, 2, 3)
    assert kept.since(again) == (1, 2, 3)
    assert kept.since(kept.add("failed")) == (8, 9, 1)


def test_another_branch_event_or_request_is_another_history(kept: Kept) -> None:
    kept.add("passed")
    for request in (
        BuildRequest(URL, "other"),
        BuildRequest("https://example.org/other.git", "main"),
        BuildRequest(URL, "main", event=Event.PULL_REQUEST, ref="refs/pull/1/head"),
    ):
        assert kept.since(kept.add("failed", request))[0] is None
    one, other = (
        BuildRequest(URL, "main", event=Event.PULL_REQUEST, ref=f"refs/pull/{number}/head")
        for number in (1, 2)
    )
    passed = kept.archive.get(kept.add("passed", one))
    assert passed is not None
    assert kept.since(kept.add("failed", one))[0] == passed.number
    assert kept.since(kept.add("failed", other))[0] is None


def test_builds_of_one_commit_are_counted(kept: Kept) -> None:
    for outcome in ("failed", "passed", "failed", "queued"):
        kept.add(outcome)
    kept.add("failed", BuildRequest(URL, "main", commit="b" * 40))
    kept.add("failed", BuildRequest("https://example.org/fork.git", "main", commit="a" * 40))
    assert kept.history.of_commit(URL, "a" * 40) == {"failed": 2, "passed": 1, "queued": 1}


def test_commits_and_words_go_with_the_last_build_that_has_them(kept: Kept) -> None:
    words = ForgeWords("ada", 7, "Fix it")
    old = kept.add("passed", BuildRequest(URL, "main", commit="a" * 40, words=words))
    new = kept.add("passed")
    shared, newest = (CommitFacts(c * 40, ("d" * 40,), "s", "Ada", 1, 2) for c in "ab")
    commits = kept.archive.commits
    with kept.database.transaction():
        commits.add([shared], 1)
        commits.add([newest, shared], 2)
        commits.add([shared], 1)
    assert commits.get("a" * 40) == shared
    assert commits.words(old) == words
    assert commits.words(new) == ForgeWords()
    with kept.database.transaction():
        kept.archive.remove(old)
    assert commits.get("a" * 40) == shared
    assert commits.words(old) == ForgeWords()
    with kept.database.transaction():
        kept.archive.remove(new)
    assert commits.get("a" * 40) is None
